"""Both state machines over a network that drops, repeats, delays, cuts and kills.

Everything is simulated, time included, so hundreds of bad hours pass in seconds and a
seed repeats each of them. What must hold: whatever the agent still has is stored in the
end, byte for byte and once; and no file is ever called stored that is not.
"""

import hashlib
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from acquisition_agent import stream_events as agent_side
from acquisition_agent.config import StreamSettings
from acquisition_agent.stream_machine import StreamMachine
from emcopilot import wire
from gpu_server import ingest_events as server_side
from gpu_server.config import IngestSettings
from gpu_server.ingest_events import Key
from gpu_server.ingest_machine import IngestMachine

STEP_S = 0.05
JOURNAL = "0f8fad5b-d9cb-469f-a165-70867728950e"


@dataclass
class File:
    header: wire.FileHeader
    content: bytes
    state: str = "sealed"


@dataclass
class Link:
    """One direction of a connection."""

    rng: random.Random
    badness: float
    under_way: list[tuple[float, list[wire.BytesLike]]] = field(default_factory=list)

    def send(self, parts: list[wire.BytesLike], now: float) -> None:
        copies = 0 if self.rng.random() < self.badness else 1
        copies += self.rng.random() < self.badness
        for _ in range(copies):
            delay = self.rng.expovariate(20) if self.rng.random() < self.badness else 0
            self.under_way.append((now + 0.01 + delay, parts))

    def break_off(self) -> None:
        """Lose all that is under way from some point on."""
        kept = self.rng.randrange(len(self.under_way) + 1)
        self.under_way = sorted(self.under_way, key=lambda item: item[0])[:kept]

    def receive(self, now: float) -> list[list[wire.BytesLike]]:
        arrived = [item for item in self.under_way if item[0] <= now]
        self.under_way = [item for item in self.under_way if item[0] > now]
        return [parts for _, parts in sorted(arrived, key=lambda item: item[0])]


class World:
    def __init__(self, seed: int, badness: float) -> None:
        self.rng = random.Random(seed)
        self.badness = badness
        self.now = 1000.0
        self.files: dict[wire.Item, File] = {}
        self.blobs: set[bytes] = set()
        self.rows: dict[Key, bytes] = {}
        self.commits = 0
        self.left_over: list[tuple[bytes, Link]] = []
        self.connect()
        self.start_server()
        self.start_agent()

    # Programs -------------------------------------------------------------------

    def start_server(self) -> None:
        # A window of two small chunks: credit is short all the time.
        self.parts: dict[Key, bytearray] = {}
        self.server = IngestMachine(
            IngestSettings(window_bytes=8192, disk_reserve_bytes=1)
        )

    def start_agent(self) -> None:
        hello = wire.Hello(journal=JOURNAL, host="scope", agent_version="0")
        settings = StreamSettings(chunk_bytes=4096)
        self.agent = StreamMachine(settings, hello, self.now)
        self.offered: set[wire.Item] = set()
        self.cut()

    def cut(self) -> None:
        """Break the connection; both ends get a new one, with a new routing id.

        What the agent had sent may still lie in the server's buffers, up to where it broke.
        """
        self.up.break_off()
        self.left_over.append((self.peer, self.up))
        self.connect()

    def connect(self) -> None:
        self.up = Link(self.rng, self.badness)
        self.down = Link(self.rng, self.badness)
        self.peer = self.rng.randbytes(5)
        self.is_new = True

    # One step of time -----------------------------------------------------------

    def step(self) -> None:
        self.now += STEP_S
        if self.is_new:
            self.is_new = False
            self.tell_agent(agent_side.Connected())
        for peer, link in [*self.left_over, (self.peer, self.up)]:
            for parts in link.receive(self.now):
                self.server_hears(peer, parts)
        self.left_over = [old for old in self.left_over if old[1].under_way]
        self.tell_server(server_side.Drained())
        self.tell_server(server_side.Tick(free_bytes=2**40))
        for parts in self.down.receive(self.now):
            message, _ = wire.decode(parts)
            self.tell_agent(agent_side.Heard(message))
        self.tell_agent(agent_side.Tick(wire.Report()))
        waiting = [
            file.header
            for item, file in self.files.items()
            if file.state == "sealed" and item not in self.offered
        ][: self.agent.room()]
        if waiting:
            self.offered |= {(h.seq, h.rev) for h in waiting}
            self.tell_agent(agent_side.Sealed(waiting))
        for _ in range(3):
            self.tell_agent(agent_side.Writable())

    def tell_agent(self, event: agent_side.Event) -> None:
        for action in self.agent.step(event, self.now):
            match action:
                case agent_side.Send(message):
                    self.up.send(wire.encode(message), self.now)
                case agent_side.SendChunk((seq, rev), offset, length):
                    payload = self.files[seq, rev].content[offset : offset + length]
                    chunk = wire.Chunk(seq=seq, rev=rev, offset=offset)
                    self.up.send(wire.encode(chunk, payload), self.now)
                case agent_side.Reconnect():
                    self.cut()
                case agent_side.Forget():
                    self.offered.clear()
                case agent_side.Renew(reason):
                    pytest.fail(f"this agent alone has its journal: {reason}")
                case agent_side.Settle(outcome, items):
                    for item in items:
                        self.files[item].state = outcome
                        self.offered.discard(item)

    def server_hears(self, peer: bytes, parts: list[wire.BytesLike]) -> None:
        message, payload = wire.decode(parts)
        present = frozenset[str]()
        if isinstance(message, wire.Offer):
            kept = {hashlib.sha256(blob).hexdigest() for blob in self.blobs}
            present = frozenset(f.sha256 for f in message.files) & kept
        self.tell_server(server_side.Heard(peer, "key", 1, message, payload, present))

    def tell_server(self, event: server_side.Event) -> None:
        events = deque([event])
        while events:
            for action in self.server.step(events.popleft(), self.now):
                outcome = self.serve(action)
                if outcome:
                    events.append(outcome)

    def serve(self, action: server_side.Action) -> server_side.Event | None:
        match action:
            case server_side.Send(peer, message):
                if peer == self.peer:
                    self.down.send(wire.encode(message), self.now)
            case server_side.Append(key, header, payload):
                if self.rng.random() < self.badness / 10:
                    return server_side.Failed([key], "no space left on device")
                part = self.parts.setdefault(key, bytearray())
                part += payload
                assert len(part) <= header.size
                if len(part) < header.size:
                    return server_side.Written(key, "partly")
                is_right = hashlib.sha256(part).hexdigest() == header.sha256
                return server_side.Written(key, "whole" if is_right else "mismatch")
            case server_side.Drop(key):
                self.parts.pop(key, None)
            case server_side.Commit(files):
                return self.commit([key for key, _ in files], dict(files))
            case server_side.RecordGone() | server_side.RecordReport():
                pass
        return None

    def commit(
        self, keys: list[Key], headers: dict[Key, wire.FileHeader]
    ) -> server_side.Event | None:
        if self.rng.random() < self.badness / 10:
            return server_side.Failed(keys, "disk I/O error")
        for key in keys:
            if key in self.parts:
                self.blobs.add(bytes(self.parts.pop(key)))
            promised = headers[key].sha256
            (content,) = (
                b for b in self.blobs if hashlib.sha256(b).hexdigest() == promised
            )
            assert self.rows.setdefault(key, content) == content
        self.commits += 1
        if self.rng.random() < self.badness:
            self.start_server()  # kill -9 between commit and STORED
            return None
        return server_side.Committed(keys)

    # What people and cameras do -------------------------------------------------

    def acquire(self) -> None:
        seq = len(self.files) + 1
        sizes = (1, 4096, 4097, 8192, self.rng.randrange(1, 40_000))
        content = self.rng.randbytes(self.rng.choice(sizes))
        if self.files and self.rng.random() < 0.1:  # a copy of an earlier file
            content = self.rng.choice(list(self.files.values())).content
        header = wire.FileHeader(
            seq=seq,
            rev=1,
            source_key=f"acquisitions/{seq}.tif",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            mtime_ns=0,
            sealed_at=0.0,
        )
        self.files[seq, 1] = File(header, content)

    def is_quiet(self) -> bool:
        return all(file.state != "sealed" for file in self.files.values())

    def check(self) -> None:
        for (seq, rev), file in self.files.items():
            if file.state == "stored":
                assert self.rows[Key(1, JOURNAL, seq, rev)] == file.content


