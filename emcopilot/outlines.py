"""Labels -> outlines: one closed polygon per particle, small enough to send with a frame.

Outlines are for the eye. Sizes never come from them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emcopilot.runs import FloatArray, IntArray, Labels

UNITS_PER_PX = 8
"""Outline points are whole eighths of a pixel: finer than a screen shows, two bytes."""

_TOLERANCE_PX = 0.4
_CORNER = 0.5 + 0.5j
"""From a frame's corner to the centre of its first pixel: pixels grow from the corner."""
_LONGEST = 6
"""Straight pieces join at most 2**6 crack edges."""
_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
"""A pixel's sides in the order in which an outline passes them, clockwise on screen."""
_MIDDLE = np.array((-0.5j, 0.5, 0.5j, -0.5))
"""From a pixel's centre to the middle of each side."""

Points = NDArray[np.complex128]
"""Shape (N,), x + iy in px: one number a point halves the work of every step."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Closed polygons of all labels of a frame, one after the other."""

    offsets: NDArray[np.uint32]
    """Shape (P + 1,); label i + 1 owns points[offsets[i]:offsets[i + 1]]."""
    points: NDArray[np.int16]
    """Shape (N, 2), (x, y) in eighths of a pixel; (0, 0) is the centre of the top left
    pixel, so the frame's own edge lies at -4. The last point joins the first."""

    def polygon(self, label: int) -> FloatArray:
        """Return the outline of `label`, shape (n, 2), as (x, y) in pixels."""
        piece = self.points[self.offsets[label - 1] : self.offsets[label]]
        return piece.astype(np.float64) / UNITS_PER_PX


def outlines(labels: Labels, scale: float = 1.0) -> Outlines:
    """Trace every label's outer edge.

    Parameters
    ----------
    labels : int32 array, shape (H, W)
        0 is background; 1..P number the particles.
    scale : float
        Shown pixels per pixel of `labels`; the points are in shown pixels.

    Returns
    -------
    Outlines
        One polygon per label, in label order: of a label in pieces, the largest; holes
        are left out; a number without a pixel has no points.

    Raises
    ------
    ValueError
        If the shown frame is wider than 4,095 px, which int16 eighths cannot reach.

    Notes
    -----
    Strategy: an outline is a cycle of crack edges, the sides that a pixel does not share
    with its own label, each with one successor. Their midpoints are the marching-squares
    contour halfway between label and surroundings. Once smoothed, runs of 64, 32, ... 2
    edges that stay within 0.4 shown px of their chord become that chord.
    """
    if max(labels.shape) * scale >= np.iinfo(np.int16).max / UNITS_PER_PX:
        raise ValueError(
            f"frame {labels.shape} shown at scale {scale} is wider than 4095 px; "
            "choose a smaller scale"
        )
    count = int(labels.max(initial=0))
    if count == 0:
        return Outlines(np.zeros(1, np.uint32), np.zeros((0, 2), np.int16))
    owner, points, start = _traced(labels)
    owner, points, start = _largest(owner, points, start)
    shown = (_smoothed(points, start) + _CORNER) * scale - _CORNER
    kept = _telling(shown, start)
    length = np.add.reduceat(kept.astype(np.intp), start[:-1])
    offsets = np.zeros(count + 1, np.uint32)
    offsets[owner] = length
    drawn = np.stack((shown[kept].real, shown[kept].imag), axis=1)
    points_8th = np.rint(drawn * UNITS_PER_PX).astype(np.int16)
    return Outlines(np.cumsum(offsets, dtype=np.uint32), points_8th)


def _traced(labels: Labels) -> tuple[IntArray, Points, IntArray]:
    """Follow all cycles: their labels (C,), midpoints (N,) and starts (C + 1,)."""
    # The fence makes every neighbour exist and cuts what one row would share with the next.
    fenced = np.pad(labels, 1)
    flat, width = fenced.ravel(), fenced.shape[1]
    cracks = _cracks(flat, width)
    order, start = _cycles(_successors(flat, width, cracks))
    pixel, side = np.divmod(cracks[order], 4)
    y, x = np.divmod(pixel, width)
    owner = flat[pixel[start[:-1]]].astype(np.intp)
    return owner, (x - 1) + (y - 1) * 1j + _MIDDLE[side], start


