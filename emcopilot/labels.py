"""Probability map -> labels: one number per particle, touching particles parted.

Almost every component of a micrograph is one convex particle. Its moments say so, and
only the others pay for a distance transform and a watershed.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
Labels = NDArray[np.int32]
"""Shape (H, W); 0 is background, 1..P number the particles without gaps."""
Mask = NDArray[np.bool_]

MIN_AREA_PX = 9
"""A disc of 4 px, the smallest we promise to measure, covers 12 px and never fewer than
9 when its outline is half a pixel tight; detector spikes cover 1-4 px."""

_ELLIPSE_FILL = 0.965
"""Area over that of the ellipse with the same second moments: 1 for every ellipse, 0.955
for every rectangle, 0.894 for two touching equal discs. Below this a component is looked
at twice; it is not a verdict."""
_NECK = 0.85
"""A neck parts two particles when it is narrower than this share of the smaller one."""
_NECK_STEP = 0.4
"""...and by this many steps of the grid, for a drawn edge is itself uneven by half a one."""
_FINE_RADIUS = 8.0
"""Inscribed radius, in steps, below which the grid is refined to see a neck at all."""
_MIN_RADIUS_PX = 1.5
"""A part with a smaller inscribed circle is a bump of the outline, not a particle."""
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Half of a pixel's eight neighbours; the other half sees the same pairs."""


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
    fill = _ellipse_fill(moments_of(runs_of(labels), count))
    suspects = np.flatnonzero(fill < _ELLIPSE_FILL) + 1
    return _split(labels, suspects, count)


@dataclass(frozen=True, slots=True)
class Runs:
    """The pixels of every label as runs along the rows, in raster order."""

    label: NDArray[np.intp]
    """Shape (R,); the label of each run."""
    row: NDArray[np.intp]
    first: NDArray[np.intp]
    """Column of the run's first pixel."""
    last: NDArray[np.intp]
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
        return np.bincount(runs.label, weights, minlength=count + 1)[1:]

    area = np.maximum(total(n), 1.0)
    y, x = total(n * runs.row) / area, total(n * middle) / area
    # Around the centre, not the frame's corner: a difference of large squares loses digits.
    dy, dx = runs.row - y[runs.label - 1], middle - x[runs.label - 1]
    yy = total(n * dy**2) / area
    xx = total(n * dx**2 + n * (n**2 - 1.0) / 12.0) / area
    return Moments(total(n), y, x, yy, xx, total(n * dy * dx) / area)


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


def _ellipse_fill(moments: Moments) -> FloatArray:
    """Compare each area with the ellipse of the same second moments; 1 is an ellipse."""
    determinant = moments.yy * moments.xx - moments.xy**2
    # A line of pixels has no width; its pixels do (1/12 px²).
    return moments.area / (4.0 * np.pi * np.sqrt(np.maximum(determinant, 1 / 144)))


def _refined(piece: Mask, factor: int) -> Mask:
    if factor == 1:
        return piece
    # Rounding the corners first: a staircase drawn finer is still a staircase.
    soft = ndimage.gaussian_filter(piece.astype(np.float32), 0.6)
    finer = ndimage.zoom(soft, factor, order=1, grid_mode=True, mode="grid-constant")
    return finer >= 0.5


def _necks(distance: FloatArray, basins: Labels) -> list[tuple[float, int, int]]:
    """Give the neck of each pair of neighbouring basins, (half width, basin, basin)."""
    size = int(basins.max()) + 1
    widest = np.zeros(size * size)
    height, width = basins.shape
    for dy, dx in _NEIGHBOURS:
        here = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(dy, height), slice(max(0, dx), width + min(0, dx)))
        a, b = basins[here], basins[there]
        meet = (a != b) & (a > 0) & (b > 0)
        low = np.minimum(distance[here], distance[there])[meet]
        pair = np.minimum(a, b)[meet] * size + np.maximum(a, b)[meet]
        np.maximum.at(widest, pair, low)
    pairs = np.flatnonzero(widest)
    order = pairs[np.argsort(-widest[pairs], kind="stable")]
    return [(float(widest[p]), int(p) // size, int(p) % size) for p in order]


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
        parted = neck < _NECK * radius and radius - neck >= _NECK_STEP
        if not (parted and radius >= min_radius):
            parent[low] = high
    roots = np.array([root(basin) for basin in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)


def _coarse(parts: Labels, factor: int) -> Labels:
    """Give each pixel the part that covers most of it; uncovered ones the nearest."""
    height, width = (side // factor for side in parts.shape)
    blocks = parts.reshape(height, factor, width, factor)
    covered = np.stack(
        [(blocks == part).sum((1, 3)) for part in range(1, int(parts.max()) + 1)]
    )
    coarse = np.where(covered.any(0), covered.argmax(0) + 1, 0)
    nearest = ndimage.distance_transform_edt(
        coarse == 0, return_distances=False, return_indices=True
    )
    return coarse[tuple(nearest)].astype(np.int32)


def _split(labels: Labels, suspects: IntArray, count: int) -> Labels:
    """Part the components numbered `suspects` in place; new parts get new numbers."""
    boxes = ndimage.find_objects(labels) if len(suspects) else []
    for number in suspects:
        crop = labels[boxes[number - 1]]
        whole = _filled(np.pad(crop == number, 1))
        parts, extra = _parts(whole)
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
    (fill,) = _ellipse_fill(moments_of(runs_of(filled.astype(np.int32)), 1))
    return filled if fill >= _ELLIPSE_FILL else piece


def _parts(piece: Mask) -> tuple[Labels, int]:
    """Number the particles of one padded component; also say how many are extra.

    Notes
    -----
    Strategy: each basin of the distance transform is a candidate. Two candidates whose
    neck, the highest distance on the ridge between them, is nearly as wide as the
    smaller one are the same particle. Highest necks are judged first, so a chain of
    shallow bumps melts into one before it is compared with its neighbour.
    """
    distance = ndimage.distance_transform_edt(piece)
    refine = math.ceil(_FINE_RADIUS / float(distance.max()))
    fine = _refined(piece, refine)
    if refine > 1:
        distance = ndimage.distance_transform_edt(fine)
    tops = (distance == ndimage.maximum_filter(distance, 3)) & fine
    markers, count = ndimage.label(tops, np.ones((3, 3)), output=np.int32)
    if count <= 1:
        return piece.astype(np.int32), 0
    basins = watershed(-distance, markers, mask=fine)
    height = np.asarray(ndimage.maximum(distance, basins, np.arange(count + 1)))
    group = _merged(height, _necks(distance, basins), _MIN_RADIUS_PX * refine)
    parts = group[basins]
    if refine > 1:
        parts = _coarse(parts, refine)
    return np.where(piece, np.maximum(parts, 1), 0), int(group.max()) - 1
