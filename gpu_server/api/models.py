"""Models over REST: what there is, what is live, promote, roll back, export, import, delete."""

import asyncio
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from emcopilot.errors import EMcopilotError, ModelError, StoreError
from emcopilot.messages import Problem
from emcopilot.model_messages import (
    MODEL_ID,
    ImportAnswer,
    ModelAnswer,
    ModelCardAnswer,
    PromoteRequest,
    PromotionAnswer,
    PromotionsAnswer,
    RollbackRequest,
)
from gpu_server import promotion_rows
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.services import Services, ServicesDep
from gpu_server.auth import Identity, require
from gpu_server.counting import frames_by_model
from gpu_server.model_archive import MAX_ARCHIVE_BYTES
from gpu_server.model_desk import ModelDesk
from gpu_server.model_files import CARD_FILE, UnfitModelError
from gpu_server.objections import NotSelectableError, judgement, objection
from gpu_server.promotion import (
    BusyError,
    NeedsOverrideError,
    NothingToUndoError,
)
from gpu_server.promotion_rows import Change
from gpu_server.recompute import FullError
from gpu_server.registry import InUseError, StoredModel

router = APIRouter(prefix="/api/v1", tags=["models"], responses=PROBLEM_RESPONSES)

ModelId = Annotated[str, InPath(pattern=rf"^{MODEL_ID}$")]
Operator = Annotated[Identity, Depends(require("operator"))]
Admin = Annotated[Identity, Depends(require("admin"))]


_REFUSALS: tuple[tuple[type[EMcopilotError], int, str, str], ...] = (
    (BusyError, 409, "Another promotion is under way", "wait for it, then look again"),
    (
        NeedsOverrideError,
        409,
        "The candidate needs an override",
        'send {"override": true, "reason": "..."}',
    ),
    (
        NotSelectableError,
        409,
        "The model cannot be selected",
        'promote it once yourself, or send {"selects": false}',
    ),
    (NothingToUndoError, 409, "Nothing to roll back", "promote the model you want"),
    (FullError, 409, "Too many sessions wait", "try again when one is done"),
    (InUseError, 409, "The model is needed", "promote another model first"),
    (UnfitModelError, 422, "Not a working model", "export it again, or use another"),
)


def desk(services: ServicesDep) -> ModelDesk:
    """Return the server's models.

    Raises
    ------
    ProblemError
        503 on a server without them.
    """
    if services.models is None:
        raise ProblemError(
            Problem(
                title="No models here",
                status=503,
                detail="this server was started without a registry of models",
            )
        )
    return services.models


DeskDep = Annotated[ModelDesk, Depends(desk)]


@router.get("/models")
def models(
    desk: DeskDep, deleted: Annotated[bool, Query()] = False
) -> list[ModelAnswer]:
    """List the models, the newest first; `deleted=true` brings those that are gone, too."""
    with desk.registry.database.read() as connection:
        rows = desk.registry.list(connection, deleted=deleted)
        known = _Known.read(desk, connection)
        return [_answer(desk, connection, row, known) for row in rows]


