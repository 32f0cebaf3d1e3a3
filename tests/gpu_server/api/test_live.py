"""The live feed and the event stream over real sockets."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from emcopilot.live_packet import REJECTED, LivePacket
from gpu_server.api import live


def look(rest, **options) -> ClientConnection:
    headers = {"authorization": f"Bearer {rest.viewer}"}
    url = rest.url.replace("http", "ws") + "/api/v1/live"
    return connect(url, additional_headers=headers, **options)


def show(rest, diameters=(10, 20)) -> int:
    pixels = rest.lab.discs(diameters)
    rest.lab.deliver(pixels)
    leased, measured = rest.lab.process(pixels, 0.5)
    rest.publish(leased, measured)
    return leased.frame_id


def receive(socket: ClientConnection) -> LivePacket:
    data = socket.recv(timeout=20)
    assert isinstance(data, bytes)
    return LivePacket.unpack(data)


def test_a_new_viewer_sees_the_last_frame_at_once_then_the_next(rest) -> None:
    first = show(rest)
    with look(rest) as socket:
        packet = receive(socket)
        assert packet.header.frame_id == first
        assert packet.header.session == "run1"
        assert packet.header.unit == "nm"
        socket.send(f"ack {packet.header.seq}")
        second = show(rest)
        assert receive(socket).header.frame_id == second


def test_nothing_more_comes_before_the_acknowledgement_then_the_latest(rest) -> None:
    show(rest)
    with look(rest) as socket:
        packet = receive(socket)
        for _ in range(3):
            last = show(rest)
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.3)
        socket.send(f"ack {packet.header.seq}")
        assert receive(socket).header.frame_id == last
    assert rest.services.publisher.skipped == 2


def test_a_rejection_is_shown_at_once(rest) -> None:
    frame = show(rest)
    with look(rest) as socket:
        packet = receive(socket)
        socket.send(f"ack {packet.header.seq}")
        rest.http.post(f"/api/v1/frames/{frame}/particles/1/reject").raise_for_status()
        again = receive(socket)
    assert again.header.frame_id == frame
    assert again.flags[0] & REJECTED
    assert again.header.counted == packet.header.counted - 1


def test_a_viewer_who_never_acknowledges_is_closed_to_try_again(
    rest, monkeypatch
) -> None:
    monkeypatch.setattr(live, "ACK_TIMEOUT_S", 0.2)
    show(rest)
    with look(rest) as socket:
        receive(socket)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    assert rest.http.get("/api/v1/stats").json()["viewers"] == 0


def test_nonsense_from_a_viewer_is_ignored(rest) -> None:
    show(rest)
    with look(rest) as socket:
        packet = receive(socket)
        for nonsense in ("", "ack", "ack -1", "ack ²", "ack 1e9", "hello", "ack 9" * 9):
            socket.send(nonsense)
        socket.send(f"ack {packet.header.seq}")
        frame = show(rest)
        assert receive(socket).header.frame_id == frame


def test_a_viewer_who_leaves_makes_room(rest) -> None:
    with look(rest):
        deadline = time.monotonic() + 10
        while rest.services.publisher.viewers != 1:
            assert time.monotonic() < deadline
    while rest.services.publisher.viewers != 0:
        assert time.monotonic() < deadline


def test_the_live_feed_wants_a_token(rest) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(rest.url.replace("http", "ws") + "/api/v1/live").close()
    assert refused.value.response.status_code in (401, 403)


def events_of(lines: Iterator[str]) -> Iterator[dict]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line[6:])


def stream(rest, path: str = "/api/v1/events", **headers: str):
    return rest.http.stream("GET", path, headers=headers, timeout=30)


def test_events_resume_after_the_last_one_seen(rest) -> None:
    rest.add([10])
    with stream(rest, "/api/v1/events?after=0") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.iter_lines())
        seen = [next(events) for _ in range(3)]
    assert [event["kind"] for event in seen] == ["agent", "session", "frame"]
    frame = rest.add([12])
    headers = {"last-event-id": str(seen[-1]["id"])}
    with stream(rest, "/api/v1/events?after=0", **headers) as answer:
        resumed = next(events_of(answer.iter_lines()))
    assert resumed["id"] > seen[-1]["id"]
    assert resumed["frame_id"] == frame


def test_without_an_id_the_stream_begins_now_and_names_where(rest) -> None:
    rest.add([10])
    with stream(rest) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("id: ")
        frame = rest.add([12])
        assert next(events_of(lines))["frame_id"] == frame


def test_a_stream_ends_when_the_server_stops(rest) -> None:
    with stream(rest) as answer:
        lines = answer.iter_lines()
        next(lines)
        rest.loop.call_soon_threadsafe(rest.services.publisher.close)
        assert [line for line in lines if line.startswith("data")] == []


def test_an_event_stream_wants_a_token(rest) -> None:
    assert httpx.get(f"{rest.url}/api/v1/events").status_code == 401
