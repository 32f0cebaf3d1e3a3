"""What a domain's rough masks say of its particles: how many, how large, which shapes, where.

Rough masks are known to be imperfect, so only what many particles say together is kept. Random
masks (`random_mask.py`) are drawn from these figures.
"""

import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.special import ndtr

from emcopilot.errors import AdaptationError
from emcopilot.labels import label_particles
from emcopilot.outlines import Outlines, outlines
from emcopilot.particles import measure_particles
from emcopilot.runs import FloatArray, IntArray, Labels, Mask, boxes_of, runs_of
from emcopilot.specimen import polygon_area

FEWEST_WHOLE = 10
"""Whole particles in all masks together, below which sizes and shapes are anecdotes."""
OVERLAP_DEPTH = 0.06
"""Particles that lie deeper in each other than this, over the smaller diameter, overlap."""
FIELD_CELLS = 64
"""Cells per side of a placement field."""
CORNERS = 40
"""Of a stored outline, evenly along it."""

_SPECK, _BLOB = 1 / 5, 4.0
"""Diameters over the typical one beyond which an object is a fault of the mask. The widest size
distribution that we simulate (0.5 in ln d) loses 1.4 % of its particles by this."""
_MOST_OUTLINES = 512
_OUTLINES_A_FRAME = 96
_LEAST_SEEN = 0.1
"""A particle almost as large as the frame would otherwise stand for hundreds of its kind."""
_BANDWIDTHS = (2.0, 3.0, 5.0, 8.0)
"""Of a placement field, in typical diameters; narrower ones would retrace single particles."""
_WEIGHTS = (0.25, 0.5, 0.75, 0.9, 0.97)
_LEAST_GAIN = 3.0
"""Log-likelihood that clustering must explain; chance alone gains 1 per fitted number."""
_FEW = 4.0
"""At so many groups in a frame its own placement counts half."""
_MOST_POINTS = 400
_QUADRATS = 4
_LEAST_FIELD = 0.02
_CORE_QUANTILE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class MaskStatistics:
    """How the particles of one domain are made and laid out; lengths in px of its frames."""

    shapes_px: NDArray[np.int64]
    """Shape (F, 2), height and width of each measured frame."""
    counts: FloatArray
    """Shape (F,), particles whose centre lies in each frame, without the border's bias."""
    diameters_px: FloatArray
    """Shape (P,), area-equivalent, of the particles that the border leaves whole."""
    weights: FloatArray
    """Shape (P,), sum 1: how often each diameter is met where no border excludes large ones."""
    outlines: NDArray[np.float32]
    """Shape (L, CORNERS, 2), polygons (y, x) of area 1 about their centroid, small first."""
    outline_diameters_px: FloatArray
    """Shape (L,), of the particles that the outlines come from, ascending."""
    group_sizes: NDArray[np.int64]
    """Shape (G,), particles in each group that hangs together; 1 is a particle by itself."""
    depths: FloatArray
    """Shape (C,), how deep two in contact lie in each other, over the smaller diameter."""
    placement: NDArray[np.float32]
    """Shape (F, FIELD_CELLS, FIELD_CELLS), how often groups lie there; mean 1, even is 1."""
    core: float
    """Distance over mean diameter that almost no two particles fall short of unless they touch."""

    @classmethod
    def of(cls, masks: Iterable[Mask | NDArray[np.uint8]]) -> "MaskStatistics":
        """Measure the rough masks of one domain.

        Parameters
        ----------
        masks : iterable of bool arrays, or of uint8 particle probabilities 0..255, shape (H, W)
            Shapes may differ, the magnification should not. Looked at one after the other.

        Raises
        ------
        AdaptationError
            If all of them together hold fewer than `FEWEST_WHOLE` whole particles.
        ValueError
            If a mask is not two-dimensional.

        Notes
        -----
        Left out as faults of the masks: what is smaller than a fifth or larger than four times
        the typical diameter, which is the area-weighted median where no object weighs more than
        a tenth of all: neither specks by the hundred nor one blob can move it.
        """
        frames = [_look(mask) for mask in masks]
        typical_px = _typical(frames)
        frames = [frame.only(_is_plausible(frame, typical_px)) for frame in frames]
        whole = sum(int(frame.is_whole.sum()) for frame in frames)
        if whole < FEWEST_WHOLE:
            raise AdaptationError(
                f"{len(frames)} rough masks hold {whole} whole particles; sizes and shapes need "
                f"{FEWEST_WHOLE} or more; add frames, or choose another way to rough masks"
            )
        chance = np.concatenate([frame.chance_whole() for frame in frames])
        shapes, shape_diameters_px = _library(frames)
        return cls(
            shapes_px=np.array([frame.shape for frame in frames], np.int64),
            counts=np.array([frame.count() for frame in frames]),
            diameters_px=np.concatenate([f.diameter_px[f.is_whole] for f in frames]),
            weights=(1 / chance) / (1 / chance).sum(),
            outlines=shapes,
            outline_diameters_px=shape_diameters_px,
            group_sizes=np.concatenate([np.bincount(f.groups()) for f in frames]),
            depths=np.concatenate([frame.depth for frame in frames]),
            placement=_placement(frames, typical_px),
            core=_core(frames),
        )

    @property
    def densities_per_mpx(self) -> FloatArray:
        """Particles per million pixels of each frame, shape (F,)."""
        return self.counts / self.shapes_px.prod(axis=1) * 1e6

    @property
    def touching(self) -> float:
        """Share of particles that touch or overlap another, 0..1."""
        joined = self.group_sizes[self.group_sizes > 1].sum()
        return float(joined / max(self.group_sizes.sum(), 1))

    @property
    def overlapping(self) -> float:
        """Share of contacts that are more than a mere touch, 0..1."""
        return float((self.depths > OVERLAP_DEPTH).mean()) if self.depths.size else 0.0

    @property
    def reach_px(self) -> float:
        """Distance from a particle's centre to its farthest point, at most."""
        longest = np.sqrt((self.outlines**2).sum(axis=2)).max(axis=1)
        return float((longest * self.outline_diameters_px).max()) * math.sqrt(np.pi) / 2

    def save(self, path: Path) -> None:
        """Write all figures to one .npz file, whole or not at all."""
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in _names()})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "MaskStatistics":
        """Read what `save` wrote.

        Raises
        ------
        AdaptationError
            If the file is missing, damaged or of another version.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in _names()}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise AdaptationError(
                f"cannot read mask statistics {path}: {error}; remove the file and they are "
                "measured anew"
            ) from error
        core = float(found.pop("core"))
        return cls(**found, core=core)


def _names() -> list[str]:
    return [field.name for field in fields(MaskStatistics)]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The particles of one mask, shape (P,) each, and their contacts, shape (C,) each."""

    shape: tuple[int, int]
    label: IntArray
    y_px: FloatArray
    x_px: FloatArray
    diameter_px: FloatArray
    height_px: FloatArray
    width_px: FloatArray
    is_whole: Mask
    """The border does not cut it."""
    first: IntArray
    second: IntArray
    """A contact is one of particles first and second, indices into the arrays above."""
    depth: FloatArray
    traced: Outlines
    """Of all labels, also those left out."""

    def only(self, keep: Mask) -> "_Frame":
        """Return the frame with some of its particles, and the contacts among these."""
        number = np.cumsum(keep) - 1
        both = keep[self.first] & keep[self.second]
        return _Frame(
            self.shape,
            self.label[keep],
            self.y_px[keep],
            self.x_px[keep],
            self.diameter_px[keep],
            self.height_px[keep],
            self.width_px[keep],
            self.is_whole[keep],
            number[self.first[both]],
            number[self.second[both]],
            self.depth[both],
            self.traced,
        )

    def groups(self) -> IntArray:
        """Return the number of each particle's group that hangs together, from 0; shape (P,)."""
        count = len(self.label)
        joined = (np.ones(len(self.first)), (self.first, self.second))
        graph = coo_array(joined, shape=(count, count))
        return connected_components(graph, directed=False)[1].astype(np.intp)

    def group_centres(self) -> FloatArray:
        """Return the mean (y, x) of each group's centres, shape (G, 2)."""
        group = self.groups()
        sizes = np.bincount(group)
        sums = [np.bincount(group, at) for at in (self.y_px, self.x_px)]
        return np.stack(sums, axis=1) / sizes[:, None]

    def count(self) -> float:
        """Count without the border's bias.

        Notes
        -----
        Of particles h by w in size, a frame H by W is met by (H + h)(W + w) per unit of density
        and holds (H - h)(W - w) whole; the mean of both is H W + h w.
        """
        if not len(self.label):
            return 0.0
        area_px = self.shape[0] * self.shape[1]
        own_px = float((self.height_px * self.width_px).mean())
        return float((1.0 + self.is_whole).sum() / 2) * area_px / (area_px + own_px)

    def chance_whole(self) -> FloatArray:
        """Return the chance of each whole particle to lie wholly in the frame.

        Notes
        -----
        Source: R. E. Miles, in Geometrical Probability and Biological Structures, Springer 1978,
        and C. Lantuejoul, J. Microsc. 1978: (H - h)(W - w) / (H W).
        """
        height, width = self.shape
        free_y = 1 - self.height_px[self.is_whole] / height
        free_x = 1 - self.width_px[self.is_whole] / width
        return np.maximum(free_y * free_x, _LEAST_SEEN)


