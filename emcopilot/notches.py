"""Particles that overlap -> their parts: cuts from notch to notch.

Where one particle half hides another, the distance to the background has a single top, and no
watershed tells the two apart. Their common outline has a notch on either side.
"""
# scipy and scikit-image carry no types: their values are typed where they enter.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.draw import line
from skimage.measure import find_contours
from skimage.segmentation import watershed

from emcopilot.runs import FloatArray, IntArray, Labels, Mask

# Chosen in our own run on true masks: overlapping simulated particles, and the 134 EMPS
# micrographs of training (F1 0.982 -> 0.987; 38 of validation 0.991 -> 0.994).
_LEAST_TURN = math.radians(30)
"""An outline that turns outwards by so much from arm to arm is notched."""
_MOST_ASIDE = math.radians(45)
"""A cut leaves a notch within this angle of the line that halves it."""
_LEAST_DEEP = 0.2
"""Depth of its two notches together, in lengths of the cut: less is an uneven edge."""
_MOST_CUT = 1.1
"""Longest cut, in equivalent diameters of the smaller part: a bump is no particle."""
_LEAST_USED = 0.5
"""Share of the notches in which cuts end. An outline that is notched where nothing is parted is
rough, and its notches tell nothing."""
_LEAST_SOLID = 0.85
"""Share of its convex hull that each part fills: half of a star, or of crossed rods, does not."""
_ARM, _ARM_FROM_PX, _ARM_TO_PX = 0.15, 3, 5
"""Length of the two arms whose angle is taken, in equivalent diameters, and its bounds."""
_SMOOTH = 0.2
"""Standard deviation by which an outline is smoothed, in arms."""
_MIN_AREA_PX = 12
"""Of a part: a disc of 4 px."""
_OVERSHOOT_PX = 3
"""By so much a drawn cut leaves the piece on either side."""
_MOST_NOTCHES = 200
"""An outline with more is no clump of particles, but noise."""
_MOST_PARTS = 1_000
"""What the watershed alone parts into more is left as it is: noise must not hold up a frame, and
each part takes nearly a millisecond."""

_Outline = FloatArray
"""Shape (N, 2): a closed line of points (y, x), about a pixel apart, round a piece in the sense in
which `_swept` grows."""


@dataclass(frozen=True, slots=True)
class _Notches:
    """Where an outline turns outwards."""

    place: IntArray
    """Shape (K,), points of the outline, ascending."""
    inwards: FloatArray
    """Shape (K, 2), unit vectors (y, x) that halve the notches and point into the piece."""


def parted_at_notches(parts: Labels) -> Labels:
    """Part what overlapping particles have left whole, by cuts from notch to notch.

    Parameters
    ----------
    parts : int32 array, shape (H, W)
        0 is background; 1..P are parts. One in several pieces is left as it is, and so are more
        than `_MOST_PARTS`.

    Returns
    -------
    int32 array, shape (H, W)
        The same pixels; new parts are connected, and numbered from P + 1 on.

    Notes
    -----
    Strategy: of all cuts that run from one notch to another, the shortest for what it parts halves
    the outline; so do both halves, until no cut is left. Pixels are looked at twice, however many
    cuts there are: when the outline is found, and when its parts are drawn.
    """
    finer = parts.copy()
    count = int(parts.max(initial=0))
    boxes = ndimage.find_objects(parts) if 0 < count <= _MOST_PARTS else []
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        found = _particles(np.pad(parts[box] == number, 1))[1:-1, 1:-1]
        is_new = found > 1
        finer[box][is_new] = count + found[is_new] - 1
        count += int(found.max()) - 1
    return finer


def _particles(piece: Mask) -> Labels:
    """Give the particles of a piece, with background all around, numbers from 1 on."""
    whole = piece.astype(np.int32)
    area_px = int(np.count_nonzero(piece))
    if area_px < 2 * _MIN_AREA_PX or _connected(piece).max() > 1:
        return whole
    diameter_px = math.sqrt(4 * area_px / math.pi)
    arm = min(max(round(_ARM * diameter_px), _ARM_FROM_PX), _ARM_TO_PX)
    outline = _outline(piece, arm)
    cuts: list[FloatArray] = []
    pending, parts = [outline], list[_Outline]()
    while pending:
        part = pending.pop()
        cut = _best_cut(piece, part, arm)
        if cut is None:
            parts.append(part)
        else:
            cuts.append(part[list(cut)])
            pending += _halves(part, *cut)
    if not cuts or _is_rough(outline, np.concatenate(cuts), arm):
        return whole
    if min(_solidity(part) for part in parts) < _LEAST_SOLID:
        return whole
    return _drawn(piece, cuts)


def _connected(mask: Mask) -> Labels:
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels


def _is_rough(outline: _Outline, ends: FloatArray, arm: int) -> bool:
    """Say whether most of an outline's notches have no cut that ends there."""
    notches = outline[_notches(outline, arm).place]
    apart = np.linalg.norm(notches[:, None] - ends, axis=-1).min(1)
    return bool(np.count_nonzero(apart <= 1.5 * arm) < _LEAST_USED * len(notches))


def _outline(piece: Mask, arm: int) -> _Outline:
    """Return the outer outline of a piece, smoothed."""
    lines = cast(list[FloatArray], find_contours(piece.astype(np.float32), 0.5))
    outer = max(lines, key=_area_px)
    step = np.hypot(*np.diff(outer, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(step)])
    even = np.linspace(0, way[-1], max(round(way[-1]), 3), endpoint=False)
    points = np.stack([np.interp(even, way, side) for side in outer.T], 1)
    smooth = ndimage.gaussian_filter1d(points, _SMOOTH * arm, axis=0, mode="wrap")
    points = cast(FloatArray, smooth)
    return points if _swept(points)[-1] > 0 else points[::-1].copy()


