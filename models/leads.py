"""What looks at one frame say, as leads, and how they are put together.

The answers are meant as leads of the logits: a sure look outweighs an unsure one.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from emcopilot.confidence import doubtful_share
from emcopilot.labels import label_particles
from models.tiling import to_uint8

Lead = NDArray[np.float32]
"""Particle minus background logit, shape (H, W)."""
Window = tuple[slice, slice]
"""Rows and columns of a part of a frame."""

HARDLY = -2.2
"""Lead of a probability of 10 %: less is background without a doubt."""
_LEAST_DOUBT = 0.25
"""Where nothing is seen there is no rim to doubt; a sure look at particles of 10 px has 0.3."""
_SUREST = 1e-5
"""Leads end at 11.5 either way: none outweighs all others."""
_HOLE = 5
"""Steps of the reduced look: what is missing of a large particle is wider, 20 px natively; what
parts the particles of a cluster is narrower."""
_SURE_FROM_AFAR, _LEAST_SHOWN = 3.7, 0.1
"""Mean lead of a large particle from afar, and the share of it that the other looks must show too.
Chosen on simulated frames of the base model: particles had 3.8 and more, but for five of some
fifty; what was seen in empty fields of HAADF had up to 3.5, and once 3.6 with a share of 0.03."""


def lead_of(probability: NDArray[np.float32]) -> Lead:
    """Return the lead of the logits that a probability 0..1 means, same shape."""
    inside = np.clip(probability, _SUREST, 1 - _SUREST)
    return np.log(inside / (1 - inside))


def probability_of(lead: Lead) -> NDArray[np.float32]:
    """Return the particle probability 0..1 that a lead means, same shape."""
    return expit(lead)


def mean_lead(leads: Sequence[Lead]) -> Lead:
    """Return the mean of leads of one shape."""
    total = leads[0]
    for lead in leads[1:]:
        total = total + lead
    return total / np.float32(len(leads))


def surest_lead(leads: Sequence[Lead]) -> Lead:
    """Return the mean of leads of one shape, each the heavier the less it doubts."""
    weights = np.array([1 / max(doubt_of(lead), _LEAST_DOUBT) for lead in leads])
    shares = (weights / weights.mean()).astype(np.float32)
    return mean_lead([lead * w for lead, w in zip(leads, shares, strict=True)])


def doubt_of(lead: Lead) -> float:
    """Return the doubtful pixels of a look to one of a particle: a thin rim where it is sure."""
    return doubtful_share(to_uint8(probability_of(lead)))


def areas_px(lead: Lead) -> NDArray[np.intp]:
    """Return the areas of the particles that a look shows, ascending."""
    labels = label_particles(to_uint8(probability_of(lead)))
    return np.sort(np.bincount(labels.ravel())[1:])


def middle_diameter_px(areas_px: NDArray[np.intp]) -> float:
    """Return the diameter below which half of ascending areas lies; infinite where none is."""
    if not areas_px.size:
        return math.inf
    total = np.cumsum(areas_px)
    middle = areas_px[np.searchsorted(total, total[-1] / 2)]
    return math.sqrt(4 * float(middle) / math.pi)


def typical_diameter_px(lead: Lead) -> float:
    """Return the diameter below which half of the particles' area lies; infinite where none is.

    Not the median over particles: a few specks beside large particles would make them small.
    """
    return middle_diameter_px(areas_px(lead))


def most_seen_window(native: Lead, side_px: int) -> Window:
    """Return where a look saw most, be it in doubt: a square, or all of a smaller side."""
    seen = np.asarray(native > HARDLY, np.float32)
    density = ndimage.uniform_filter(seen, side_px, mode="constant")
    middle = np.unravel_index(int(density.argmax()), density.shape)
    rows, columns = (
        min(max(0, int(place) - side_px // 2), max(0, side - side_px))
        for place, side in zip(middle, native.shape, strict=True)
    )
    return slice(rows, rows + side_px), slice(columns, columns + side_px)


def with_specks(mean: Lead, enlarged: Lead, specks_px: float) -> Lead:
    """Keep the particles below `specks_px` that the enlarged look shows, leads of one shape.

    Connected pixels above 0 count as one particle: a speck has no neck to be parted at.
    """
    pieces = np.empty(enlarged.shape, np.int32)
    ndimage.label(enlarged >= 0, output=pieces)
    area_px = np.bincount(pieces.ravel())
    is_speck = area_px < math.pi / 4 * specks_px**2
    is_speck[0] = False
    return np.where(is_speck[pieces], np.maximum(mean, enlarged), mean)


def with_insides(mean: Lead, reduced: Lead, large_px: float, step_px: int) -> Lead:
    """Raise the insides of the large particles that the reduced look shows, to what it says.

    What is not sure from afar, or is seen from afar alone, is background that looks like a
    particle once its texture is gone. Outlines stay where the mean of the others drew them, and so
    do the gaps of a cluster, which from afar is one particle: filled is only what is five steps
    wide or more.

    Parameters
    ----------
    mean, reduced : float32 arrays, shape (H, W)
        What the other looks say together, and the reduced one.
    large_px : float
        Diameter from which a particle is large.
    step_px : int
        Pixels to one that the reduced look saw: on so coarse a grid insides are sought.

    Returns
    -------
    float32 array, shape (H, W)
        The mean itself where no large particle is seen.
    """
    coarse = (slice(None, None, step_px),) * 2
    seen = reduced[coarse] >= 0
    pieces = np.empty(seen.shape, np.int32)
    ndimage.label(seen, output=pieces)
    area = np.bincount(pieces.ravel())
    from_afar, shown = (
        np.bincount(pieces.ravel(), layer.ravel()) / np.maximum(area, 1)
        for layer in (reduced[coarse], mean[coarse] >= 0)
    )
    is_large = np.asarray(area * step_px**2 >= math.pi / 4 * large_px**2)
    is_large &= (from_afar >= _SURE_FROM_AFAR) & (shown >= _LEAST_SHOWN)
    is_large[0] = False
    large = is_large[pieces]
    if not large.any():
        return mean
    # Beyond the frame's rim a hole goes on.
    missing = np.pad(large & (mean[coarse] < 0), _HOLE, mode="edge")
    wide = ndimage.binary_opening(missing, np.ones((_HOLE, _HOLE), np.bool_))
    whole = ndimage.binary_dilation(wide, iterations=_HOLE, mask=missing)
    # One step on: its edge lies between two pixels of the grid.
    hole = np.empty(missing.shape, np.bool_)
    ndimage.binary_dilation(whole, output=hole)
    hole = hole[_HOLE:-_HOLE, _HOLE:-_HOLE]
    is_hole = _refined(hole, step_px, mean.shape) & (reduced >= 0)
    is_raised = (_refined(large, step_px, mean.shape) & (mean >= 0)) | is_hole
    return np.where(is_raised, np.maximum(mean, reduced), mean)


def _refined(
    mask: NDArray[np.bool_], step_px: int, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Repeat every pixel, and cut to a shape."""
    return mask.repeat(step_px, 0).repeat(step_px, 1)[: shape[0], : shape[1]]
