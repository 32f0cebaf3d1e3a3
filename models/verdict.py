"""Step I: is the candidate better? Judged on real frames that have no labels.

Three ways to cut the same held-back frames stand side by side: the candidate, the incumbent and
the classical cut. Without truth, a mask is worth what a person would ask of it: a step in
brightness across the outlines, particles that bulge, and outlines that stay when the frame is
turned over and a little grain is added.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.classical_cut import drawn_in, grown, outline_step, shrunk, solidity
from models.side_by_side import side_by_side

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]
Cut = Callable[[Frame], Mask]
Word = Literal["promote", "doubtful", "reject"]

GRAIN = 0.15
"""Added noise, in units of a normalised frame: hardly seen."""
CLEARLY_BETTER = 1.05
"""Times the incumbent's worth, from which on a candidate is promoted: it takes the incumbent's
place, not the classical cut's."""
AS_GOOD = 0.95
"""Of the incumbent's worth, below which a candidate is rejected, and of the classical cut's, from
which on one is promoted. On a clean simulated film, where both reach 0.97 MIoU, the two are worth
the same within 2 %."""
LEAST_OF_CUT = 0.85
"""Of the classical cut's worth, below which a candidate is rejected. That cut draws its outlines
where brightness tells, so its steps are high, be they right or wrong: on real micrographs (EMPS)
exact masks drawn by hand are worth 0.79 of it (`benchmarks/worth_of_masks.py`). Five candidates
learnt there had 0.51, 0.53 and 0.54, which were below the tuned one-liner (MIoU 0.73 to 0.75
against 0.81), 0.90 and 0.94, both on the same six frames, which were above it (0.84 and 0.82)."""
SMALL_LOSS = 0.003
"""MIoU that a candidate may lose on synthetic frames and still be "doubtful": by as much two
trainings on one synthetic set differed that had other seeds (bright field, 0.976 and 0.979)."""
LEAST_FIDELITY = 0.9
"""Overlap of the synthetic set with its masks below which nothing learnt from it is trusted."""


class Looked(NamedTuple):
    """What is seen of one frame's mask; units and ranges are those of `Worth`."""

    step: float
    step_drawn_in: float
    """Across outlines drawn in by a pixel."""
    step_moved_out: float
    solidity: float
    stability: float
    covered: float


@dataclass(frozen=True, slots=True)
class Worth:
    """What one way of cutting makes of the held-back frames, mean over them."""

    worth: float
    """Product of the three below, frame by frame."""
    step: float
    """Brightness across the outlines, in units of a normalised frame; the highest of three: of the
    outlines as they are, all drawn in by a pixel, all moved out by one."""
    solidity: float
    """Particles' area over that of their convex hulls, 0..1."""
    stability: float
    """IoU of the masks of a frame and of its changed copy, 0..1."""
    covered: float
    """Share of pixels that are particle."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a candidate, and why."""

    word: Word
    reasons: tuple[str, ...]


def worth_of(cut: Cut, frames: Sequence[Frame], seed: int = 0) -> Worth:
    """Judge a way of cutting by what it makes of normalised frames, each (H, W)."""
    return weigh(look_at_masks(cut, frames, seed))


def look_at_masks(cut: Cut, frames: Sequence[Frame], seed: int = 0) -> list[Looked]:
    """Return, frame by frame, what a worth is made of; parameters are those of `worth_of`."""
    return side_by_side(
        lambda numbered: _look(cut, numbered[1], seed + numbered[0]),
        enumerate(frames),
        largest_px=max(frame.size for frame in frames),
    )


def weigh(looked: Sequence[Looked]) -> Worth:
    """Put together what was seen of one way of cutting, 1 or more frames."""
    *steps, solid, stable, covered = np.array(looked).T
    # Where precisely a soft edge ends is a matter of definition, so of one for all frames.
    step = max(steps, key=np.mean)
    return Worth(
        worth=float((step * solid * stable).mean()),
        step=float(step.mean()),
        solidity=float(solid.mean()),
        stability=float(stable.mean()),
        covered=float(covered.mean()),
    )


def _look(cut: Cut, frame: Frame, seed: int) -> Looked:
    mask = cut(frame)
    grain = np.random.default_rng(seed).standard_normal(frame.shape, np.float32)
    changed = np.asarray(frame + GRAIN * grain, np.float32)[::-1, ::-1]
    again = cut(np.ascontiguousarray(changed))[::-1, ::-1]
    union = np.count_nonzero(mask | again)
    if not mask.any():
        # Nothing found is worth nothing, but it is no contradiction where nothing is there.
        return Looked(0.0, 0.0, 0.0, 0.0, float(union == 0), 0.0)
    stable = np.count_nonzero(mask & again) / union
    return Looked(*_steps(frame, mask), solidity(mask), stable, float(mask.mean()))


def _steps(frame: Frame, mask: Mask) -> tuple[float, float, float]:
    if not shrunk(mask, 1).any():
        return 0.0, 0.0, 0.0  # specks alone: moved out, noise would have rims
    moved = (mask, drawn_in(mask), grown(mask, 1))
    as_is, inner, outer = (abs(outline_step(frame, one)) for one in moved)
    return as_is, inner, outer


def verdict(
    candidate: Worth,
    incumbent: Worth,
    classical: Worth,
    *,
    fidelity: float,
    synthetic_gain: float,
    forgotten: Sequence[str] = (),
) -> Verdict:
    """Weigh a candidate against its rivals.

    Parameters
    ----------
    candidate, incumbent, classical : Worth
        On the same frames.
    fidelity : float
        Mean overlap of the synthetic set with its masks, by a cut that never saw it.
    synthetic_gain : float
        MIoU of the candidate less the incumbent's on synthetic frames that neither learnt from.
        Worth does not see what is missed; this does. A loss is never promoted, one up to
        `SMALL_LOSS` is left to the operator.
    forgotten : sequence of str
        What the candidate lost that the incumbent was good at, in words.
    """
    reasons = (
        f"outlines are worth {candidate.worth:.3f} on held-back real frames, the incumbent's "
        f"{incumbent.worth:.3f}, the classical cut's {classical.worth:.3f} (promoted from "
        f"{CLEARLY_BETTER} of the incumbent's and {AS_GOOD} of the cut's on, rejected below "
        f"{AS_GOOD} of the one or {LEAST_OF_CUT} of the other)",
        f"masks of the synthetic set are true to {fidelity:.3f} (asked: {LEAST_FIDELITY})",
        f"MIoU on synthetic frames changes by {synthetic_gain:+.4f} (promoted from 0 on, rejected "
        f"below -{SMALL_LOSS})",
        *(f"forgets: {what}" for what in forgotten),
    )
    if candidate.worth == 0:
        return Verdict("reject", ("the candidate finds no particle", *reasons))
    is_as_good = (
        candidate.worth >= AS_GOOD * incumbent.worth
        and candidate.worth >= LEAST_OF_CUT * classical.worth
    )
    # Asked this way round, a figure that is no number speaks for nothing.
    is_true = fidelity >= LEAST_FIDELITY and synthetic_gain >= -SMALL_LOSS
    if not (is_true and is_as_good):
        return Verdict("reject", reasons)
    is_better = (
        candidate.worth >= CLEARLY_BETTER * incumbent.worth
        and candidate.worth >= AS_GOOD * classical.worth
    )
    # Where no rival finds anything either, nothing speaks for what the candidate finds.
    is_confirmed = max(incumbent.worth, classical.worth) > 0
    is_clear = is_better and is_confirmed and synthetic_gain >= 0 and not forgotten
    return Verdict("promote" if is_clear else "doubtful", reasons)