def _look(mask: Mask | NDArray[np.uint8]) -> _Frame:
    labels = label_particles(mask)
    table = measure_particles(labels, labels)
    boxes = boxes_of(runs_of(labels), len(table.label))
    first, second, sides = _contacts(labels)
    diameter_px = table.equivalent_diameter_px
    smaller_px = np.minimum(diameter_px[first], diameter_px[second])
    return _Frame(
        shape=(labels.shape[0], labels.shape[1]),
        label=table.label.astype(np.intp),
        y_px=table.centroid_y_px,
        x_px=table.centroid_x_px,
        diameter_px=diameter_px,
        height_px=(boxes.bottom - boxes.top + 1).astype(np.float64),
        width_px=(boxes.right - boxes.left + 1).astype(np.float64),
        is_whole=~table.touches_border,
        first=first,
        second=second,
        depth=_depths(sides, smaller_px),
        # Outlines are traced on a grid of int16: frames of 4,096 px are just too wide for it.
        traced=outlines(labels, min(1.0, 4_000 / max(labels.shape))),
    )


def _contacts(labels: Labels) -> tuple[IntArray, IntArray, IntArray]:
    """Find the pairs of touching labels, as indices from 0, and the pixel sides they share."""
    pairs: list[NDArray[np.int32]] = []
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        pairs.append(np.sort(np.stack([one[meet], other[meet]], axis=1), axis=1))
    found, sides = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    return found[:, 0].astype(np.intp) - 1, found[:, 1].astype(np.intp) - 1, sides


