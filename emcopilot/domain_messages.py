"""What the server says over REST of domains and of the domain-shift alarm."""

from typing import Literal

from pydantic import Field

from emcopilot.messages import Payload, Request


class DomainAnswer(Payload):
    """Frames that share imaging conditions and look."""

    id: int
    name: str
    look: str
    """In words, e.g. "bright on dark, structures of 12 px"."""
    instrument: str | None
    modality: str | None
    detector: str | None = None
    sample: str | None = None
    """Both as the files say; null where they do not, and from older servers."""
    pixel_size_nm: tuple[float, float] | None
    """The octave that its pixel sizes lie in; null where they are unknown."""
    created_at: float
    seen_at: float
    frame_count: int
    """Frames that ever joined."""
    reservoir_count: int
    """Frames that a job would choose from."""
    model_id: str | None
    """The model promoted for it."""
    selects_model: bool
    """Whether its frames turn the server to that model without being asked."""


class DomainDetail(DomainAnswer):
    """One domain, with what is left out of it."""

    flaws: dict[str, int]
    """Frames lately flagged in the sessions that show it: blank, saturated, defocused."""


class ReservoirFrameAnswer(Payload):
    """One frame that stands for its domain."""

    frame_id: int
    name: str
    page: int


class DomainName(Request):
    """The operator's name for a domain."""

    name: str = Field(min_length=1, max_length=80, pattern=r"\S")


class DomainModel(Request):
    """Which model a domain remembers."""

    model_id: str | None
    """Null: none."""
    selects: bool = False
    """Turn to the model when frames of the domain come, rather than propose it."""


class ShiftProposal(Payload):
    """What could be done about a shift."""

    action: Literal["adapt", "promote"]
    domain_id: int | None
    model_id: str | None
    selects: bool


class ShiftAnswer(Payload):
    """How a session stands to the live model."""

    session_id: int
    session: str
    state: Literal["ok", "shifted", "returned"]
    """"returned": back in a domain that has a model of its own, which is not live."""
    reason: str
    """In words, e.g. "contrast inverted, particles 4x smaller"; empty when ok."""
    model_id: str
    """That was live."""
    domain_id: int | None
    since_frame_id: int | None
    at: float
    proposal: ShiftProposal | None
