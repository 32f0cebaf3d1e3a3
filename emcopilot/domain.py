"""Domains: how far a frame's look is from others', and the difference in words.

Distances are taken in the network's part of a look, whose unit is the usual difference between
frames of one domain; a few nearest frames decide, not a mean, so that a film may grow and coarsen
away from where it began without leaving its domain. What is said in words comes from the named
statistics and from what the live model finds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emcopilot.frame_look import (
    BLANK_STRUCTURE,
    LOOK_WIDTH,
    NETWORK_WIDTH,
    STATISTICS,
    FrameLook,
)

LooksArray = NDArray[np.float32]
"""Shape (N, LOOK_WIDTH)."""

NEIGHBOURS = 3
"""Nearest looks whose mean distance counts: one alone may be an odd frame."""
USUAL_SCALE = 3.5
"""Usual distance of a frame to the nearest others of its domain at another dose and another place
of the specimen: 2.8 in the middle, over groups that `benchmarks/frame_looks.py` never fitted to.
Along a film it is 0.5 to 2, from HAADF to BF 9 to 20."""
_PRIOR_FRAMES = 20
"""As many frames' weight the usual scale has beside a domain's own."""
_SCALE_BOUNDS = (0.6, 1.3)
"""Of the usual scale. A single even film would shrink it until a change of beam left it."""
JOINS = 1.2
"""Distance, in a domain's scales, up to which a frame belongs to it."""
DULL = 0.5
"""Of the domain's usual sharpness: slopes half as steep are out of focus, as `models.rough_mask`
has it."""
_LEAST_TO_COMPARE = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """What the live model finds in a frame; no domain rests on it, for models change."""

    particle_count: int
    doubtful_share: float
    """Pixels in doubt over those that are particle; see `emcopilot.confidence`."""
    diameter_px: float | None
    """Median; None where nothing is found."""
    covered_share: float
    """Of the frame, by particles."""

    @property
    def is_sure(self) -> bool:
        """Whether particles are found, with less doubt than their own area."""
        return self.particle_count > 0 and self.doubtful_share < 1.0


def nearest(look: FrameLook, others: LooksArray) -> float:
    """Return the mean distance to the nearest of `others`, infinite where there are none."""
    if not len(others):
        return math.inf
    apart = np.linalg.norm(others[:, :NETWORK_WIDTH] - look.network, axis=1)
    count = min(NEIGHBOURS, len(apart))
    return float(np.mean(np.partition(apart, count - 1)[:count]))


def left_out_distances(
    looks: LooksArray, groups: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """Return each look's mean distance to the nearest others, shape (N,).

    Parameters
    ----------
    looks : float32 array, shape (N, LOOK_WIDTH)
    groups : int array, shape (N,), optional
        Looks of one group, such as views of one frame, do not count as others.
    """
    apart = _apart(looks, groups)
    count = max(1, min(NEIGHBOURS, len(looks) - 1))
    return np.partition(apart, count - 1, axis=1)[:, :count].mean(1)


def left_out_ratios(
    looks: LooksArray, reach: NDArray[np.float32], groups: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return each look's mean distance to the nearest others in their reaches, shape (N,).

    Parameters are those of `left_out_distances`; `reach` is one number a look, shape (N,).
    """
    apart = _apart(looks, groups)
    count = max(1, min(NEIGHBOURS, len(looks) - 1))
    near = np.argpartition(apart, count - 1, axis=1)[:, :count]
    distance = np.take_along_axis(apart, near, axis=1).mean(1)
    return distance / reach[near].mean(1)


def _apart(looks: LooksArray, groups: NDArray[np.intp] | None) -> NDArray[np.float64]:
    """Return distances between all looks (N, N); within a group they are infinite."""
    places = looks[:, :NETWORK_WIDTH].astype(np.float64)
    squares = np.square(places).sum(1)
    apart = np.sqrt(
        np.maximum(squares[:, None] + squares[None] - 2 * places @ places.T, 0)
    )
    if groups is None:
        groups = np.arange(len(looks))
    apart[groups[:, None] == groups[None]] = np.inf
    return apart


def domain_scale(looks: LooksArray) -> float:
    """Return how far a domain's frames lie apart, drawn towards what is usual.

    Parameters
    ----------
    looks : float32 array, shape (N, LOOK_WIDTH)
        Of its reservoir.
    """
    if len(looks) <= NEIGHBOURS:
        return USUAL_SCALE
    own = float(np.quantile(left_out_distances(looks), 0.95))
    weight = len(looks) / (len(looks) + _PRIOR_FRAMES)
    low, high = (bound * USUAL_SCALE for bound in _SCALE_BOUNDS)
    return float(np.clip(weight * own + (1 - weight) * USUAL_SCALE, low, high))


def flaw_of(look: FrameLook, reading: Reading, domain: LooksArray) -> str | None:
    """Say why nothing should be learnt from a frame that has a look: "blank", "defocused", None.

    Parameters
    ----------
    look : FrameLook
    reading : Reading
        Of the live model: particles that it is sure of make no blank frame.
    domain : float32 array, shape (N, LOOK_WIDTH)
        Looks of the frames that it would join, or of the session's last ones.
    """
    if look["structure"] < BLANK_STRUCTURE and not reading.is_sure:
        return "blank"
    if len(domain) < _LEAST_TO_COMPARE:
        return None
    sharp = column(domain, "sharpness")
    is_dull = look["sharpness"] < float(np.median(sharp)) + math.log10(DULL)
    return "defocused" if is_dull else None


def column(looks: LooksArray, statistic: str) -> NDArray[np.float64]:
    """Return one statistic of all looks, shape (N,)."""
    return looks[:, NETWORK_WIDTH + STATISTICS.index(statistic)].astype(np.float64)


def stacked(looks: Sequence[FrameLook]) -> LooksArray:
    """Return looks as one array, shape (N, LOOK_WIDTH)."""
    if not looks:
        return np.empty((0, LOOK_WIDTH), np.float32)
    return np.stack([look.vector for look in looks])