def _depths(sides: IntArray, smaller_px: FloatArray) -> FloatArray:
    """Tell how deep two particles lie in each other from the pixel sides that they share.

    Notes
    -----
    Two equal discs c diameters apart share a chord of sqrt(1 - c^2) diameters; pixels of discs
    that are up to 1 px apart still share sides. A line of any direction crosses 4 / pi pixel
    sides per px of its length.
    """
    neck = np.minimum(sides * (np.pi / 4) / smaller_px, 0.9)
    return np.maximum(1 - np.sqrt(1 - neck**2) - 1 / smaller_px, 0.0)


def _typical(frames: Sequence[_Frame]) -> float:
    """Return the area-weighted median diameter in px; no object weighs over a tenth of all."""
    sizes = [np.zeros(0), *(frame.diameter_px for frame in frames)]
    diameter_px = np.sort(np.concatenate(sizes))
    if not diameter_px.size:
        return 1.0
    area = diameter_px**2
    reached = np.cumsum(np.minimum(area, area.sum() / 10))
    for _ in range(20):  # the cap lowers the sum it is a tenth of: settle
        reached = np.cumsum(np.minimum(area, reached[-1] / 10))
    return float(diameter_px[np.searchsorted(reached, reached[-1] / 2)])


def _is_plausible(frame: _Frame, typical_px: float) -> Mask:
    # Of a sound particle the border may leave a sliver, and it counts.
    least_px = np.where(frame.is_whole, _SPECK, _SPECK / 2) * typical_px
    return (frame.diameter_px > least_px) & (frame.diameter_px < _BLOB * typical_px)


