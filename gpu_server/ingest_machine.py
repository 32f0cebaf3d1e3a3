"""The server's half of the wire as a pure state machine: events in, actions out.

    OFFER ──> wanted ──NEED, CHUNK...──> all bytes ──> ready ──commit──> STORED
                 ^                          │             │
                 └──RETRY lost── write failed, commit failed, then paused for a while

A connection is a routing id that has said HELLO; what was received of a file outlives the
connection, so that a cut costs the chunks under way and no more. STORED is answered only
to a Committed event: nothing else in this program can say it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emcopilot import __version__, wire
from emcopilot.wire import FileHeader, Item
from gpu_server.config import IngestSettings
from gpu_server.ingest_events import (
    Action,
    Append,
    Commit,
    Committed,
    Drained,
    Drop,
    Event,
    Failed,
    GoneRecorded,
    Heard,
    Key,
    RecordGone,
    RecordReport,
    Revoked,
    Send,
    Tick,
    Written,
)

MAX_WANTED = 64
"""Files one agent may have offered at a time: more than ours ever do."""
GROUP_FILES = 32
GROUP_BYTES = 32 * 2**20
"""A commit waits for no more than this: fsync is shared, but STORED is awaited."""
PEER_FORGOTTEN_S = 60.0
PART_FORGOTTEN_S = 600.0
PAUSE_S = 5.0
"""After a failed write, so that a full disk is not hammered; then we try again."""
REPORT_EVERY_S = 10.0


@dataclass(slots=True)
class _Part:
    """A file on its way."""

    header: FileHeader
    touched_at: float
    have: int = 0
    """Bytes from the start that are written."""
    upto: int = 0
    """Bytes from the start that the agent was allowed to send."""


@dataclass(slots=True)
class _Peer:
    """A connection that has said HELLO."""

    public_key: str
    agent_id: int
    hello: wire.Hello
    heard_at: float
    reported_at: float
    report: wire.Report
    wanted: dict[Key, _Part] = field(default_factory=dict[Key, _Part])
    offered: dict[Key, str] = field(default_factory=dict[Key, str])
    """Hashes it waits to hear STORED of, as it offered them on this connection: another
    computer with the same journal may mean other bytes by the same number."""
    notice: str | None = None

    def key(self, item: Item) -> Key:
        return Key(self.agent_id, self.hello.journal, *item)


@dataclass(slots=True)
class _Rival:
    """A connection whose journal another one said HELLO for; it may have taken it back since.

    A connection that was cut leaves messages behind, which may come after the HELLO of the next
    one, HELLOs among them. Only a living agent goes on after the WELCOME that it was answered.
    """

    journal: tuple[int, str]
    """Agent and journal."""
    seen_at: float
    was_asked: bool = False
    """It spoke without holding the journal, and was sent RESET."""
    returned: bool = False
    """It said HELLO after that."""
    lives: bool = False
    """And then something else: it was welcomed."""


class IngestMachine:
    """Decides what the server takes, keeps and answers; owns no resource."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._peers: dict[bytes, _Peer] = {}
        self._rivals: dict[bytes, _Rival] = {}
        self._parts: dict[Key, _Part] = {}
        self._ready: dict[Key, FileHeader] = {}
        self._committing: dict[Key, FileHeader] = {}
        self._free_bytes = 2**63
        self._failure: tuple[str, float] | None = None
        """Why writing failed, and until when we do not try again."""
        self.paused: str | None = None
        """Why nothing is taken just now."""
        self.mismatches = 0

    @property
    def agents(self) -> set[int]:
        """Ids of the agents that are connected; may be read from any thread."""
        return {peer.agent_id for peer in list(self._peers.values())}

    @property
    def public_keys(self) -> set[str]:
        """Keys of the agents that are connected."""
        return {peer.public_key for peer in self._peers.values()}

    def step(self, event: Event, now: float) -> list[Action]:  # noqa: PLR0911 - one return a case
        """Take one event into account; return what to do, in order."""
        match event:
            case Heard():
                return self._heard(event, now)
            case Written(key, outcome):
                return self._written(key, outcome)
            case Drained():
                return self._commit()
            case Committed(keys, refused):
                return [*self._committed(keys), *self._number_taken(refused)]
            case Failed(keys, reason):
                return self._failed(keys, reason, now)
            case GoneRecorded(peer, items):
                return [Send(peer, wire.GoneOk(items=tuple(items)))]
            case Revoked(public_key):
                return self._revoke(public_key)
            case Tick(free_bytes):
                self._free_bytes = free_bytes
                return [*self._expire(now), *self._reconsider(now)]

    # What agents say -------------------------------------------------------------

    def _heard(self, event: Heard, now: float) -> list[Action]:  # noqa: PLR0911 - one return a case
        if event.agent_id is None:
            self._peers.pop(event.peer, None)
            return [Send(event.peer, _KEY_UNKNOWN)]
        if isinstance(event.message, wire.Hello):
            return self._welcome(event, event.agent_id, event.message, now)
        self._note_life(event.peer, now)
        peer = self._peers.get(event.peer)
        if peer is None:
            return [Send(event.peer, self._ask_or_part(event.peer))]
        peer.heard_at = now
        match event.message:
            case wire.Offer(files=files):
                return self._offered(event.peer, peer, files, event.present, now)
            case wire.Chunk() as chunk:
                return self._chunk(peer, chunk, event.payload, now)
            case wire.Gone(items=items):
                return self._gone(event.peer, peer, items)
            case wire.Ping(report=report):
                return self._ping(event.peer, peer, report, now)
            case _:
                text = f"an agent does not say {event.message.name}"
                return [Send(event.peer, wire.Refused(code="bad_message", reason=text))]

    def _welcome(
        self, event: Heard, agent_id: int, hello: wire.Hello, now: float
    ) -> list[Action]:
        journal = (agent_id, hello.journal)
        self._note_return(event.peer, journal)
        for peer_id, peer in list(self._peers.items()):
            if (peer.agent_id, peer.hello.journal) != journal:
                continue
            del self._peers[peer_id]  # its old connection is a dead one, most likely
            if peer_id != event.peer:
                rival = self._rivals.setdefault(peer_id, _Rival(journal, now))
                rival.seen_at = now
        for key, part in self._parts.items():
            if key[:2] == journal:
                part.upto = part.have
        self._peers[event.peer] = _Peer(
            event.public_key, agent_id, hello, now, now, hello.report
        )
        welcome = wire.Welcome(server_version=__version__, paused=self.paused)
        return [
            RecordReport(agent_id, hello, hello.report),
            Send(event.peer, welcome),
        ]

    def _note_return(self, peer_id: bytes, journal: tuple[int, str]) -> None:
        rival = self._rivals.get(peer_id)
        if rival is None:
            # A new connection: the others may have said what they said before they were cut.
            for other in self._rivals.values():
                if other.journal == journal:
                    other.was_asked = other.returned = other.lives = False
            return
        if rival.journal != journal:
            del self._rivals[peer_id]  # it gave way
        elif rival.was_asked:
            rival.returned = True

    def _note_life(self, peer_id: bytes, now: float) -> None:
        rival = self._rivals.get(peer_id)
        if rival is not None:
            rival.seen_at = now
            rival.lives = rival.returned

    def _ask_or_part(self, peer_id: bytes) -> wire.Reset | wire.Refused:
        """Ask a connection who it is, or part it from another computer with its journal.

        Two that live would go on for ever, each making the other begin anew.
        """
        ours = self._rivals.get(peer_id)
        if ours is None:
            return wire.Reset()
        if any(
            rival.lives and rival.journal == ours.journal
            for other, rival in self._rivals.items()
            if other != peer_id
        ):
            return _JOURNAL_SHARED
        ours.was_asked = True
        return wire.Reset()

    def _offered(
        self,
        peer_id: bytes,
        peer: _Peer,
        files: Sequence[FileHeader],
        present: frozenset[str],
        now: float,
    ) -> list[Action]:
        actions: list[Action] = []
        again: list[Key] = []
        for header in files:
            key = peer.key((header.seq, header.rev))
            whole = self._ready.get(key) or self._committing.get(key)
            if whole:
                if whole.sha256 == header.sha256:
                    peer.offered[key] = header.sha256  # STORED follows
                continue  # else these wait until the other bytes have their row
            if header.size > self._settings.max_file_bytes:
                actions.append(Send(peer_id, self._too_large(header)))
            elif header.sha256 in present:
                # A repeat or a copy: all that may be missing is its row.
                if self._parts.pop(key, None):
                    actions.append(Drop(key))
                peer.wanted.pop(key, None)
                peer.offered[key] = header.sha256
                self._ready[key] = header
            elif key in peer.wanted:
                again.append(key)
            elif len(peer.wanted) < MAX_WANTED:
                peer.wanted[key] = self._part(key, header, actions, now)
                peer.offered[key] = header.sha256
        return [*actions, *self._grant(peer_id, peer, again)]

    def _part(
        self, key: Key, header: FileHeader, actions: list[Action], now: float
    ) -> _Part:
        part = self._parts.get(key)
        if part is not None and part.header == header:
            return part
        if part is not None:
            actions.append(Drop(key))
        part = self._parts[key] = _Part(header, now)
        return part

    def _grant(
        self, peer_id: bytes, peer: _Peer, again: Iterable[Key] = ()
    ) -> list[Action]:
        """Let an agent send as much as fits its window, what ends soonest first.

        So a frame overtakes the huge file that was begun before it.
        """
        if self.paused:
            return []
        peer.notice = None
        granted = dict.fromkeys(key for key in again if peer.wanted[key].upto)
        credit = self._settings.window_bytes
        credit -= sum(part.upto - part.have for part in peer.wanted.values())
        by_rest = sorted(
            peer.wanted.items(), key=lambda item: item[1].header.size - item[1].upto
        )
        for key, part in by_rest:
            rest = part.header.size - part.upto
            step = min(rest, credit)
            if rest == 0 or not self._fits(part, peer):
                continue
            if step < min(rest, wire.CHUNK_BYTES, self._settings.window_bytes):
                break  # grants of a few bytes would make messages of a few bytes
            part.upto += step
            credit -= step
            granted[key] = None
        needs = [
            wire.Need(seq=key.seq, rev=key.rev, offset=part.have, upto=part.upto)
            for key in granted
            if (part := peer.wanted[key])
        ]
        return [Send(peer_id, wire.NeedBytes(files=tuple(needs)))] if needs else []

    def _fits(self, part: _Part, peer: _Peer) -> bool:
        room = self._free_bytes - self._settings.disk_reserve_bytes
        if part.header.size - part.have <= room:
            return True
        peer.notice = (
            f"no room on the server for {part.header.source_key[-200:]} "
            f"({part.header.size / 1e9:.1f} GB); it waits until there is"
        )
        return False

    def _chunk(
        self, peer: _Peer, chunk: wire.Chunk, payload: memoryview, now: float
    ) -> list[Action]:
        key = peer.key((chunk.seq, chunk.rev))
        part = peer.wanted.get(key)
        if part is None:
            return []  # of a file that was dropped meanwhile, or is whole already
        known = part.have - chunk.offset
        end = chunk.offset + payload.nbytes
        if not 0 <= known < payload.nbytes or end > part.upto:
            return []  # a repeat, or beyond a gap: the agent will notice and say HELLO
        part.have, part.touched_at = end, now
        return [Append(key, part.header, payload[known:])]

    def _gone(
        self, peer_id: bytes, peer: _Peer, items: Sequence[wire.GoneItem]
    ) -> list[Action]:
        actions: list[Action] = []
        for gone in items:
            key = peer.key((gone.seq, gone.rev))
            peer.wanted.pop(key, None)
            if key not in self._ready and key not in self._committing:
                # Bytes that came whole before are stored all the same, and STORED says so.
                peer.offered.pop(key, None)
            if self._parts.pop(key, None):
                actions.append(Drop(key))
        return [*actions, RecordGone(peer_id, peer.agent_id, peer.hello.journal, items)]

    def _ping(
        self, peer_id: bytes, peer: _Peer, report: wire.Report, now: float
    ) -> list[Action]:
        pong = Send(peer_id, wire.Pong(paused=self.paused, notice=peer.notice))
        if report == peer.report and now - peer.reported_at < REPORT_EVERY_S:
            return [pong]
        peer.report, peer.reported_at = report, now
        return [pong, RecordReport(peer.agent_id, peer.hello, report)]

    # What disk and database say --------------------------------------------------

    def _written(self, key: Key, outcome: str) -> list[Action]:
        peer_id, peer = self._peer_of(key)
        if outcome == "partly":
            return self._grant(peer_id, peer) if peer else []
        part = self._parts.pop(key, None)
        if peer:
            peer.wanted.pop(key, None)
        if outcome == "whole" and part:
            self._ready[key] = part.header
            waiting_bytes = sum(header.size for header in self._ready.values())
            is_enough = len(self._ready) >= GROUP_FILES or waiting_bytes >= GROUP_BYTES
            return [
                *(self._commit() if is_enough else []),
                *(self._grant(peer_id, peer) if peer else []),
            ]
        self.mismatches += 1
        if peer:
            peer.offered.pop(key, None)
        retry = wire.Retry(seq=key.seq, rev=key.rev, reason="mismatch")
        return [Drop(key), *([Send(peer_id, retry)] if peer else [])]

    def _commit(self) -> list[Action]:
        if not self._ready or self._failure:
            return []
        group, self._ready = self._ready, {}
        self._committing.update(group)
        return [Commit(tuple(group.items()))]

    def _committed(self, keys: Sequence[Key]) -> list[Action]:
        stored: dict[bytes, list[Item]] = {}
        for key in keys:
            peer_id = self._who_waits(key)
            if peer_id:
                stored.setdefault(peer_id, []).append(key.item)
        return [
            Send(peer_id, wire.Stored(items=tuple(items)))
            for peer_id, items in stored.items()
        ]

    def _number_taken(self, refused: Mapping[Key, str]) -> list[Action]:
        """Ask each agent once for another journal; it offers these again under that."""
        reasons = {self._who_waits(key): reason for key, reason in refused.items()}
        return [
            Send(peer_id, wire.Refused(code="journal_reused", reason=reason[:500]))
            for peer_id, reason in reasons.items()
            if peer_id
        ]

    def _who_waits(self, key: Key) -> bytes | None:
        """End a commit; return the connection on which these very bytes were offered.

        An agent that has said HELLO since then offers them again, and is told then.
        """
        committed = self._committing.pop(key, None)
        peer_id, peer = self._peer_of(key)
        if peer is None or committed is None:
            return None
        return peer_id if peer.offered.pop(key, None) == committed.sha256 else None

    def _failed(self, keys: Sequence[Key], reason: str, now: float) -> list[Action]:
        self._failure = (reason, now + PAUSE_S)
        actions = self._reconsider(now)
        for key in keys:
            self._committing.pop(key, None)
            self._parts.pop(key, None)
            peer_id, peer = self._peer_of(key)
            actions.append(Drop(key))
            if peer:
                peer.wanted.pop(key, None)
                retry = wire.Retry(seq=key.seq, rev=key.rev, reason="lost")
                actions.append(Send(peer_id, retry))
        return actions

    # Time ------------------------------------------------------------------------

    def _reconsider(self, now: float) -> list[Action]:
        """Pause or resume, and say so to everybody at once."""
        if self._failure and now >= self._failure[1]:
            self._failure = None
        before, self.paused = self.paused, self._reason_to_pause()
        actions: list[Action] = []
        for peer_id, peer in self._peers.items():
            if self.paused != before:
                pong = wire.Pong(paused=self.paused, notice=peer.notice)
                actions.append(Send(peer_id, pong))
            actions += self._grant(peer_id, peer)
        return actions

    def _reason_to_pause(self) -> str | None:
        if self._failure:
            return f"the server cannot store just now: {self._failure[0][:400]}"
        if self._free_bytes >= self._settings.disk_reserve_bytes:
            return None
        # Whole gigabytes: a figure that moved with every look would be news every second.
        reserve_gb = self._settings.disk_reserve_bytes / 1e9
        return f"the server's disk is full: less than {reserve_gb:.1f} GB are left"

    def _expire(self, now: float) -> list[Action]:
        for peer_id, peer in list(self._peers.items()):
            if now - peer.heard_at > PEER_FORGOTTEN_S:
                del self._peers[peer_id]
        for peer_id, rival in list(self._rivals.items()):
            if now - rival.seen_at > PEER_FORGOTTEN_S:
                del self._rivals[peer_id]
        wanted = {key for peer in self._peers.values() for key in peer.wanted}
        stale = [
            key
            for key, part in self._parts.items()
            if key not in wanted and now - part.touched_at > PART_FORGOTTEN_S
        ]
        for key in stale:
            del self._parts[key]
        return [Drop(key) for key in stale]

    def _revoke(self, public_key: str) -> list[Action]:
        peers = [id_ for id_, p in self._peers.items() if p.public_key == public_key]
        for peer_id in peers:
            del self._peers[peer_id]
        return [Send(peer_id, _KEY_UNKNOWN) for peer_id in peers]

    def _peer_of(self, key: Key) -> tuple[bytes, _Peer | None]:
        for peer_id, peer in self._peers.items():
            if (peer.agent_id, peer.hello.journal) == key[:2]:
                return peer_id, peer
        return b"", None

    def _too_large(self, header: FileHeader) -> wire.Refused:
        return wire.Refused(
            code="file_too_large",
            reason=f"{header.source_key[-200:]} has {header.size / 1e9:.1f} GB, the "
            f"server takes files up to {self._settings.max_file_bytes / 1e9:.1f} GB "
            "(ingest.max_file_bytes)",
            seq=header.seq,
            rev=header.rev,
        )


_KEY_UNKNOWN = wire.Refused(
    code="key_unknown",
    reason="the server does not know this agent's key, or has revoked it; enrol again",
)
_JOURNAL_SHARED = wire.Refused(
    code="journal_reused",
    reason="another computer sends with this agent's key and journal: one is a copy of the other; "
    "the journal gets a new id here, and the copy should be enrolled by itself",
)
