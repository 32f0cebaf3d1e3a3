"""What one viewer looks at, and everything beside the picture that they see."""

from dataclasses import dataclass
from typing import Literal, Protocol

from emcopilot.messages import (
    AgentAnswer,
    Convergence,
    ProblemFile,
    PsdAnswer,
    SessionAnswer,
    Stats,
    TimelineAnswer,
)
from emcopilot.review_messages import Mark

Span = Literal["session", "minute", "frame"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this viewer looks at."""

    session_id: int | None
    """None: the session that was active last."""
    span: Span
    """Whose particles the figures and the distribution are about."""
    frame_id: int | None
    """The frame on the canvas."""
    bins: int | None = None
    """Of the histogram; None chooses by the particles."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is cheap to know, read at one moment."""

    at: float
    """Unix time."""
    sessions: list[SessionAnswer]
    session: SessionAnswer | None
    """The one that is looked at."""
    last_number: int
    """Of that session's newest frame."""
    stats: Stats
    agents: list[AgentAnswer]
    clocks_s: dict[int, float]
    """Agent -> how far its clock is ahead of ours, where that can be told."""
    problems: list[ProblemFile]
    troubles: dict[str, str]
    """Part of the server -> why it does not work; empty when all is well."""
    device: str
    model_id: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What the particles of the session and of the chosen span say."""

    psd: PsdAnswer
    """Of the chosen span."""
    convergence: Convergence | None
    """Of the session's mean diameter, whichever span is shown."""
    timeline: TimelineAnswer | None
    marks: list[Mark]


class Looker(Protocol):
    """Reads for one or more viewers; every method blocks, so it is called in a thread."""

    def view(self, wanted: Wanted) -> View:
        """Read what is cheap: milliseconds."""
        ...

    def last_number(self, session_id: int) -> int:
        """Return the number of a session's newest frame."""
        ...

    def measured(self, wanted: Wanted) -> Measured:
        """Read what takes longer the more particles there are."""
        ...
