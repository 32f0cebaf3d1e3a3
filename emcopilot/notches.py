"""Particles that overlap -> their parts: a cut from notch to notch.

Where one particle half hides another, the distance to the background has a single top, and no
watershed tells the two apart. Their common outline has a notch on either side.
"""
# scipy and scikit-image carry no types: their values are typed where they enter.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

from emcopilot.runs import FloatArray, IntArray, Labels, Mask

_LEAST_TURN = math.radians(30)
"""An outline that turns outwards by so much from arm to arm is notched."""
_MOST_ASIDE = math.radians(45)
"""A cut leaves a notch within this angle of the line that halves it."""
_LEAST_DEEP = 0.2
"""Depth of its two notches together, in lengths of the cut: less is an uneven edge."""
_MOST_CUT = 1.1
"""Longest cut, in equivalent diameters of the smaller part: a bump is no particle."""
_LEAST_USED = 0.5
"""Share of the notches that cuts end in. An outline that is notched where nothing is parted is
rough, and its notches tell nothing."""
_ARM, _ARM_FROM_PX, _ARM_TO_PX = 0.15, 3, 5
"""Length of the two arms whose angle is taken, in equivalent diameters, and its bounds."""
_SMOOTH = 0.2
"""Standard deviation by which an outline is smoothed, in arms."""
_MIN_AREA_PX = 12
"""Of a part: a disc of 4 px."""
_MOST_NOTCHES = 200
"""An outline with more is no clump of particles, but noise."""

Point = FloatArray
"""Shape (2,), (y, x) in px."""


@dataclass(frozen=True, slots=True)
class _Notches:
    """Where an outline turns outwards."""

    place: IntArray
    """Shape (K,), points of the outline, ascending."""
    inwards: FloatArray
    """Shape (K, 2), unit vectors (y, x) that halve the notches and point into the piece."""


def parted_at_notches(parts: Labels) -> Labels:
    """Part what overlapping particles have left whole, by a cut from notch to notch.

    Parameters
    ----------
    parts : int32 array, shape (H, W)
        0 is background; 1..P are connected parts.

    Returns
    -------
    int32 array, shape (H, W)
        The same pixels; new parts are numbered from P + 1 on.
    """
    finer = parts.copy()
    count = int(parts.max())
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        if box is None:
            continue
        for half in _particles(np.pad(parts[box] == number, 1))[1:]:
            count += 1
            finer[box][half[1:-1, 1:-1]] = count
    return finer


def _particles(piece: Mask) -> list[Mask]:
    """Return the particles of one connected piece with background all around."""
    area_px = int(np.count_nonzero(piece))
    if area_px < 2 * _MIN_AREA_PX:
        return [piece]
    diameter_px = math.sqrt(4 * area_px / math.pi)
    arm = min(max(round(_ARM * diameter_px), _ARM_FROM_PX), _ARM_TO_PX)
    ends: list[Point] = []
    pending, whole = [piece], list[Mask]()
    while pending:
        part = pending.pop()
        cut = _best_cut(part, arm)
        halves = _halves(part, *cut) if cut else None
        if cut and halves:
            ends += cut
            pending += halves
        else:
            whole.append(part)
    return whole if ends and not _is_rough(piece, ends, arm) else [piece]


def _is_rough(piece: Mask, ends: list[Point], arm: int) -> bool:
    """Say whether most notches of a piece have no cut that ends there."""
    outline = _outline(piece, arm)
    notches = outline[_notches(outline, arm).place]
    apart = np.linalg.norm(notches[:, None] - np.array(ends), axis=-1).min(1)
    return bool(np.count_nonzero(apart <= 1.5 * arm) < _LEAST_USED * len(notches))


def _outline(piece: Mask, arm: int) -> FloatArray:
    """Return the longest outline, (N, 2), a point a pixel, the piece on one and the same side."""
    longest = max(find_contours(piece.astype(np.float32), 0.5), key=len)
    step = np.hypot(*np.diff(longest, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(step)])
    even = np.linspace(0, way[-1], max(round(way[-1]), 3), endpoint=False)
    points = np.stack([np.interp(even, way, side) for side in longest.T], 1)
    smooth = ndimage.gaussian_filter1d(points, _SMOOTH * arm, axis=0, mode="wrap")
    points = cast(FloatArray, smooth)
    return points if _swept(points)[-1] > 0 else points[::-1].copy()


def _swept(points: FloatArray) -> FloatArray:
    """Return the area that the line from the origin sweeps up to each point, shape (N + 1,)."""
    y, x = points.T
    after = np.roll(points, -1, axis=0)
    steps = (x * after[:, 0] - after[:, 1] * y) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])


