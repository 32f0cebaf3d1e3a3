"""Probability map -> labels: one number per particle, touching particles parted.

Almost every component of a micrograph is one convex particle. Its moments say so, and
only the others pay for a distance transform, a watershed and a walk along the outline.
"""
# scipy carries no types: its values are typed where they enter.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.hulls import hulls_of
from emcopilot.notches import parted_at_notches
from emcopilot.runs import (
    Boxes,
    IntArray,
    Labels,
    Mask,
    Runs,
    boxes_of,
    ellipse_fill,
    moments_of,
    runs_of,
)
from emcopilot.watershed import parted

MIN_AREA_PX = 9
"""A disc of 4 px, the smallest we promise to measure, covers 12 px, and still 9 when a
network draws its edge a quarter of a pixel tight; noise leaves specks of 1-4 px."""

_ELLIPSE_FILL = 0.982
"""Area over that of the ellipse with the same second moments: 1 for every ellipse, 0.955
for every rectangle, 0.894 for two touching equal discs, 0.975 where their centres come as
near as 0.7 diameters, 0.99 where half of a sixth as wide a disc sticks out. Below this a
component is looked at twice; it is not a verdict."""
_HOLLOW_SOLIDITY = 0.96
"""A hollow particle, filled, is as convex as a full one; eight discs in a wreath reach
0.93 of their hull."""
_MOST_SUSPECTS = 3_000
_MOST_LOOKS = 2
"""How often each pixel of the frame may be looked at in the suspects' boxes, on average.
A mask with more odd components is noise and must not hold up the next frame for minutes."""


def label_particles(
    probability: NDArray[np.uint8] | Mask,
    *,
    threshold: int = 128,
    min_area_px: int = MIN_AREA_PX,
) -> Labels:
    """Give every particle of one frame its number.

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
        0 is background; 1..P number the particles without gaps.

    Raises
    ------
    ValueError
        If `probability` is not two-dimensional.

    Notes
    -----
    Pixels belong together when they share an edge; corners do not join. A hole in an
    otherwise convex particle belongs to it: networks lose the pale core of large ones.
    """
    if probability.ndim != 2:
        raise ValueError(f"one frame has shape (H, W), got {probability.shape}")
    is_mask = probability.dtype == np.bool_
    components = _components(probability if is_mask else probability >= threshold)
    labels, runs, count = _without_specks(components, min_area_px)
    boxes = boxes_of(runs, count)
    suspects = np.flatnonzero(ellipse_fill(moments_of(runs, count)) < _ELLIPSE_FILL)
    looks = np.cumsum(boxes.areas()[suspects])
    suspects = suspects[looks <= _MOST_LOOKS * labels.size][:_MOST_SUSPECTS]
    return _split(labels, boxes, suspects + 1, count)


def _components(mask: NDArray[np.generic]) -> Labels:
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels


def _without_specks(components: Labels, min_area_px: int) -> tuple[Labels, Runs, int]:
    """Drop small components and close the gaps in the numbers."""
    runs = runs_of(components)
    count = int(runs.label.max(initial=0))
    keep = np.bincount(runs.label, runs.length, count + 1) >= min_area_px
    keep[0] = False
    kept = int(np.count_nonzero(keep))
    if kept == count:
        return components, runs, count
    number = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    stays = keep[runs.label]
    left = Runs(
        number[runs.label[stays]].astype(np.intp),
        runs.row[stays],
        runs.first[stays],
        runs.last[stays],
    )
    return number[components], left, kept


def _split(labels: Labels, boxes: Boxes, suspects: IntArray, count: int) -> Labels:
    """Part the components numbered `suspects` in place; new parts get new numbers."""
    for number in suspects.tolist():
        crop = labels[boxes.slices(number)]
        whole = _filled(np.pad(crop == number, 1))
        parts = parted_at_notches(parted(whole))[1:-1, 1:-1]
        # What lies in a hole may be a particle of its own: only background is filled.
        mine = whole[1:-1, 1:-1] & ((crop == 0) | (crop == number))
        found, part = np.unique(parts[mine], return_inverse=True)
        numbers = np.append(number, count + np.arange(1, len(found)))
        crop[mine] = numbers[part]
        count += len(found) - 1
    return labels


def _filled(piece: Mask) -> Mask:
    """Close the holes of a convex piece: a pale core, not a wreath of particles."""
    filled = cast(Mask, ndimage.binary_fill_holes(piece))
    area = np.count_nonzero(filled)
    if area - np.count_nonzero(piece) <= MIN_AREA_PX:
        return filled
    hull = hulls_of(runs_of(filled.astype(np.int32)), 1).areas()[0]
    return filled if area >= _HOLLOW_SOLIDITY * hull else piece
