"""What happens now: live packets over a WebSocket, and resumable events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect

from emcopilot.messages import Event
from gpu_server.accounts import events_after, last_event
from gpu_server.api.problems import PROBLEM_RESPONSES
from gpu_server.api.services import Services, ServicesDep
from gpu_server.auth import Identity, require
from gpu_server.publish import Viewer
from gpu_server.tokens import Tokens

router = APIRouter(prefix="/api/v1", tags=["live"], responses=PROBLEM_RESPONSES)

SEND_TIMEOUT_S = 2.0
"""A socket that takes no packet for this long belongs to a viewer who is gone or drowning."""
ACK_TIMEOUT_S = 10.0
"""Decoding and drawing takes a page tens of ms; a suspended tab comes back by itself."""
_TRY_AGAIN_LATER = 1013
_KEEP_ALIVE_S = 15.0


@router.websocket("/live")
async def live(socket: WebSocket, services: ServicesDep) -> None:
    """Send the latest frame as a live packet, then the next once it is acknowledged.

    The viewer answers each packet with the text `ack SEQ`. Whoever is too slow gets the
    latest frame, not every frame; whoever stops answering is closed with 1013.
    """
    await socket.accept()
    with services.publisher.viewer() as viewer:
        if viewer is None:
            await socket.close(_TRY_AGAIN_LATER, "too many viewers; try again later")
            return
        sending = asyncio.create_task(_send_packets(socket, viewer))
        hearing = asyncio.create_task(_hear_acknowledgements(socket, viewer))
        done, pending = await asyncio.wait(
            (sending, hearing), return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await _close(socket, [task.exception() for task in done])


async def _send_packets(socket: WebSocket, viewer: Viewer) -> None:
    while True:
        packed = await viewer.next_packet()
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_bytes(packed.data)
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await viewer.wait_acknowledged()


async def _hear_acknowledgements(socket: WebSocket, viewer: Viewer) -> None:
    async for text in socket.iter_text():
        word, _, seq = text.partition(" ")
        if word == "ack" and seq.isdecimal() and len(seq) < 16:
            viewer.acknowledge(int(seq))


async def _close(socket: WebSocket, errors: list[BaseException | None]) -> None:
    too_slow = any(isinstance(error, TimeoutError) for error in errors)
    # A viewer who left has closed the socket already, and a drowning one may not hear us.
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            if too_slow:
                await socket.close(_TRY_AGAIN_LATER, "the viewer is too slow")
    for error in errors:
        if error and not isinstance(error, (TimeoutError, WebSocketDisconnect)):
            raise error


@router.get("/events", response_class=StreamingResponse)
async def events(
    services: ServicesDep,
    who: Annotated[Identity, Depends(require("viewer"))],
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**62)] = None,
) -> StreamingResponse:
    """Stream what happens (server-sent events), from after an event id or from now.

    A browser that reconnects sends the last id it saw by itself, as Last-Event-ID; that
    goes before `after`, which still is what the page asked for when it was loaded.
    """
    start = last_event_id if last_event_id is not None else after
    if start is None:
        start = await asyncio.to_thread(_newest, services)
    return StreamingResponse(
        _event_lines(services, who, start),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _event_lines(
    services: Services, who: Identity, after: int
) -> AsyncIterator[str]:
    # An id without data tells the browser where to resume although nothing happened yet.
    yield f"id: {after}\n\n"
    publisher = services.publisher
    tokens = Tokens(services.store.database)
    while True:
        # Counted before looking: what is announced meanwhile, the end too, is not missed.
        seen = publisher.changes
        if publisher.closing or not await asyncio.to_thread(tokens.is_valid, who):
            return
        found = await asyncio.to_thread(_events, services, after)
        for event in found:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
        if not found and await publisher.changed(seen, _KEEP_ALIVE_S) == seen:
            yield ": still here\n\n"


def _events(services: Services, after: int) -> list[Event]:
    with services.store.read() as connection:
        return events_after(connection, after)


def _newest(services: Services) -> int:
    with services.store.read() as connection:
        return last_event(connection)
