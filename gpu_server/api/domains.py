"""Domains over REST: what was seen, what it is called, which model it has; and the alarm."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query

from emcopilot.domain_messages import (
    DomainAnswer,
    DomainDetail,
    DomainModel,
    DomainName,
    ReservoirFrameAnswer,
    ShiftAnswer,
    ShiftProposal,
)
from emcopilot.frame_look import FrameLook
from emcopilot.look_words import usual_look
from emcopilot.messages import Changed
from gpu_server import domains, shift_rows
from gpu_server.api.corrections import Operator
from gpu_server.api.models import refused
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.results import Id
from gpu_server.api.services import Services, ServicesDep
from gpu_server.domains import DomainRow
from gpu_server.objections import NotSelectableError, require_selectable
from gpu_server.shift_rows import SessionShift

router = APIRouter(prefix="/api/v1", tags=["domains"], responses=PROBLEM_RESPONSES)


@router.get("/domains")
def domain_list(services: ServicesDep) -> list[DomainAnswer]:
    """List the domains that were seen, the last first."""
    with services.store.read() as connection:
        found = domains.domain_list(connection)
    return [DomainAnswer.model_validate(_told(row)) for row in found]


@router.get("/domains/{domain_id}")
def one_domain(services: ServicesDep, domain_id: Id) -> DomainDetail:
    """Describe one domain, and what its sessions lately left out."""
    with services.store.read() as connection:
        row = known_domain(connection, domain_id)
        left_out = {"flaws": domains.flaws(connection, domain_id)}
        return DomainDetail.model_validate(_told(row) | left_out)


@router.patch("/domains/{domain_id}")
async def rename_domain(
    services: ServicesDep, who: Operator, domain_id: Id, request: DomainName
) -> Changed:
    """Give a domain a name."""
    name = " ".join(request.name.split())

    def rename(connection: sa.Connection) -> int:
        return domains.rename(connection, domain_id, name, who.name, at=time.time())

    return await _change(services, rename)


@router.post("/domains/{domain_id}/model")
async def remember_model(
    services: ServicesDep, who: Operator, domain_id: Id, request: DomainModel
) -> Changed:
    """Let a domain remember a model: going back to it proposes, or selects, that one."""

    def remember(connection: sa.Connection) -> int:
        if services.models and request.model_id and request.selects:
            registry = services.models.registry
            require_selectable(registry, connection, request.model_id)
        return domains.remember_model(
            connection,
            domain_id,
            request.model_id,
            request.selects,
            who=who.name,
            at=time.time(),
        )

    try:
        return await _change(services, remember)
    except NotSelectableError as error:
        raise refused(error) from error


@router.get("/domains/{domain_id}/frames")
def reservoir(
    services: ServicesDep,
    domain_id: Id,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
) -> list[ReservoirFrameAnswer]:
    """List the frames that stand for a domain: what a job would learn from."""
    with services.store.read() as connection:
        known_domain(connection, domain_id)
        found = domains.reservoir_frames(connection, domain_id, limit)
    return [
        ReservoirFrameAnswer(frame_id=one.frame_id, name=one.name, page=one.page)
        for one in found
    ]


@router.get("/shift")
def shift(services: ServicesDep) -> list[ShiftAnswer]:
    """Tell, by session, whether what comes is what the live model knows; the last news first.

    A session that is not listed never gave cause for alarm.
    """
    with services.store.read() as connection:
        return [_shift_answer(one) for one in shift_rows.shifts(connection)]


def known_domain(connection: sa.Connection, domain_id: int) -> DomainRow:
    """Return a domain.

    Raises
    ------
    ProblemError
        404 if there is no such domain.
    """
    found = domains.domain(connection, domain_id)
    if found is None:
        raise ProblemError.not_found(f"there is no domain {domain_id}")
    return found


def _told(row: DomainRow) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.name,
        "look": usual_look(FrameLook.from_bytes(row.look).vector[None]),
        "instrument": row.instrument,
        "modality": row.modality,
        "detector": row.detector,
        "sample": row.sample,
        "pixel_size_nm": row.pixel_sizes_nm,
        "created_at": row.created_at,
        "seen_at": row.seen_at,
        "frame_count": row.frame_count,
        "reservoir_count": row.reservoir_count,
        "model_id": row.model_id,
        "selects_model": row.selects_model,
    }


def _shift_answer(one: SessionShift) -> ShiftAnswer:
    told = one.shift
    proposal = told.proposal and ShiftProposal(
        action=told.proposal.action,
        domain_id=told.proposal.domain_id,
        model_id=told.proposal.model_id,
        selects=told.proposal.selects,
    )
    return ShiftAnswer(
        session_id=one.session_id,
        session=one.session,
        state=told.state,
        reason=told.reason,
        model_id=told.model_id,
        domain_id=told.domain_id,
        since_frame_id=told.since_frame_id,
        at=one.at,
        proposal=proposal,
    )


async def _change(
    services: Services, change: Callable[[sa.Connection], int]
) -> Changed:
    def write() -> int:
        with services.store.database.write() as connection:
            return change(connection)

    event = await asyncio.to_thread(write)
    services.publisher.announce()
    return Changed(event=event)