def _notches(outline: FloatArray, arm: int) -> _Notches:
    before = outline - np.roll(outline, arm, axis=0)
    after = np.roll(outline, -arm, axis=0) - outline
    outwards = np.arctan2(
        before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0],
        (before * after).sum(1),
    )
    most = cast(
        FloatArray, ndimage.maximum_filter1d(outwards, 2 * arm + 1, mode="wrap")
    )
    place = np.flatnonzero((outwards == most) & (outwards >= _LEAST_TURN))
    return _Notches(place, _unit(_unit(before[place]) - _unit(after[place])))


def _unit(vectors: FloatArray) -> FloatArray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)


def _best_cut(piece: Mask, arm: int) -> tuple[Point, Point] | None:
    """Return the ends of the cut that is shortest for what it parts; None where there is none."""
    outline = _outline(piece, arm)
    if len(outline) < 4 * arm:
        return None
    notches = _notches(outline, arm)
    if not 2 <= len(notches.place) <= _MOST_NOTCHES:
        return None
    one, other = np.triu_indices(len(notches.place), 1)
    start, end = (outline[notches.place[which]] for which in (one, other))
    along = _unit(end - start)
    length = np.linalg.norm(end - start, axis=1)
    least = math.cos(_MOST_ASIDE)
    is_aimed = (notches.inwards[one] * along).sum(1) >= least
    is_aimed &= (notches.inwards[other] * -along).sum(1) >= least
    swept = _swept(outline)
    back = (end[:, 1] * start[:, 0] - start[:, 1] * end[:, 0]) / 2
    area = swept[notches.place[other]] - swept[notches.place[one]] + back
    smaller = np.maximum(np.minimum(area, swept[-1] - area), 0.0)
    relative = length / np.maximum(np.sqrt(4 * smaller / math.pi), 1e-9)
    fits = is_aimed & (smaller >= _MIN_AREA_PX) & (relative <= _MOST_CUT)
    ranked = np.flatnonzero(fits)[np.argsort(relative[fits], kind="stable")]
    for n in ranked.tolist():
        places = notches.place[[one[n], other[n]]]
        is_deep = _depth(outline, places, arm) >= _LEAST_DEEP * length[n]
        if is_deep and _is_inside(piece, start[n], end[n]):
            return start[n], end[n]
    return None


def _depth(outline: FloatArray, places: IntArray, arm: int) -> float:
    """Return how deep two notches are together, in px, by the best of three lengths of arms."""
    cut = float(np.linalg.norm(np.subtract(*outline[places])))
    arms = np.array([max(arm, int(share * cut)) for share in (0.0, 0.25, 0.5)])
    first, last = (
        outline[(places[:, None] + way) % len(outline)] for way in (-arms, arms)
    )
    across = _unit(last - first)
    inwards = outline[places][:, None] - first
    depth = inwards[..., 0] * across[..., 1] - inwards[..., 1] * across[..., 0]
    return float(np.maximum(depth.max(1), 0).sum())


def _is_inside(piece: Mask, start: Point, end: Point) -> bool:
    """Say whether a cut runs within the piece but for its very ends."""
    samples = max(9, math.ceil(float(np.linalg.norm(end - start))))
    share = np.linspace(0.1, 0.9, samples)[:, None]
    y, x = np.rint(start + share * (end - start)).astype(int).T
    return bool(piece[y, x].all())


def _halves(piece: Mask, start: Point, end: Point) -> list[Mask] | None:
    """Return what lies on either side of a cut; None where it parts nothing of a size."""
    y, x = np.nonzero(piece)
    length = float(np.linalg.norm(end - start))
    along_y, along_x = (end - start) / length
    along = (y - start[0]) * along_y + (x - start[1]) * along_x
    across = (x - start[1]) * along_y - (y - start[0]) * along_x
    is_cut = (np.abs(across) < 0.75) & (along > -1.5) & (along < length + 1.5)
    rest = piece.copy()
    rest[y[is_cut], x[is_cut]] = False
    sides = np.empty(piece.shape, np.int32)
    ndimage.label(rest, output=sides)
    size = np.bincount(sides.ravel())
    size[0] = 0
    if np.count_nonzero(size) < 2:
        return None
    largest = np.argsort(-size, kind="stable")[:2]
    # The cut's own pixels, and crumbs beside its ends, go to the nearer side.
    is_side = np.isin(sides, largest)
    nearest = cast(
        IntArray,
        ndimage.distance_transform_edt(
            ~is_side, return_distances=False, return_indices=True
        ),
    )
    sides = np.where(piece, sides[tuple(nearest)], 0)
    halves = [sides == number for number in largest.tolist()]
    is_enough = min(int(np.count_nonzero(half)) for half in halves) >= _MIN_AREA_PX
    return halves if is_enough else None