def _library(frames: Sequence[_Frame]) -> tuple[NDArray[np.float32], FloatArray]:
    """Return outlines of whole particles of all sizes and their diameters, ascending."""
    free = [_free_standing(frame) for frame in frames]
    # A neck flattens an outline: those that touch nothing tell more, if there are enough.
    enough = sum(int(alone.sum()) for alone in free) >= FEWEST_WHOLE
    found: list[tuple[float, NDArray[np.float32]]] = []
    for frame, alone in zip(frames, free, strict=True):
        usable = np.flatnonzero(alone if enough else frame.is_whole)
        by_size = usable[np.argsort(frame.diameter_px[usable], kind="stable")]
        for index in _evenly(by_size, _OUTLINES_A_FRAME).tolist():
            polygon = frame.traced.polygon(int(frame.label[index]))
            if len(polygon) > 2 and polygon_area(polygon) > 1:
                found.append((float(frame.diameter_px[index]), unit_outline(polygon)))
    found.sort(key=lambda pair: pair[0])
    kept = _evenly(np.arange(len(found)), _MOST_OUTLINES).tolist()
    diameters_px = np.array([found[index][0] for index in kept])
    return np.stack([found[index][1] for index in kept]), diameters_px


def _free_standing(frame: _Frame) -> Mask:
    alone = frame.is_whole.copy()
    alone[frame.first] = alone[frame.second] = False
    return alone


def _evenly(items: IntArray, most: int) -> IntArray:
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(np.intp)]


def unit_outline(polygon: FloatArray) -> NDArray[np.float32]:
    """Space a polygon's corners evenly, centre it and scale it to area 1.

    Parameters
    ----------
    polygon : float64 array, shape (N, 2)
        Corners (x, y), N > 2; star-shaped or not.

    Returns
    -------
    float32 array, shape (CORNERS, 2), corners (y, x)
    """
    closed = np.vstack([polygon, polygon[:1]])
    along = np.append(0.0, np.cumsum(np.hypot(*np.diff(closed, axis=0).T)))
    at = np.linspace(0.0, along[-1], CORNERS, endpoint=False)
    x, y = (np.interp(at, along, closed[:, axis]) for axis in (0, 1))
    y, x = y - y.mean(), x - x.mean()  # near its centre, where sums keep their digits
    y_next, x_next = np.roll(y, -1), np.roll(x, -1)
    cross = x * y_next - x_next * y
    vertices = np.stack([y, x], axis=1)
    centre = ((vertices + np.stack([y_next, x_next], axis=1)) * cross[:, None]).sum(0)
    vertices = vertices - centre / (3 * cross.sum())
    return (vertices / math.sqrt(polygon_area(vertices))).astype(np.float32)


def _placement(frames: Sequence[_Frame], typical_px: float) -> NDArray[np.float32]:
    """Estimate where groups lie in each frame, as far as it is more than chance.

    Returns
    -------
    float32 array, shape (F, FIELD_CELLS, FIELD_CELLS), mean 1

    Notes
    -----
    A kernel density of the groups' centres, mixed with the even field. The bandwidth is the one
    under which each centre is likeliest given all others of its frame; unless that beats the
    even field clearly, the domain has none. The mixture is then made as uneven as the pairs of
    centres that share a sixteenth of their frame say.
    """
    centres = [frame.group_centres() for frame in frames]
    field = np.ones((len(frames), FIELD_CELLS, FIELD_CELLS))
    width_px = _bandwidth(centres, frames, typical_px)
    if width_px is None:
        return field.astype(np.float32)
    for number, (points, frame) in enumerate(zip(centres, frames, strict=True)):
        if len(points):
            trust = len(points) / (len(points) + _FEW)
            density = _kernel_density(points, frame.shape, width_px)
            field[number] += trust * (density - 1)
    pairs = np.array([len(points) * (len(points) - 1) for points in centres])
    shared = sum(
        float((hits * (hits - 1)).sum())
        for hits in (
            _hits(points, frame.shape, _QUADRATS)
            for points, frame in zip(centres, frames, strict=True)
        )
    )
    aim = shared * _QUADRATS**2 / pairs.sum() - 1
    blocks = field.reshape(
        len(frames), _QUADRATS, -1, _QUADRATS, FIELD_CELLS // _QUADRATS
    )
    uneven = pairs @ ((blocks.mean(axis=(2, 4)) - 1) ** 2).mean(axis=(1, 2))
    strength = math.sqrt(max(aim, 0.0) * pairs.sum() / max(float(uneven), 1e-9))
    # Nowhere quite bare: what few frames do not show is not impossible.
    most = (1 - _LEAST_FIELD) / max(float((1 - field).max()), 1e-9)
    return (1 + min(strength, most) * (field - 1)).astype(np.float32)