@router.get("/models/promotions")
def promotions(
    desk: DeskDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> PromotionsAnswer:
    """Tell what is live, how that came about, and what a roll back would bring."""
    with desk.registry.database.read() as connection:
        changes = promotion_rows.history(connection, limit)
        return PromotionsAnswer(
            live=desk.registry.live(connection),
            rollback_to=promotion_rows.model_to_return_to(connection),
            under_way=desk.promotion.doing,
            changes=[_change(one) for one in changes],
        )


@router.post("/models/rollback")
async def rollback(
    desk: DeskDep,
    who: Operator,
    request: Annotated[RollbackRequest | None, Body()] = None,
) -> PromotionAnswer:
    """Make the model live again that was so before the last promotion not yet undone."""
    wanted = request or RollbackRequest()
    try:
        change = await desk.promotion.rollback(who.name, reason=wanted.reason)
    except EMcopilotError as error:
        raise refused(error) from error
    return _change(change)


@router.post("/models/import")
async def import_model(
    services: ServicesDep, desk: DeskDep, who: Operator, request: Request
) -> ImportAnswer:
    """Import a model: the archive of `export` is the body. It must pass its self-test."""
    part = services.scratch_dir / f"{uuid.uuid4().hex}.part"
    try:
        await _receive(services, request, part)
        model_id = await desk.import_model(part, who.name)
    except EMcopilotError as error:
        raise refused(error) from error
    finally:
        part.unlink(missing_ok=True)
    services.publisher.announce()
    return ImportAnswer(model_id=model_id)


@router.get("/models/{model_id}")
def model(desk: DeskDep, model_id: ModelId) -> ModelCardAnswer:
    """Describe one model: where it comes from, what its card and its report say."""
    with desk.registry.database.read() as connection:
        row = desk.registry.find(connection, model_id)
        known = _answer(desk, connection, row, _Known.read(desk, connection, model_id))
    card = _json_of(desk, row, CARD_FILE)
    return ModelCardAnswer(
        **known.model_dump(), card=card, report=_json_of(desk, row, "report.json")
    )


@router.get("/models/{model_id}/card")
def card(desk: DeskDep, model_id: ModelId) -> dict[str, object]:
    """Return a model's card as it was written in training."""
    with desk.registry.database.read() as connection:
        row = desk.registry.find(connection, model_id)
    found = _json_of(desk, row, CARD_FILE)
    if found is None:
        raise ProblemError.not_found(f"the files of model {model_id} are gone")
    return found


@router.post("/models/{model_id}/promote")
async def promote(
    desk: DeskDep,
    who: Operator,
    model_id: ModelId,
    request: Annotated[PromoteRequest | None, Body()] = None,
) -> PromotionAnswer:
    """Make a model live; answers once frames go to it."""
    wanted = request or PromoteRequest()
    try:
        change = await desk.promotion.promote(
            model_id, who.name, override=wanted.override, reason=wanted.reason
        )
    except EMcopilotError as error:
        raise refused(error) from error
    return _change(change)


@router.post("/models/{model_id}/rollback")
async def rollback_from(
    desk: DeskDep,
    who: Operator,
    model_id: ModelId,
    request: Annotated[RollbackRequest | None, Body()] = None,
) -> PromotionAnswer:
    """Roll back, if this model is the live one."""
    with desk.registry.database.read() as connection:
        desk.registry.find(connection, model_id)
        live = desk.registry.live(connection)
    if live != model_id:
        raise ProblemError(
            Problem(
                title="The model is not live",
                status=409,
                detail=f"model {model_id} is not live",
                got=model_id,
                expected=live,
                do="nothing is left to undo for it; promote the model you want",
            )
        )
    return await rollback(desk, who, request)


@router.delete("/models/{model_id}")
async def delete(
    services: ServicesDep, desk: DeskDep, who: Admin, model_id: ModelId
) -> ModelAnswer:
    """Take a model's files away; its results stay and keep its name."""
    try:
        await asyncio.to_thread(desk.registry.delete, model_id, who.name)
    except InUseError as error:
        raise refused(error) from error
    services.publisher.announce()
    return await asyncio.to_thread(_one, desk, model_id)


@router.get("/models/{model_id}/export", response_class=FileResponse)
async def export(
    services: ServicesDep, desk: DeskDep, _who: Operator, model_id: ModelId
) -> FileResponse:
    """Return a model as one file, to import on another server."""
    services.scratch_dir.mkdir(parents=True, exist_ok=True)
    part = services.scratch_dir / f"{uuid.uuid4().hex}.zip.part"
    try:
        await desk.export_model(model_id, part)
    except EMcopilotError as error:
        part.unlink(missing_ok=True)
        raise refused(error) from error
    return FileResponse(
        part,
        media_type="application/zip",
        filename=f"{model_id}.zip",
        background=BackgroundTask(part.unlink, missing_ok=True),
    )


def refused(error: EMcopilotError) -> ProblemError | EMcopilotError:
    """Return what a route answers where models say no; other errors as they are."""
    for kind, status, title, remedy in _REFUSALS:
        if isinstance(error, kind):
            problem = Problem(title=title, status=status, detail=str(error), do=remedy)
            return ProblemError(problem)
    return error


@dataclass(frozen=True, slots=True)
class _Known:
    """What answers about several models share."""

    live: str | None
    became_live: dict[str, Change]
    """The last time that each became live."""
    frames: dict[str, int]
    """Results by model."""

    @classmethod
    def read(
        cls, desk: ModelDesk, connection: sa.Connection, model_id: str | None = None
    ) -> "_Known":
        """Read what is known of one model, or of all."""
        history = promotion_rows.history(connection)
        return cls(
            live=desk.registry.live(connection),
            became_live={change.model_id: change for change in reversed(history)},
            frames=frames_by_model(connection, model_id),
        )


def _one(desk: ModelDesk, model_id: str) -> ModelAnswer:
    with desk.registry.database.read() as connection:
        row = desk.registry.find(connection, model_id)
        return _answer(desk, connection, row, _Known.read(desk, connection, model_id))


def _answer(
    desk: ModelDesk, connection: sa.Connection, row: StoredModel, known: _Known
) -> ModelAnswer:
    change = known.became_live.get(row.model_id)
    against = objection(desk.registry, connection, row)
    return ModelAnswer(
        model_id=row.model_id,
        source=row.source,
        live=row.model_id == known.live,
        verdict=row.verdict,
        needs_override=against is not None,
        objection=against,
        judged_against=judgement(desk.registry, connection, row).incumbent,
        domain_id=row.domain_id,
        job_id=row.job_id,
        added_at=row.added_at,
        added_by=row.added_by,
        tested_at=row.tested_at,
        promoted_at=change.at if change else None,
        promoted_by=change.who if change else None,
        deleted_at=row.deleted_at,
        frames=known.frames.get(row.model_id, 0),
        trouble=_trouble(desk, row),
    )


def _trouble(desk: ModelDesk, row: StoredModel) -> str | None:
    try:
        desk.registry.folder_of(row)
    except ModelError as error:
        return str(error)
    return None


def _json_of(desk: ModelDesk, row: StoredModel, name: str) -> dict[str, object] | None:
    try:
        found = json.loads((desk.registry.folder_of(row) / name).read_bytes())
    except (ModelError, OSError, ValueError, RecursionError):
        return None  # it may come from elsewhere
    return found if isinstance(found, dict) else None


def _change(change: Change) -> PromotionAnswer:
    return PromotionAnswer(
        id=change.id,
        model_id=change.model_id,
        replaced=change.replaced,
        undoes=change.undoes,
        at=change.at,
        who=change.who,
        reason=change.reason,
    )


async def _receive(services: Services, request: Request, part: Path) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(part.parent).free
    if free < services.disk_reserve_bytes:
        raise StoreError("the server's disk is almost full; nothing was accepted")
    received = 0
    try:
        with part.open("wb") as target:
            async for chunk in request.stream():
                received += len(chunk)
                if received > MAX_ARCHIVE_BYTES:
                    raise UnfitModelError(
                        f"more than {MAX_ARCHIVE_BYTES} bytes: that is no model of ours"
                    )
                await asyncio.to_thread(target.write, chunk)
    except OSError as error:
        raise StoreError(f"the upload cannot be kept: {error.strerror}") from error
