"""Probability map -> labels: one number per particle, touching particles parted.

Almost every component of a micrograph is one convex particle. Its moments say so, and
only the others pay for a distance transform and a watershed.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.runs import IntArray, Labels, Mask, ellipse_fill, moments_of, runs_of
from emcopilot.watershed import parted

MIN_AREA_PX = 9
"""A disc of 4 px, the smallest we promise to measure, covers 12 px and never fewer than
9 when its outline is half a pixel tight; detector spikes cover 1-4 px."""

_ELLIPSE_FILL = 0.965
"""Area over that of the ellipse with the same second moments: 1 for every ellipse, 0.955
for every rectangle, 0.894 for two touching equal discs. Below this a component is looked
at twice; it is not a verdict."""


def label_particles(
    probability: NDArray[np.uint8] | Mask,
    *,
    threshold: int = 128,
    min_area_px: int = MIN_AREA_PX,
) -> Labels:
    """Number the particles of one frame.

    Parameters
    ----------
    probability : uint8 array, shape (H, W)
        Particle probability, 0..255; a bool array is taken as the mask itself.
    threshold : int
        Lowest probability that is particle; 128 puts an edge where a pixel is half
        covered, so areas are unbiased.
    min_area_px : int
        Smaller connected specks are background.

    Returns
    -------
    int32 array, shape (H, W)
        0 is background; 1..P in the order of each particle's first pixel.

    Notes
    -----
    Pixels belong together when they share an edge; corners do not join. Holes no larger
    than `min_area_px` and holes of otherwise convex particles belong to the particle.
    """
    components, count = ndimage.label(_mask(probability, threshold), output=np.int32)
    labels, count = _without_specks(components, count, min_area_px)
    fill = ellipse_fill(moments_of(runs_of(labels), count))
    suspects = np.flatnonzero(fill < _ELLIPSE_FILL) + 1
    return _split(labels, suspects, count)


def _mask(probability: NDArray[np.uint8] | Mask, threshold: int) -> Mask:
    if probability.ndim != 2:
        raise ValueError(f"one frame has shape (H, W), got {probability.shape}")
    if probability.dtype == np.bool_:
        return probability.astype(np.bool_, copy=False)
    return probability >= threshold


def _without_specks(
    components: Labels, count: int, min_area_px: int
) -> tuple[Labels, int]:
    runs = runs_of(components)
    keep = np.bincount(runs.label, runs.length, count + 1) >= min_area_px
    keep[0] = False
    kept = int(np.count_nonzero(keep))
    if kept == count:
        return components, count
    number = np.zeros(count + 1, np.int32)
    number[keep] = np.arange(1, kept + 1)
    return number[components], kept


def _split(labels: Labels, suspects: IntArray, count: int) -> Labels:
    """Part the components numbered `suspects` in place; new parts get new numbers."""
    boxes = ndimage.find_objects(labels) if len(suspects) else []
    for number in suspects:
        crop = labels[boxes[number - 1]]
        whole = _filled(np.pad(crop == number, 1))
        parts, extra = parted(whole)
        # What lies in a hole may be a particle of its own: only background is filled.
        mine = whole[1:-1, 1:-1] & ((crop == 0) | (crop == number))
        crop[mine] = np.where(parts > 1, count - 1 + parts, number)[1:-1, 1:-1][mine]
        count += extra
    return labels


def _filled(piece: Mask) -> Mask:
    """Close the holes of a convex piece: a pale core, not a ring of particles."""
    filled: Mask = ndimage.binary_fill_holes(piece)
    hole = np.count_nonzero(filled) - np.count_nonzero(piece)
    if hole <= MIN_AREA_PX:
        return filled
    (fill,) = ellipse_fill(moments_of(runs_of(filled.astype(np.int32)), 1))
    return filled if fill >= _ELLIPSE_FILL else piece
