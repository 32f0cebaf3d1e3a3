"""What the server says to whoever looks back over a session: undoing, marks, users."""

from typing import Literal

from pydantic import Field

from emcopilot.messages import Changed, Payload


class Undone(Changed):
    """The asker's last change is taken back."""

    frame_id: int
    action: str
    """What was taken back, e.g. "reject particles"."""


class Mark(Payload):
    """Something that happened to a session besides its frames."""

    kind: Literal["calibration", "reject", "model", "problem"]
    text: str
    time_s: float | None
    """Since the session's first file was written, as the timeline counts."""
    number: int | None = None
    """Of the frame that it is about, where it is about one."""


class Marks(Payload):
    """What happened to a session, in order of time; the newest where there is too much."""

    marks: list[Mark] = Field(default_factory=list)
