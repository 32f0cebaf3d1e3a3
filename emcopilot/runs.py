"""Labels as runs of pixels along the rows, and the moments that runs sum up to."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
"""Shape (H, W); 0 is background, 1..P number the particles without gaps."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The pixels of every label as runs along the rows, in raster order."""

    label: IntArray
    """Shape (R,); the label of each run."""
    row: IntArray
    first: IntArray
    """Column of the run's first pixel."""
    last: IntArray
    """Column of the run's last pixel, inclusive."""

    @property
    def length(self) -> IntArray:
        """Pixels in each run, shape (R,)."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Moments:
    """Area, centre and spread of each label, in pixels; index 0 is label 1."""

    area: FloatArray
    y: FloatArray
    x: FloatArray
    yy: FloatArray
    """Variance of the rows of the label's pixels, px²."""
    xx: FloatArray
    xy: FloatArray


@dataclass(frozen=True, slots=True)
class Boxes:
    """The rows and columns that each label reaches, inclusive; index 0 is label 1."""

    top: IntArray
    bottom: IntArray
    left: IntArray
    right: IntArray

    def areas(self) -> IntArray:
        """Pixels in each box, shape (P,)."""
        return (self.bottom - self.top + 1) * (self.right - self.left + 1)

    def slices(self, label: int) -> tuple[slice, slice]:
        """Give the label's box as an index into its frame."""
        i = label - 1
        return (
            slice(int(self.top[i]), int(self.bottom[i]) + 1),
            slice(int(self.left[i]), int(self.right[i]) + 1),
        )


def runs_of(labels: Labels) -> Runs:
    """Cut `labels`, shape (H, W), into runs of equal label; background is left out."""
    height, width = labels.shape
    # A column of background ends every row, so that no run goes on in the next one.
    fenced = np.zeros((height, width + 1), labels.dtype)
    fenced[:, :-1] = labels
    flat = fenced.ravel()
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        change = np.concatenate(([0], change))
    starts = change[flat[change] != 0]
    ends = change[flat[change - 1] != 0] - 1
    row, first = np.divmod(starts, width + 1)
    return Runs(flat[starts].astype(np.intp), row, first, ends - row * (width + 1))


def boxes_of(runs: Runs, count: int) -> Boxes:
    """Find the bounding boxes of labels 1..`count`."""
    top, left = np.full((2, count), np.iinfo(np.intp).max)
    bottom, right = np.full((2, count), -1)
    index = runs.label - 1
    np.minimum.at(top, index, runs.row)
    np.maximum.at(bottom, index, runs.row)
    np.minimum.at(left, index, runs.first)
    np.maximum.at(right, index, runs.last)
    return Boxes(top, bottom, left, right)


def moments_of(runs: Runs, count: int) -> Moments:
    """Sum the runs of labels 1..`count` to areas, centres and variances.

    Notes
    -----
    The sums of a run of n pixels around its middle m are closed: n, n m and
    n m² + n (n² - 1) / 12; so a large particle costs no more than its height.
    """
    n = runs.length.astype(np.float64)
    middle = (runs.first + runs.last) / 2.0

    def total(weights: FloatArray) -> FloatArray:
        return np.bincount(runs.label, weights, minlength=count + 1)[1:].astype(
            np.float64
        )

    area = np.maximum(total(n), 1.0)
    y, x = total(n * runs.row) / area, total(n * middle) / area
    # Around the centre, not the frame's corner: a difference of large squares loses digits.
    dy, dx = runs.row - y[runs.label - 1], middle - x[runs.label - 1]
    yy = total(n * dy**2) / area
    xx = total(n * dx**2 + n * (n**2 - 1.0) / 12.0) / area
    return Moments(total(n), y, x, yy, xx, total(n * dy * dx) / area)


def ellipse_fill(moments: Moments) -> FloatArray:
    """Compare each area with the ellipse of the same second moments; 1 is an ellipse."""
    determinant = moments.yy * moments.xx - moments.xy**2
    # A line of pixels has no width; its pixels do (1/12 px²).
    return moments.area / (4.0 * np.pi * np.sqrt(np.maximum(determinant, 1 / 144)))
