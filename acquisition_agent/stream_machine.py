"""The agent's half of the wire as a pure state machine: events in, actions out.

    greeting ──WELCOME──> open ──RESET, silence, no progress, new connection──> greeting
        ^                   │
        └── REFUSED (the key is not known): HELLO again, but slowly ──┘

No socket, no file, no clock: `step(event, now)` says what to do, so a test can cut the
network, repeat messages and turn the clock at will. Whatever is forgotten here is still
in the journal and is offered again; only STORED lets go of a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from acquisition_agent.config import StreamSettings
from acquisition_agent.stream_events import (
    Action,
    Connected,
    Event,
    Forget,
    Heard,
    Lost,
    Reconnect,
    Renew,
    Renewed,
    Sealed,
    Send,
    SendChunk,
    Settle,
    Tick,
    Troubled,
    Unreadable,
    Writable,
)
from emcopilot import wire
from emcopilot.wire import FileHeader, Item, Message

T = TypeVar("T")

MAX_IN_FLIGHT = 2 * wire.ITEMS
"""Files offered and not yet stored: enough to keep the server's disk busy, and few
enough that a new frame does not queue behind a long backlog."""
HELLO_EVERY_S = 2.0
REFUSED_EVERY_S = 10.0


@dataclass(slots=True)
class _Transfer:
    header: FileHeader
    sent: int = 0
    """Bytes from the start that were handed to the socket."""
    upto: int = 0
    """Bytes from the start that the server has room for."""


class StreamMachine:
    """Decides what the agent says and when; owns no resource.

    Parameters
    ----------
    settings : StreamSettings
        Window, chunk size and patience.
    hello : Hello
        How this agent introduces itself.
    now : float
        Monotonic seconds.
    """

    def __init__(self, settings: StreamSettings, hello: wire.Hello, now: float) -> None:
        self._settings = settings
        self._hello = hello
        self._flight: dict[Item, _Transfer] = {}
        self._report = hello.report
        self._said_hello_at: float | None = None
        self._pinged_at = self._progress_at = self._heard_at = now
        self.is_open = False
        """Whether the server has said WELCOME on this connection."""
        self.paused: str | None = None
        """Why the server takes nothing just now."""
        self.notice: str | None = None
        """What the server wants a person to know."""
        self.trouble: str | None = None
        """Why there is no connection, where a person can do something about it."""
        self.is_refused = False

    def room(self) -> int:
        """Return how many more files the journal may hand over now."""
        if not self.is_open or self.paused:
            return 0
        # One file fills a quarter at most: a huge one, or one that the server has no room
        # for, must not keep the frames behind it from being offered.
        window = self._settings.window_bytes
        waiting = (t.header.size - t.sent for t in self._flight.values())
        if sum(min(rest, window // 4) for rest in waiting) >= window:
            return 0
        return MAX_IN_FLIGHT - len(self._flight)

    def has_chunk(self) -> bool:
        """Say whether a chunk waits for the socket."""
        return self.is_open and any(t.sent < t.upto for t in self._flight.values())

    def step(self, event: Event, now: float) -> list[Action]:  # noqa: PLR0911 - one return a case
        """Take one event into account; return what to do, in order."""
        match event:
            case Heard(message):
                return self._heard(message, now)
            case Tick(report):
                self._report = report
                return self._tick(now)
            case Sealed(files):
                return self._offer(files, now)
            case Lost(items):
                return [Send(wire.Gone(items=part)) for part in _batches(items)]
            case Writable():
                return self._next_chunk(now)
            case Unreadable(item):
                self._flight.pop(item, None)
                return [Settle("doubtful", [item])]
            case Connected():
                self.trouble = None
                return self._greet(now)
            case Renewed(journal):
                self._hello = self._hello.model_copy(update={"journal": journal})
                return self._greet(now)
            case Troubled(text):
                self.trouble = text
                self.is_open = False
                return []

    def _greet(self, now: float) -> list[Action]:
        self.is_open = False
        self._flight.clear()
        self._said_hello_at = self._heard_at = now
        hello = self._hello.model_copy(update={"report": self._report})
        return [Forget(), Send(hello)]

    def _tick(self, now: float) -> list[Action]:
        settings = self._settings
        if now - max(self._heard_at, self._progress_at) > settings.silence_s:
            self.is_open = False
            self._flight.clear()
            self._said_hello_at = None
            self._heard_at = now
            return [Forget(), Reconnect()]
        if not self.is_open:
            patience_s = REFUSED_EVERY_S if self.is_refused else HELLO_EVERY_S
            if self._said_hello_at is None or now - self._said_hello_at < patience_s:
                return []  # None: this socket was never connected
            heard_at = self._heard_at
            actions = self._greet(now)
            self._heard_at = heard_at  # talking is no sign of being heard
            return actions
        if self._is_stuck(now):
            return self._greet(now)
        # Three questions before silence counts as death, whatever the settings say.
        ping_every_s = min(settings.ping_every_s, settings.silence_s / 3)
        if now - self._pinged_at >= ping_every_s:
            self._pinged_at = now
            return [Send(wire.Ping(report=self._report))]
        return []

    def _is_stuck(self, now: float) -> bool:
        """Say whether a message must have been lost although the connection lives."""
        if self.paused or not self._flight:
            return False
        return now - self._progress_at > self._settings.resend_after_s

    def _offer(self, files: Sequence[FileHeader], now: float) -> list[Action]:
        if not self._flight:
            self._progress_at = now
        self._flight.update({(f.seq, f.rev): _Transfer(f) for f in files})
        return [Send(wire.Offer(files=part)) for part in _batches(files)]

    def _next_chunk(self, now: float) -> list[Action]:
        if not self.is_open:
            return []
        for item, transfer in self._flight.items():
            length = min(transfer.upto - transfer.sent, self._settings.chunk_bytes)
            if length > 0:
                offset, transfer.sent = transfer.sent, transfer.sent + length
                self._progress_at = now
                return [SendChunk(item, offset, length)]
        return []

    def _heard(self, message: Message, now: float) -> list[Action]:  # noqa: PLR0911 - one return a case
        self._heard_at = now
        match message:
            case wire.Stored(items=items):  # a fact on disk, whoever says it, whenever
                self._progress_at = now
                for item in items:
                    self._flight.pop(item, None)
                return [Settle("stored", items)]
            case wire.GoneOk(items=items):
                return [Settle("told", items)]
            case wire.Welcome():
                return self._welcomed(message, now)
            case wire.Refused():
                return self._refused(message, now)
            case wire.Reset() if self.is_open:
                return self._greet(now)
            case wire.NeedBytes(files=files) if self.is_open:
                self._grant(files, now)
                return []
            case wire.Retry() if self.is_open:
                return self._retry(message)
            case wire.Pong(paused=paused, notice=notice) if self.is_open:
                if self.paused and not paused:
                    self._progress_at = now
                self.paused, self.notice = paused, notice
                return []
            case _:
                return []  # not for this side, or of a connection that is gone

    def _welcomed(self, welcome: wire.Welcome, now: float) -> list[Action]:
        if self.is_open or self._said_hello_at is None:
            return []  # a repeat
        self.is_open, self.is_refused, self.trouble = True, False, None
        self.paused, self.notice = welcome.paused, welcome.notice
        self._pinged_at = self._progress_at = now
        return []

    def _refused(self, refused: wire.Refused, now: float) -> list[Action]:
        if refused.seq is not None and refused.rev is not None:
            item = (refused.seq, refused.rev)
            self._flight.pop(item, None)
            return [Settle("rejected", [item], refused.reason)]
        if refused.code == "journal_reused":
            if not self.is_open:
                return []  # of the journal that we have just given up
            self.is_open = False
            return [Renew(refused.reason)]
        self.trouble = refused.reason
        self.is_open, self.is_refused = False, True
        self._said_hello_at = now
        self._flight.clear()
        return [Forget()]

    def _grant(self, files: Iterable[wire.Need], now: float) -> None:
        for need in files:
            transfer = self._flight.get((need.seq, need.rev))
            if transfer is None:
                continue
            self._progress_at = now
            if transfer.upto == 0:  # the first grant says where to begin
                transfer.sent = min(need.offset, transfer.header.size)
            transfer.upto = max(transfer.upto, min(need.upto, transfer.header.size))

    def _retry(self, retry: wire.Retry) -> list[Action]:
        item = (retry.seq, retry.rev)
        transfer = self._flight.pop(item, None)
        if transfer is None:
            return []
        if retry.reason == "mismatch":  # it changed under our hands: look at it anew
            return [Settle("doubtful", [item])]
        self._flight[item] = _Transfer(transfer.header)
        return [Send(wire.Offer(files=(transfer.header,)))]


def _batches(items: Sequence[T]) -> list[tuple[T, ...]]:
    """Cut what is to be said into messages of a size the wire allows."""
    starts = range(0, len(items), wire.ITEMS)
    return [tuple(items[start : start + wire.ITEMS]) for start in starts]
