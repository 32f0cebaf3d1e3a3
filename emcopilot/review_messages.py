"""What the page asks for besides results: undoing, marks, uploads, users."""

from typing import Literal

from pydantic import Field

from emcopilot.messages import Changed, Payload, Request


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

    marks: list[Mark] = Field(default_factory=list[Mark])


class UploadAnswer(Payload):
    """A file that was sent over REST is stored and waits for its result."""

    file_id: int
    session: str
    name: str
    size: int
    sha256: str


class UserAnswer(Payload):
    """A token as an administrator sees it: everything but the secret."""

    id: int
    name: str
    scope: Literal["viewer", "operator", "admin"]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class UserRequest(Request):
    """A token to be made."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")
    """Whose or what it is for."""
    scope: Literal["viewer", "operator", "admin"] = "viewer"
    days: float | None = Field(default=None, gt=0, le=36_500)
    """Valid that long; null: until it is revoked."""


class NewUser(UserAnswer):
    """A token that was just made, with its secret."""

    token: str
    """Shown this once."""