def _bandwidth(
    centres: Sequence[FloatArray], frames: Sequence[_Frame], typical_px: float
) -> float | None:
    """Return the width in px of the kernels that foretell centres best, None if none does."""
    best, chosen = _LEAST_GAIN, None
    for bandwidth in _BANDWIDTHS:
        width_px = bandwidth * typical_px
        seen = [np.ones(0)]
        for points, frame in zip(centres, frames, strict=True):
            few = points[_evenly(np.arange(len(points)), _MOST_POINTS)]
            seen.append(_left_out(few, frame.shape, width_px))
        density = np.concatenate(seen)
        for weight in _WEIGHTS:
            gain = float(np.log(1 - weight + weight * density).sum())
            if gain > best:
                best, chosen = gain, width_px
    return chosen


def _left_out(
    points: FloatArray, shape: tuple[int, int], width_px: float
) -> FloatArray:
    """Return the density over even at each point by the kernels of all others, shape (N,)."""
    if len(points) < 2:
        return np.ones(len(points))
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    kernels = np.exp(-squares / (2 * width_px**2)) / (2 * np.pi * width_px**2)
    np.fill_diagonal(kernels, 0.0)
    # What a kernel loses beyond the border comes back, or every border would look bare.
    inside = ndtr((np.array(shape) - points) / width_px) - ndtr(-points / width_px)
    density = (kernels / inside.prod(axis=1)[None]).sum(axis=1) / (len(points) - 1)
    return density * shape[0] * shape[1]


def _kernel_density(
    points: FloatArray, shape: tuple[int, int], width_px: float
) -> FloatArray:
    hits = _hits(points, shape, FIELD_CELLS)
    sigma = [width_px * FIELD_CELLS / side for side in shape]
    return gaussian_filter(hits / hits.mean(), sigma, mode="reflect")


def _hits(points: FloatArray, shape: tuple[int, int], cells: int) -> FloatArray:
    """Count points in cells by cells equal parts of a frame."""
    ranges = [(-0.5, shape[0] - 0.5), (-0.5, shape[1] - 0.5)]
    return np.histogram2d(*points.T, bins=cells, range=ranges)[0]


def _core(frames: Sequence[_Frame]) -> float:
    """Return the low end of nearest distances between groups, over the mean diameter."""
    nearest = [_nearest_strangers(frame) for frame in frames]
    ratios = np.concatenate(nearest)
    if len(ratios) < FEWEST_WHOLE:
        return 0.0
    return float(np.quantile(ratios, _CORE_QUANTILE))


def _nearest_strangers(frame: _Frame) -> FloatArray:
    """Return each particle's least distance over mean diameter to another group's particle."""
    if len(frame.label) < 2:
        return np.zeros(0)
    centres = np.stack([frame.y_px, frame.x_px], axis=1)
    apart, other = KDTree(centres).query(centres, k=min(12, len(centres)))
    group = frame.groups()
    mean_px = (frame.diameter_px[:, None] + frame.diameter_px[other]) / 2
    ratio = np.where(group[other] != group[:, None], apart / mean_px, np.inf)
    least = ratio.min(axis=1)
    return least[np.isfinite(least)]
