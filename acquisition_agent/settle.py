"""When is a file finished? A pure state machine: looks in, decisions out.

new name ──look──> candidate ──same look for `still_s`, or probe "complete"──> SEAL
                       ^  │
    size or time moved └──┘      probe "incomplete" or size 0 blocks; after
                                 `stalled_after_s` the operator is told why

Time is the agent's monotonic clock, handed in: the clock of a share may be days off,
so a file's own times are compared with each other and never with now.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple


class Look(NamedTuple):
    """What one stat tells about a file."""

    size: int
    mtime_ns: int
    file_id: str | None
    """Device and inode as text; None where the file system has no stable number."""


class Verdict(StrEnum):
    """What the bytes themselves say about being complete."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    UNKNOWN = "unknown"


class Decision(StrEnum):
    """What to do with a candidate now."""

    PROBE = "probe"
    SEAL = "seal"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a file has to hold still; all on the monotonic clock."""

    still_s: float = 1.0
    """For a file whose bytes cannot tell; 1 s on a local disk, 3 s on a share."""
    revision_still_s: float = 5.0
    """For a file that changed after it was sealed: a stack that grows page by page is
    complete after every page, and must not become one revision for each."""
    stalled_after_s: float = 60.0
    """A file that is still not finished after so long is shown to the operator."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is not sealed, and since when it has looked like this."""

    look: Look
    still_since_s: float
    first_seen_s: float
    verdict: Verdict | None = None
    """The probe's word on exactly these bytes; None until they were probed."""
    is_revision: bool = False


def first_sight(look: Look, now_s: float, *, is_revision: bool = False) -> Candidate:
    """Begin to watch a file that is new, or has changed since it was sealed."""
    return Candidate(look, now_s, now_s, is_revision=is_revision)


def looked(candidate: Candidate, look: Look, now_s: float) -> Candidate:
    """Take one more look into account; any movement starts the wait anew."""
    if look == candidate.look:
        return candidate
    return replace(candidate, look=look, still_since_s=now_s, verdict=None)


def probed(candidate: Candidate, verdict: Verdict) -> Candidate:
    """Keep the probe's verdict until the file moves again."""
    return replace(candidate, verdict=verdict)


def decide(candidate: Candidate, now_s: float, patience: Patience) -> Decision:
    """Say what the candidate needs: a probe, the seal, or more time."""
    if candidate.look.size == 0 or candidate.verdict is Verdict.INCOMPLETE:
        return Decision.WAIT
    if candidate.verdict is None:
        return Decision.PROBE
    is_due = now_s >= candidate.still_since_s + _needed_s(candidate, patience)
    return Decision.SEAL if is_due else Decision.WAIT


def next_look_s(candidate: Candidate, now_s: float, patience: Patience) -> float:
    """Return when to look next: the longer a file holds still, the more rarely."""
    pause_s = min(max((now_s - candidate.still_since_s) / 10, 0.1), 10.0)
    if candidate.verdict in (Verdict.COMPLETE, Verdict.UNKNOWN):
        due_s = candidate.still_since_s + _needed_s(candidate, patience)
        return min(now_s + pause_s, max(due_s, now_s))
    return now_s + pause_s


def explain(candidate: Candidate, now_s: float, patience: Patience) -> str | None:
    """Say in the operator's words why a file waits, once it has waited too long."""
    if now_s - candidate.first_seen_s < patience.stalled_after_s:
        return None
    if now_s - candidate.still_since_s < patience.stalled_after_s:
        return "still growing"
    if candidate.look.size == 0:
        return "empty: nothing was written into it"
    return "not complete and no longer growing: was its writer stopped?"


def _needed_s(candidate: Candidate, patience: Patience) -> float:
    needed_s = 0.0 if candidate.verdict is Verdict.COMPLETE else patience.still_s
    if candidate.is_revision:
        return max(needed_s, patience.revision_still_s)
    return needed_s
