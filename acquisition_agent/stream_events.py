"""What the agent's state machine is told, and what it wants done: the events and actions.

Values only; `stream_machine` maps one to the other, `stream` produces and obeys them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from emcopilot import wire
from emcopilot.wire import FileHeader, GoneItem, Item, Message

# Events ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The socket has a new connection, encrypted, to the right server."""


@dataclass(frozen=True, slots=True)
class Troubled:
    """There is no connection, for a reason that a person can act on."""

    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The server said something."""

    message: Message


@dataclass(frozen=True, slots=True)
class Sealed:
    """The journal has these files to send."""

    files: Sequence[FileHeader]


@dataclass(frozen=True, slots=True)
class Lost:
    """The journal has these losses to tell."""

    items: Sequence[GoneItem]


@dataclass(frozen=True, slots=True)
class Writable:
    """The socket takes one more chunk."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is in flight could not be read as it was sealed."""

    item: Item


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    report: wire.Report


@dataclass(frozen=True, slots=True)
class Renewed:
    """The journal has a new id."""

    journal: str


Event = (
    Connected | Troubled | Heard | Sealed | Lost | Writable | Unreadable | Tick | Renewed
)  # fmt: skip

# Actions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    message: Message


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Read these bytes of a file and send them."""

    item: Item
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Throw the socket away and make a new one."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is in flight any more: offer everything again."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Write down what became of these files."""

    outcome: Literal["stored", "told", "doubtful", "rejected"]
    items: Sequence[Item]
    reason: str | None = None
    """Why the server rejects them."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Give the journal a new id, and say so with Renewed."""

    reason: str


Action = Send | SendChunk | Reconnect | Forget | Settle | Renew
