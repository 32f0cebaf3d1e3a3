"""Convex hulls of all labels at once: Feret diameters and hull areas.

A pixel counts as a small diamond around its centre. Whole pixels would reach too far: a
hull leans on the pixels that stick out, so they measure up to a pixel too long.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emcopilot.runs import FloatArray, IntArray, Runs, boxes_of

_ARM_PX = 0.35
"""Half the diamond's width. Drawn ellipses of 6 to 100 px, aspect 1.2 to 2, come out within
0.5 px either way. A disc's largest width is the largest of many uneven ones: 0.2 px long
at 6 px, 0.8 at 100; with arms of 0.5 it would be 1.1. Own run, 50 shapes each."""
_STRIDES = (32, 8, 2, 1)
"""Far neighbours first: one of them sweeps away what near ones peel off point by point."""
_PAIRS_AT_ONCE = 1_000_000
"""Corner pairs compared in one step; bounds the memory of 10,000 particles to ~50 MB."""


@dataclass(frozen=True, slots=True)
class Hulls:
    """The corners of every label's convex hull, label after label, in order around it."""

    start: IntArray
    """Shape (P + 1,); corners start[i]:start[i + 1] belong to label i + 1."""
    y: FloatArray
    x: FloatArray

    def scaled(self, pixel_size: tuple[float, float]) -> "Hulls":
        """Return the same hulls in the unit of `pixel_size` (y, x)."""
        return Hulls(self.start, self.y * pixel_size[0], self.x * pixel_size[1])

    def areas(self) -> FloatArray:
        """Return the area of each hull, shape (P,)."""
        after = self._after()
        twice = self.x * self.y[after] - self.x[after] * self.y
        return np.abs(np.add.reduceat(twice, self.start[:-1])) / 2.0

    def feret_diameters(self) -> tuple[FloatArray, FloatArray]:
        """Return the largest and the smallest caliper width of each hull, exactly.

        Notes
        -----
        The largest width joins two corners; the smallest stands on an edge (rotating
        calipers: M. I. Shamos, thesis, Yale 1978). All pairs are compared, for the
        hull of a drawn particle has only tens of corners.
        """
        count = len(self.start) - 1
        largest, smallest = np.zeros(count), np.zeros(count)
        edge_y, edge_x = (v[self._after()] - v for v in (self.y, self.x))
        length = np.hypot(edge_y, edge_x)
        # The two chains of a hull may meet in one corner; that edge has no direction.
        real = length > 0
        unit_y, unit_x = (
            np.divide(v, length, out=np.zeros_like(v), where=real)
            for v in (edge_y, edge_x)
        )
        for labels, one, first_pair, other in self._pairs():
            dy, dx = self.y[other] - self.y[one], self.x[other] - self.x[one]
            far = np.maximum.reduceat(dy**2 + dx**2, first_pair)
            across = np.abs(dy * unit_x[one] - dx * unit_y[one])
            width = np.maximum.reduceat(across, first_pair)
            corners = one[first_pair]
            width[~real[corners]] = np.inf
            inside = self.start[labels] - self.start[labels[0]]
            largest[labels] = np.sqrt(np.maximum.reduceat(far, inside))
            smallest[labels] = np.minimum.reduceat(width, inside)
        return largest, smallest

    def _after(self) -> IntArray:
        """Index of the next corner around the same hull."""
        after = np.arange(len(self.y)) + 1
        after[self.start[1:] - 1] = self.start[:-1]
        return after

    def _pairs(self) -> Iterator[tuple[IntArray, IntArray, IntArray, IntArray]]:
        """Yield (labels, corner, where its pairs start, other corner), bounded in size."""
        corners = np.diff(self.start)
        if len(corners) == 0:
            return
        batch = np.cumsum(corners**2) // _PAIRS_AT_ONCE
        edges = np.flatnonzero(np.diff(batch)) + 1
        for labels in np.split(np.arange(len(corners)), edges):
            owner = np.repeat(labels, corners[labels])
            each = np.arange(int(corners[labels].sum())) + self.start[labels[0]]
            fan = corners[owner]
            first_pair = np.cumsum(fan) - fan
            within = np.arange(int(fan.sum())) - np.repeat(first_pair, fan)
            other = np.repeat(self.start[owner], fan) + within
            yield labels, np.repeat(each, fan), first_pair, other


def hulls_of(runs: Runs, count: int) -> Hulls:
    """Build the convex hulls of labels 1..`count`, each of at least one pixel.

    Notes
    -----
    Strategy: the diamonds at both ends of every row hold all corners of a hull.
    Each side is a chain sorted by row, all labels in one array; a point on or inside
    the segment between two others of its chain is no corner, and dropping all such
    points at once never drops a corner. A few rounds leave the hulls alone.
    """
    label, y, left, right = _extremes(runs, count)
    left_label, left_y, left_x = _convex(label, y, left)
    right_label, right_y, right_x = _convex(label, y, -right)
    owner = np.concatenate((left_label, right_label))
    around = np.concatenate((left_y, -right_y))
    side = np.repeat((0, 1), (len(left_y), len(right_y)))
    order = np.lexsort((around, side, owner))
    start = np.searchsorted(owner[order], np.arange(count + 1))
    y, x = np.concatenate((left_y, right_y)), np.concatenate((left_x, -right_x))
    return Hulls(start, y[order], x[order])


def _extremes(
    runs: Runs, count: int
) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
    """Give (label - 1, y, least x, greatest x) of the diamonds at each row's ends.

    Notes
    -----
    Each row of a label has three levels: the diamonds' upper corners, sides and lower
    corners. Levels of rows that a label skips are left out.
    """
    label = runs.label - 1
    boxes = boxes_of(runs, count)
    size = 3 * (boxes.bottom - boxes.top + 1)
    start = np.cumsum(size) - size
    least, greatest = (
        np.full(int(size.sum()), np.inf),
        np.full(int(size.sum()), -np.inf),
    )
    upper = start[label] + 3 * (runs.row - boxes.top[label])
    for slot, reach in ((upper, 0.0), (upper + 1, _ARM_PX), (upper + 2, 0.0)):
        np.minimum.at(least, slot, runs.first - reach)
        np.maximum.at(greatest, slot, runs.last + reach)
    owner = np.repeat(np.arange(count), size)
    row, level = np.divmod(np.arange(len(owner)) - start[owner], 3)
    y = boxes.top[owner] + row + (level - 1) * _ARM_PX
    seen = np.isfinite(least)
    return owner[seen], y[seen], least[seen], greatest[seen]


def _convex(
    label: IntArray, y: FloatArray, x: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Keep the points that no segment between two others of their label passes by."""
    while True:
        before = len(y)
        for stride in _STRIDES:
            keep = _outside(label, y, x, stride)
            label, y, x = label[keep], y[keep], x[keep]
        if len(y) == before:
            return label, y, x


def _outside(
    label: IntArray, y: FloatArray, x: FloatArray, stride: int
) -> NDArray[np.bool_]:
    keep = np.ones(len(y), np.bool_)
    if len(y) <= 2 * stride:
        return keep
    low, mid, high = (
        slice(None, -2 * stride),
        slice(stride, -stride),
        slice(2 * stride, None),
    )
    chord = (x[high] - x[low]) * (y[mid] - y[low])
    bulge = (x[mid] - x[low]) * (y[high] - y[low])
    keep[mid] = (bulge < chord) | (label[low] != label[high])
    return keep
