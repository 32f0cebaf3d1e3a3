"""One connected component -> its particles: a watershed that splits at real necks only."""
# scipy and scikit-image carry no types: their values are typed where they enter.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from emcopilot.runs import FloatArray, IntArray, Labels, Mask

_NECK = 0.82
"""A neck parts two particles when it is narrower than this share of the smaller one."""
_NECK_STEP = 0.4
"""...and by this many steps of the grid, for a drawn edge is itself uneven by half a one."""
_FINE_RADIUS = 8.0
"""Inscribed radius, in steps, below which the grid is refined to see a neck at all."""
_MIN_RADIUS_PX = 1.5
"""A part with a smaller inscribed circle is a bump of the outline, not a particle."""
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Half of a pixel's eight neighbours; the other half sees the same pairs."""


def parted(piece: Mask) -> Labels:
    """Tell the particles of one connected component apart.

    Parameters
    ----------
    piece : bool array, shape (H, W)
        The component, with at least one pixel of background all around.

    Returns
    -------
    int32 array, shape (H, W)
        0 outside `piece`; 1.. number its particles.

    Notes
    -----
    Strategy: each basin of the distance transform is a candidate. Two candidates whose
    neck, the highest distance on the ridge between them, is nearly as wide as the
    smaller one are the same particle. Highest necks are judged first, so a chain of
    shallow bumps melts into one before it is compared with its neighbour.
    """
    distance = _depth(piece)
    refine = math.ceil(_FINE_RADIUS / float(distance.max()))
    fine = _refined(piece, refine) if refine > 1 else piece
    if refine > 1:
        distance = _depth(fine)
    markers = _tops(distance, fine)
    if markers.max() <= 1:
        return piece.astype(np.int32)
    basins = cast(Labels, watershed(-distance, markers, mask=fine))
    height = np.zeros(int(markers.max()) + 1)
    np.maximum.at(height, markers.ravel(), distance.ravel())
    group = _merged(height, _necks(distance, basins), _MIN_RADIUS_PX * refine)
    parts = group[basins]
    if refine > 1:
        parts = _coarse(parts, refine)
    return np.where(piece, np.maximum(parts, 1), 0).astype(np.int32)


def _depth(piece: Mask) -> FloatArray:
    """Distance of each pixel of `piece` from the background."""
    return cast(FloatArray, ndimage.distance_transform_edt(piece))


def _tops(distance: FloatArray, piece: Mask) -> Labels:
    """Give each local maximum a number; a plateau is one."""
    highest = cast(FloatArray, ndimage.maximum_filter(distance, 3))
    markers = np.empty(piece.shape, np.int32)
    ndimage.label((distance == highest) & piece, np.ones((3, 3)), output=markers)
    return markers


def _refined(piece: Mask, factor: int) -> Mask:
    # Rounding the corners first: a staircase drawn finer is still a staircase.
    soft = ndimage.gaussian_filter(piece.astype(np.float32), 0.6)
    finer = cast(
        NDArray[np.float32],
        ndimage.zoom(soft, factor, order=1, grid_mode=True, mode="grid-constant"),
    )
    return finer >= 0.5


def _necks(distance: FloatArray, basins: Labels) -> list[tuple[float, int, int]]:
    """Give the neck of each pair of neighbouring basins, widest first."""
    lows: list[FloatArray] = []
    pairs: list[NDArray[np.int64]] = []
    size = int(basins.max()) + 1
    height, width = basins.shape
    for dy, dx in _NEIGHBOURS:
        here = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(dy, height), slice(max(0, dx), width + min(0, dx)))
        a, b = basins[here], basins[there]
        meet = (a != b) & (a > 0) & (b > 0)
        lows.append(np.minimum(distance[here], distance[there])[meet])
        one, other = a[meet].astype(np.int64), b[meet].astype(np.int64)
        pairs.append(np.minimum(one, other) * size + np.maximum(one, other))
    low, pair = np.concatenate(lows), np.concatenate(pairs)
    widest = np.argsort(-low, kind="stable")
    known, first = np.unique(pair[widest], return_index=True)
    necks = zip(low[widest][first].tolist(), known.tolist(), strict=True)
    return sorted(
        ((neck, both // size, both % size) for neck, both in necks), reverse=True
    )


def _merged(
    height: FloatArray, necks: list[tuple[float, int, int]], min_radius: float
) -> NDArray[np.int32]:
    """Join the basins that no real neck parts; return the part number of each basin."""
    parent = list(range(len(height)))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = parent[basin]
        return basin

    for neck, one, other in necks:
        low, high = sorted((root(one), root(other)), key=lambda basin: height[basin])
        radius = height[low]
        is_neck = neck < _NECK * radius and radius - neck >= _NECK_STEP
        if not (is_neck and radius >= min_radius):
            parent[low] = high
    roots = np.array([root(basin) for basin in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)


def _coarse(parts: Labels, factor: int) -> Labels:
    """Give each pixel the part that covers most of it; uncovered ones the nearest."""
    height, width = (side // factor for side in parts.shape)
    blocks = parts.reshape(height, factor, width, factor)
    numbers = range(1, int(parts.max()) + 1)
    covered = np.stack([(blocks == part).sum((1, 3)) for part in numbers])
    coarse = np.where(covered.any(0), covered.argmax(0) + 1, 0)
    nearest = cast(
        IntArray,
        ndimage.distance_transform_edt(
            coarse == 0, return_distances=False, return_indices=True
        ),
    )
    return coarse[tuple(nearest)].astype(np.int32)
