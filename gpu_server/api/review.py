"""Looking back: any stored frame as a packet, what happened when, and undoing."""

import asyncio
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from emcopilot.messages import Problem
from emcopilot.review_messages import Marks, Undone
from gpu_server.api.corrections import show_verdicts
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.results import Id
from gpu_server.api.services import Services, ServicesDep, known_frame, known_session
from gpu_server.auth import Identity, require
from gpu_server.marks import session_marks
from gpu_server.queries import StoredFrame, frame_at, latest_frame
from gpu_server.tables import PROCESSED, QUARANTINED

router = APIRouter(prefix="/api/v1", tags=["review"], responses=PROBLEM_RESPONSES)

T = TypeVar("T")

Number = Annotated[int, Query(ge=1, le=2**62)]
_PACKET = {"application/octet-stream": {"schema": {"type": "string"}}}
_NOBODY_WAITS = 499  # a server's word for a client who has left


@router.get(
    "/sessions/{session_id}/packet",
    response_class=Response,
    responses={200: {"content": _PACKET}},
)
async def session_packet(
    services: ServicesDep, request: Request, session_id: Id, number: Number
) -> Response:
    """Return the session's frame with this number as a live packet, or the nearest one."""

    def find(connection: sa.Connection) -> StoredFrame:
        found = frame_at(connection, session_id, number)
        if found is None:
            # Only now: a session is described by counting its frames, 20 ms for 100,000.
            known_session(connection, session_id)
            raise ProblemError.not_found(f"session {session_id} has no frames")
        return found

    return await _packet(services, request, await _read(services, find))


@router.get(
    "/frames/{frame_id}/packet",
    response_class=Response,
    responses={200: {"content": _PACKET}},
)
async def frame_packet(
    services: ServicesDep, request: Request, frame_id: Id
) -> Response:
    """Return a frame as a live packet: picture, outlines and figures in one buffer."""
    found = await _read(services, lambda connection: known_frame(connection, frame_id))
    return await _packet(services, request, found)


@router.get(
    "/latest/packet",
    response_class=Response,
    responses={200: {"content": _PACKET}, 204: {"description": "nothing newer"}},
)
async def latest_packet(
    services: ServicesDep,
    request: Request,
    unless: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> Response:
    """Return the last processed frame unless it is frame `unless`: for who has no WebSocket."""
    found = await _read(services, latest_frame)
    if found is None or found.id == unless:
        return Response(status_code=204)
    return await _packet(services, request, found)


@router.get("/sessions/{session_id}/marks")
def marks(services: ServicesDep, session_id: Id) -> Marks:
    """Return what happened to a session: calibrations, rejections, models, problems."""
    with services.store.read() as connection:
        known_session(connection, session_id)
        return session_marks(connection, session_id)


@router.post("/undo")
async def undo(
    services: ServicesDep, who: Annotated[Identity, Depends(require("operator"))]
) -> Undone:
    """Take back your own last rejection or restoring; again, and the one before it."""
    event, frame_id, action = await asyncio.to_thread(services.store.undo, who.name)
    await show_verdicts(services, frame_id)
    return Undone(event=event, frame_id=frame_id, action=action)


async def _packet(services: Services, request: Request, found: StoredFrame) -> Response:
    if found.state == QUARANTINED:
        raise _without_picture(found)
    data = await services.packets.packet(found, request.is_disconnected)
    if data is None:
        return Response(status_code=_NOBODY_WAITS)
    return Response(
        data,
        media_type="application/octet-stream",
        headers={"Cache-Control": "no-store", "X-EMC-State": found.state},
    )


def _without_picture(found: StoredFrame) -> ProblemError:
    name = PurePosixPath(found.source_key).name
    return ProblemError(
        Problem(
            title="No picture",
            status=404,
            detail=f"frame {found.number}, {name}, could not be processed: {found.reason}",
            expected=f"a frame that is {PROCESSED} or waits",
            do="reprocess the frame, or go to another one",
        )
    )


async def _read(services: Services, find: Callable[[sa.Connection], T]) -> T:
    def read() -> T:
        with services.store.read() as connection:
            return find(connection)

    return await asyncio.to_thread(read)
