"""What one viewer looks at, and everything beside the picture that they see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from emcopilot.messages import (
    AgentAnswer,
    Convergence,
    ProblemFile,
    PsdAnswer,
    SessionAnswer,
    Stats,
)

Span = Literal["session", "frame"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this viewer looks at."""

    session_id: int | None
    """None: the session that was active last."""
    span: Span
    """Whose particles the figures and the distribution are about."""
    frame_id: int | None
    """The frame on the canvas."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything beside the picture, read at one moment."""

    at: float
    """Unix time."""
    session: SessionAnswer | None
    psd: PsdAnswer
    convergence: Convergence | None
    """Of the session's mean diameter, whichever span is shown."""
    stats: Stats
    agents: list[AgentAnswer]
    problems: list[ProblemFile]
    troubles: dict[str, str]
    """Part of the server -> why it does not work; empty when all is well."""
    device: str
    model_id: str


Look = Callable[[Wanted], View]
"""Reads a view; blocks for milliseconds, so it is called in a thread."""
