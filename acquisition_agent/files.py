"""What the agent says about a file: where it lies, what is sealed, what is lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Item = tuple[int, int]
"""(seq, rev): the name of one sealed revision on the wire."""


class Place(NamedTuple):
    """Where a file lies: the label of its watched folder and the path below it."""

    root: str
    relative: str
    """As on disk, separated by "/"."""

    @property
    def folder(self) -> str:
        """The part before the last separator; empty for the watched folder itself."""
        return self.relative.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.relative.rpartition("/")[2]


class Known(NamedTuple):
    """What the journal knows of a name."""

    seq: int
    state: str
    rev: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One complete file revision, ready to be sent."""

    seq: int
    rev: int
    source_key: str
    path: Path
    size: int
    sha256: str
    mtime_ns: int
    sealed_at: float
    """Unix time, for display only: order and waiting never follow the wall clock."""


@dataclass(frozen=True, slots=True)
class GoneFile:
    """One revision that will not arrive, and why."""

    seq: int
    rev: int
    source_key: str
    reason: str
    """vanished | changed | unreadable | rejected"""


@dataclass(frozen=True, slots=True)
class Counts:
    """The agent's accounts: discovered = stored + pending + vanished + rejected."""

    discovered: int
    stored: int
    pending: int
    vanished: int
    """Vanished or unreadable before the server had them."""
    rejected: int
    pending_bytes: int
    oldest_unsent_s: float
    """Age of the oldest sealed file the server does not have; 0 when there is none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that needs a person's eye."""

    source_key: str
    text: str