def _solidity(outline: _Outline) -> float:
    """Return the area of an outline over that of its convex hull."""
    return _area_px(outline) / float(ConvexHull(outline).volume)


def _area_px(outline: FloatArray) -> float:
    return abs(float(_swept(outline)[-1]))


def _swept(points: FloatArray) -> FloatArray:
    """Return the area that the line from the origin sweeps up to each point, shape (N + 1,)."""
    y, x = points.T
    after = np.roll(points, -1, axis=0)
    steps = (x * after[:, 0] - after[:, 1] * y) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])


def _notches(outline: _Outline, arm: int) -> _Notches:
    before = outline - np.roll(outline, arm, axis=0)
    after = np.roll(outline, -arm, axis=0) - outline
    # In the sense in which an outline goes round, a convex one always turns the other way.
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


def _best_cut(piece: Mask, outline: _Outline, arm: int) -> tuple[int, int] | None:
    """Return the ends, first to last, of the cut that is shortest for what it parts."""
    if len(outline) < 4 * arm:
        return None
    notches = _notches(outline, arm)
    if not 2 <= len(notches.place) <= _MOST_NOTCHES:
        return None
    for one, other in _ranked_cuts(outline, notches):
        start, end = outline[one], outline[other]
        length = float(np.linalg.norm(end - start))
        is_deep = _depth(outline, one, other, arm) >= _LEAST_DEEP * length
        if is_deep and _is_inside(piece, start, end):
            return one, other
    return None


def _ranked_cuts(outline: _Outline, notches: _Notches) -> list[tuple[int, int]]:
    """Return the pairs of points whose notches look at each other, the shortest cut first.

    Short is meant for the smaller part, and what parts too little for it is left out.
    """
    one, other = np.triu_indices(len(notches.place), 1)
    first, last = notches.place[one], notches.place[other]
    start, end = outline[first], outline[last]
    along, length = _unit(end - start), np.linalg.norm(end - start, axis=1)
    least = math.cos(_MOST_ASIDE)
    is_aimed = (notches.inwards[one] * along).sum(1) >= least
    is_aimed &= (notches.inwards[other] * -along).sum(1) >= least
    swept = _swept(outline)
    # The part's own outline goes back along the cut.
    back = (end[:, 1] * start[:, 0] - start[:, 1] * end[:, 0]) / 2
    area = swept[last] - swept[first] + back
    smaller = np.maximum(np.minimum(area, swept[-1] - area), 0.0)
    relative = length / np.maximum(np.sqrt(4 * smaller / math.pi), 1e-9)
    fits = np.flatnonzero(
        is_aimed & (smaller >= _MIN_AREA_PX) & (relative <= _MOST_CUT)
    )
    ranked = fits[np.argsort(relative[fits], kind="stable")]
    return list(zip(first[ranked].tolist(), last[ranked].tolist(), strict=True))


def _depth(outline: _Outline, one: int, other: int, arm: int) -> float:
    """Return how deep two notches are together, in px, by the best of three lengths of arms."""
    places = np.array([one, other])
    cut = float(np.linalg.norm(outline[other] - outline[one]))
    arms = np.array([max(arm, int(share * cut)) for share in (0.0, 0.25, 0.5)])
    first, last = (
        outline[(places[:, None] + way) % len(outline)] for way in (-arms, arms)
    )
    across = _unit(last - first)
    inwards = outline[places][:, None] - first
    depth = inwards[..., 0] * across[..., 1] - inwards[..., 1] * across[..., 0]
    return float(np.maximum(depth.max(1), 0).sum())


def _is_inside(piece: Mask, start: FloatArray, end: FloatArray) -> bool:
    """Say whether a cut runs within the piece but for its very ends."""
    samples = max(9, math.ceil(float(np.linalg.norm(end - start))))
    share = np.linspace(0.1, 0.9, samples)[:, None]
    y, x = np.rint(start + share * (end - start)).astype(int).T
    return bool(piece[y, x].all())


def _halves(outline: _Outline, one: int, other: int) -> tuple[_Outline, _Outline]:
    """Return the outlines of what lies on either side of a cut; each goes back along it."""
    start, end = outline[one], outline[other]
    steps = max(round(float(np.linalg.norm(end - start))), 1)
    cut = start + np.linspace(0, 1, steps + 1)[1:-1, None] * (end - start)
    return (
        np.concatenate([outline[one : other + 1], cut[::-1]]),
        np.concatenate([outline[other:], outline[: one + 1], cut]),
    )


def _drawn(piece: Mask, cuts: Sequence[FloatArray]) -> Labels:
    """Return what cuts, each (2, 2), leave, numbered; their own pixels go to the nearest part."""
    rest = piece.copy()
    for start, end in cuts:
        # A smoothed outline lies a pixel or so within the piece.
        beyond = _OVERSHOOT_PX * _unit(end - start)
        ends = np.rint([start - beyond, end + beyond]).astype(int)
        y, x = line(*ends.ravel().tolist())
        is_here = (y >= 0) & (y < piece.shape[0]) & (x >= 0) & (x < piece.shape[1])
        rest[y[is_here], x[is_here]] = False
    crumbs = _connected(rest)
    is_part = np.bincount(crumbs.ravel()) >= _MIN_AREA_PX
    is_part[0] = False
    if not is_part.any():
        return piece.astype(np.int32)  # specks, of which the cuts themselves take most
    markers = np.where(is_part, np.cumsum(is_part), 0).astype(np.int32)[crumbs]
    level = np.zeros(piece.shape, np.uint8)
    return cast(Labels, watershed(level, markers, mask=piece)).astype(np.int32)