def _cracks(flat: Labels, width: int) -> IntArray:
    """List every crack edge as 4 * pixel + side, ascending."""
    found: list[IntArray] = []
    for step, near, far in ((1, _RIGHT, _LEFT), (width, _BOTTOM, _TOP)):
        before = np.flatnonzero(flat[step:] != flat[:-step])
        after = before + step
        found.append(4 * before[flat[before] > 0] + near)
        found.append(4 * after[flat[after] > 0] + far)
    return np.sort(np.concatenate(found))


def _successors(flat: Labels, width: int, cracks: IntArray) -> IntArray:
    """Give the index of the crack edge that follows each.

    Notes
    -----
    With the label on its right hand, an outline turns right around its pixel where it
    can, else goes straight on along the next pixel, else turns left: so pixels that
    only share a corner are not joined.
    """
    pixel, side = np.divmod(cracks, 4)
    ahead = np.array((1, width, -1, -width))[side]
    outward = np.array((-width, 1, width, -1))[side]
    label = flat[pixel]
    onward = flat[pixel + ahead] == label
    blocked = onward & (flat[pixel + ahead + outward] == label)
    next_pixel = pixel + onward * ahead + blocked * outward
    next_side = (side + np.where(blocked, -1, np.where(onward, 0, 1))) % 4
    following: IntArray = 4 * next_pixel + next_side
    return np.searchsorted(cracks, following)


def _cycles(successors: IntArray) -> tuple[IntArray, IntArray]:
    """Put crack edges in the order of their outlines; also say where each starts."""
    following = successors.tolist()
    fresh = bytearray(b"\x01") * len(following)
    order: list[int] = []
    start: list[int] = []
    first = fresh.find(1)
    while first >= 0:
        start.append(len(order))
        edge = first
        while fresh[edge]:
            fresh[edge] = 0
            order.append(edge)
            edge = following[edge]
        first = fresh.find(1, first)
    return np.array(order, np.intp), np.array([*start, len(order)], np.intp)


def _largest(
    owner: IntArray, points: Points, start: IntArray
) -> tuple[IntArray, Points, IntArray]:
    """Keep the cycle of each label that encloses most, in label order."""
    twice = (points.conj() * points[_after(start)]).imag
    # Clockwise on screen is positive with y downwards: holes run the other way.
    order = np.lexsort((np.add.reduceat(twice, start[:-1]), owner))
    best = order[np.append(np.diff(owner[order]) > 0, True)]
    length = np.diff(start)[best]
    kept = np.append(0, np.cumsum(length))
    within = np.arange(int(kept[-1])) - np.repeat(kept[:-1], length)
    return owner[best], points[np.repeat(start[best], length) + within], kept


def _smoothed(points: Points, start: IntArray) -> Points:
    """Weigh each point with its neighbours 1:2:1, which takes off the staircase."""
    after = _after(start)
    before = np.empty_like(after)
    before[after] = np.arange(len(after))
    return (points[before] + 2.0 * points + points[after]) / 4.0


def _telling(points: Points, start: IntArray) -> NDArray[np.bool_]:
    """Say which points must stay for no point to lie far from the simplified outline."""
    length = np.diff(start)
    origin, size = np.repeat(start[:-1], length), np.repeat(length, length)
    within = np.arange(len(points)) - origin
    stays = np.ones(len(points), np.bool_)
    for level in range(1, _LONGEST + 1):
        reach = within & -(1 << level)
        begin, end = (
            origin + reach,
            origin + (reach + (1 << level)).clip(max=size) % size,
        )
        opens = np.flatnonzero(within == reach)
        off = np.maximum.reduceat(_off_chord(points, points[begin], points[end]), opens)
        # Four chords at least, or a small particle would shrink to a stroke.
        flat = (off <= _TOLERANCE_PX) & (size[opens] >= 4 << level)
        straight = np.repeat(flat, np.diff(opens, append=len(points)))
        stays &= ~straight | (within == reach)
    return stays


def _off_chord(points: Points, begin: Points, end: Points) -> FloatArray:
    """Distance of each point from the line through its chord's ends."""
    chord, leg = end - begin, points - begin
    # A chord that closes on itself has no line: distance from its one point.
    length, off = np.abs(chord), np.abs(leg)
    across = np.abs((chord.conj() * leg).imag)
    return np.divide(across, length, out=off, where=length > 1e-9)


def _after(start: IntArray) -> IntArray:
    """Index of the next point around the same cycle."""
    after = np.arange(int(start[-1])) + 1
    after[start[1:] - 1] = start[:-1]
    return after
