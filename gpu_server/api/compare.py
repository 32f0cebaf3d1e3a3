"""Two models on the same frames over REST, and sessions computed by one more model."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Body, Query

from emcopilot.errors import EMcopilotError
from emcopilot.messages import Problem
from emcopilot.model_messages import (
    MODEL_ID,
    CompareAnswer,
    CompareRequest,
    CountAnswer,
    CountRequest,
    DifferencesAnswer,
    RecomputationAnswer,
)
from gpu_server.api.models import DeskDep, ModelId, Operator, refused
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.results import Id
from gpu_server.api.services import ServicesDep, known_session
from gpu_server.compare import compare_frames
from gpu_server.counting import count_by
from gpu_server.differences import SHOWN, differences
from gpu_server.model_desk import ModelDesk
from gpu_server.side_results import recent_frames

router = APIRouter(prefix="/api/v1", tags=["models"], responses=PROBLEM_RESPONSES)

TwoModels = Annotated[
    str, Query(pattern=rf"^{MODEL_ID},{MODEL_ID}$", description="two ids, A,B")
]


@router.get("/compare")
def compare(
    desk: DeskDep,
    models: TwoModels,
    session: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    frames: Annotated[int, Query(ge=1, le=24)] = 4,
) -> CompareAnswer:
    """Show both models on the latest frames, as far as both have results there.

    Nothing is computed: `POST /models/{id}/compare` does that.
    """
    pair = _two(models)
    with desk.registry.database.read() as connection:
        for one in pair:
            desk.registry.find(connection, one)
        chosen = recent_frames(connection, frames, session_id=session)
        return compare_frames(connection, pair, chosen)


@router.post("/models/{model_id}/compare")
async def compare_with(
    desk: DeskDep,
    _who: Operator,
    model_id: ModelId,
    request: Annotated[CompareRequest | None, Body()] = None,
) -> CompareAnswer:
    """Show a model and another, the live one unless said, on the same latest frames.

    Results that are missing are computed, quietly, and kept; they do not count.
    """
    wanted = request or CompareRequest()
    pair, chosen = await asyncio.to_thread(_chosen, desk, model_id, wanted)
    try:
        for one in pair:
            await desk.side_results.fill(one, chosen)
    except EMcopilotError as error:
        raise refused(error) from error
    return await asyncio.to_thread(_compared, desk, pair, chosen)


@router.get("/sessions/{session_id}/reprocess")
def recomputations(
    services: ServicesDep, desk: DeskDep, session_id: Id
) -> list[RecomputationAnswer]:
    """Tell how far a session is computed by each model that did any of it."""
    with services.store.read() as connection:
        known_session(connection, session_id)
    return desk.recomputation.progress(session_id)


@router.get("/sessions/{session_id}/differences")
def session_differences(
    services: ServicesDep,
    desk: DeskDep,
    session_id: Id,
    models: TwoModels,
    points: Annotated[int, Query(ge=8, le=100_000)] = SHOWN,
) -> DifferencesAnswer:
    """Set two models against each other over the frames that both have computed.

    Of more than `points` frames each stretch's largest differences either way are told one by one;
    totals are of all of them.
    """
    with services.store.read() as connection:
        known_session(connection, session_id)
        pair = _two(models)
        for one in pair:
            desk.registry.find(connection, one)
        return differences(connection, pair, session_id, points)


@router.post("/sessions/{session_id}/count")
async def count(
    services: ServicesDep, who: Operator, session_id: Id, request: CountRequest
) -> CountAnswer:
    """Let a model's results be those that the session's statistics are made of."""

    def change() -> tuple[int, int, int]:
        with services.store.database.write() as connection:
            return count_by(
                connection,
                session_id,
                request.model_id,
                who.name,
                at=time.time(),
            )

    event, counted, without = await asyncio.to_thread(change)
    services.publisher.announce()
    return CountAnswer(event=event, frames=counted, without=without)


def _two(models: str) -> tuple[str, str]:
    first, _, second = models.partition(",")
    if first == second:
        raise ProblemError(
            Problem(
                title="Two models, please",
                status=422,
                detail="a model does not differ from itself",
                got=models,
                expected="two different model ids, separated by a comma",
            )
        )
    return first, second


def _chosen(
    desk: ModelDesk, model_id: str, wanted: CompareRequest
) -> tuple[tuple[str, str], list[int]]:
    with desk.registry.database.read() as connection:
        other = wanted.other or desk.registry.live(connection)
        for one in (model_id, other or ""):
            desk.registry.find(connection, one)
        pair = _two(f"{other},{model_id}")
        return pair, recent_frames(
            connection, wanted.frames, session_id=wanted.session_id
        )


def _compared(
    desk: ModelDesk, pair: tuple[str, str], chosen: list[int]
) -> CompareAnswer:
    with desk.registry.database.read() as connection:
        return compare_frames(connection, pair, chosen)