@pytest.mark.parametrize("badness", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_whatever_the_network_does(seed: int, badness: float) -> None:
    live_through(World(seed, badness))


class HastyMachine(IngestMachine):
    """Planted bug: says STORED when the bytes are there, before the commit."""

    def step(self, event: server_side.Event, now: float) -> list[server_side.Action]:
        actions = super().step(event, now)
        if isinstance(event, server_side.Written) and event.outcome == "whole":
            peer_id, _ = self._peer_of(event.key)
            stored = wire.Stored(items=(event.key.item,))
            actions.insert(0, server_side.Send(peer_id, stored))
        return actions


def test_the_simulation_catches_a_server_that_says_stored_too_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "IngestMachine", HastyMachine)
    with pytest.raises((AssertionError, KeyError)):
        live_through_all(range(8))


def live_through_all(seeds: Iterable[int]) -> None:
    for seed in seeds:
        live_through(World(seed, badness=0.2))


def live_through(world: World) -> None:
    """Half a minute of acquisition and trouble, then quiet; check it all the time."""
    badness = world.badness
    for _ in range(600):
        if world.rng.random() < 0.1:
            world.acquire()
        trouble = world.rng.random()
        if trouble < badness / 20:
            world.start_server()
        elif trouble < badness / 10:
            world.start_agent()
        elif trouble < badness / 5:
            world.cut()
        world.step()
        world.check()
    world.badness = world.up.badness = world.down.badness = 0.0
    for _ in range(int(120 / STEP_S)):
        world.step()
        if world.is_quiet():
            break
    world.check()
    assert {file.state for file in world.files.values()} == {"stored"}
    assert set(world.rows) == {Key(1, JOURNAL, *item) for item in world.files}


def test_without_trouble_every_file_is_asked_for_once() -> None:
    world = World(seed=1, badness=0.0)
    for _ in range(40):
        world.acquire()
    sent: list[tuple[wire.Item, int]] = []
    send = world.up.send

    def count(parts: list[wire.BytesLike], now: float) -> None:
        message, payload = wire.decode(parts)
        if isinstance(message, wire.Chunk):
            sent.append(((message.seq, message.rev), payload.nbytes))
        send(parts, now)

    world.up.send = count  # pyright: ignore[reportAttributeAccessIssue]
    while not world.is_quiet():
        world.step()
    unique = {file.header.sha256: file.header.size for file in world.files.values()}
    copies = sum(file.header.size for file in world.files.values()) - sum(
        unique.values()
    )
    # A copy offered while the original is under way travels, too: at most that much more.
    assert (
        sum(unique.values()) <= sum(n for _, n in sent) <= sum(unique.values()) + copies
    )
    assert world.now < 1000 + 30
