"""The operator's word over REST: pixel sizes, and what is not a particle.

Every change is committed with a line in the audit and an event before it is answered.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path

from emcopilot.errors import EMcopilotError
from emcopilot.messages import CalibrationRequest, Changed
from emcopilot.model_messages import ReprocessRequest
from gpu_server.api.models import desk, refused
from gpu_server.api.problems import PROBLEM_RESPONSES
from gpu_server.api.results import Id
from gpu_server.api.services import Services, ServicesDep, known_frame
from gpu_server.auth import Identity, require
from gpu_server.particle_rows import is_rejected
from gpu_server.queries import StoredFrame

router = APIRouter(prefix="/api/v1", tags=["corrections"], responses=PROBLEM_RESPONSES)

Operator = Annotated[Identity, Depends(require("operator"))]
Label = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.post("/frames/{frame_id}/reject")
async def reject_frame(services: ServicesDep, who: Operator, frame_id: Id) -> Changed:
    """Take a whole frame out of the statistics; nothing is deleted."""
    return await _of_frame(services, frame_id, services.store.reject_frame, who.name)


@router.post("/frames/{frame_id}/restore")
async def restore_frame(services: ServicesDep, who: Operator, frame_id: Id) -> Changed:
    """Take a rejected frame back into the statistics."""
    return await _of_frame(services, frame_id, services.store.restore_frame, who.name)


@router.post("/frames/{frame_id}/reprocess")
async def reprocess_frame(
    services: ServicesDep, who: Operator, frame_id: Id
) -> Changed:
    """Process a frame again: what to try with a quarantined one."""
    changed = await _of_frame(
        services, frame_id, services.store.reprocess_frame, who.name
    )
    services.ring()
    return changed


@router.post("/frames/{frame_id}/particles/{particle}/reject")
async def reject_particle(
    services: ServicesDep, who: Operator, frame_id: Id, particle: Label
) -> Changed:
    """Take one particle, by its number in the frame, out of the statistics."""

    def reject(frame_id: int, name: str) -> int:
        return services.store.reject_particles(frame_id, [particle], name)

    return await _of_frame(services, frame_id, reject, who.name)


@router.post("/frames/{frame_id}/particles/{particle}/restore")
async def restore_particle(
    services: ServicesDep, who: Operator, frame_id: Id, particle: Label
) -> Changed:
    """Take a rejected particle back into the statistics."""

    def restore(frame_id: int, name: str) -> int:
        return services.store.restore_particles(frame_id, [particle], name)

    return await _of_frame(services, frame_id, restore, who.name)


@router.post("/sessions/{session_id}/calibration")
async def calibrate(
    services: ServicesDep, who: Operator, session_id: Id, request: CalibrationRequest
) -> Changed:
    """Give a session the operator's pixel size, or null for the frames' own.

    It holds for every frame of the session, the ones to come too, and for all exports.
    """
    given = request.pixel_size_nm
    size_nm = (given, given) if isinstance(given, int | float) else given
    event = await asyncio.to_thread(
        services.store.calibrate_session, session_id, size_nm, who.name
    )
    services.ring()
    services.publisher.announce()
    return Changed(event=event)


@router.post("/sessions/{session_id}/reprocess")
async def reprocess_session(
    services: ServicesDep,
    who: Operator,
    session_id: Id,
    request: Annotated[ReprocessRequest | None, Body()] = None,
) -> Changed:
    """Process every frame of a session again, quarantined ones too.

    With a `model_id` that model computes the session in the background instead, beside what is
    there: nothing else changes, and `GET` tells how far it is.
    """
    if request and request.model_id:
        return await _recompute(services, session_id, request.model_id, who.name)
    event = await asyncio.to_thread(
        services.store.reprocess_session, session_id, who.name
    )
    services.ring()
    services.publisher.announce()
    return Changed(event=event)


async def _recompute(
    services: Services, session_id: int, model_id: str, who: str
) -> Changed:
    recomputation = desk(services).recomputation
    try:
        event = await recomputation.start(session_id, model_id, who)
    except EMcopilotError as error:
        raise refused(error) from error
    services.publisher.announce()
    return Changed(event=event)


async def _of_frame(
    services: Services, frame_id: int, change: Callable[[int, str], int], who: str
) -> Changed:
    event = await asyncio.to_thread(change, frame_id, who)
    await show_verdicts(services, frame_id)
    return Changed(event=event)


async def show_verdicts(services: Services, frame_id: int) -> None:
    """Tell whoever looks that what counts of a frame has changed."""
    found = await asyncio.to_thread(_frame, services, frame_id)
    count = len(found.result.diameters) if found.result else 0
    services.publisher.show_rejected(
        frame_id, is_rejected(found, count), is_rejected=found.is_rejected
    )
    services.publisher.announce()


def _frame(services: Services, frame_id: int) -> StoredFrame:
    with services.store.read() as connection:
        return known_frame(connection, frame_id)
