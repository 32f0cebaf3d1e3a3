"""What the server's state machine is told, and what it wants done: the events and actions.

Values only; `ingest_machine` maps one to the other, `ingest` produces and obeys them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from emcopilot import wire
from emcopilot.wire import FileHeader, Item, Message


class Key(NamedTuple):
    """One file revision of one agent, as sent."""

    agent_id: int
    journal: str
    seq: int
    rev: int

    @property
    def item(self) -> Item:
        """The name that the agent knows."""
        return self.seq, self.rev


# Events ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """An agent said something."""

    peer: bytes
    """Routing id of the connection."""
    public_key: str
    agent_id: int | None
    """None: this key may not deliver (any more)."""
    message: Message
    payload: memoryview = field(default_factory=lambda: memoryview(b""))
    present: frozenset[str] = frozenset()
    """Which of the offered hashes lie in the store already, with the size offered."""


@dataclass(frozen=True, slots=True)
class Written:
    """A chunk was appended; `whole`: all bytes are there and are those promised."""

    key: Key
    outcome: Literal["partly", "whole", "mismatch"]


@dataclass(frozen=True, slots=True)
class Committed:
    """These files are on disk and in the database."""

    keys: Sequence[Key]
    refused: Mapping[Key, str] = field(default_factory=dict[Key, str])
    """Files of the same group that are not: why their number stands for other bytes."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Disk or database refused these files; nothing of them is kept."""

    keys: Sequence[Key]
    reason: str


@dataclass(frozen=True, slots=True)
class GoneRecorded:
    """These losses are in the accounts."""

    peer: bytes
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Revoked:
    """A key may not deliver any more."""

    public_key: str


@dataclass(frozen=True, slots=True)
class Drained:
    """No message is waiting: whatever is ready may be committed."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    free_bytes: int
    """Free space on the data disk."""


Event = Heard | Written | Committed | Failed | GoneRecorded | Revoked | Drained | Tick

# Actions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Append:
    """Append these bytes to what there is of a file."""

    key: Key
    header: FileHeader
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Drop:
    """Throw away what there is of a file."""

    key: Key


@dataclass(frozen=True, slots=True)
class Commit:
    """Make these files durable, all in one transaction."""

    files: Sequence[tuple[Key, FileHeader]]


@dataclass(frozen=True, slots=True)
class RecordGone:
    """Enter these losses in the accounts."""

    peer: bytes
    agent_id: int
    journal: str
    items: Sequence[wire.GoneItem]


@dataclass(frozen=True, slots=True)
class RecordReport:
    """Keep what an agent says of itself."""

    agent_id: int
    hello: wire.Hello
    report: wire.Report


Action = Send | Append | Drop | Commit | RecordGone | RecordReport
