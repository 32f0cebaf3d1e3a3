"""Random masks that follow a domain's statistics: new particles, laid out as its own are.

No particle is a copy: each has an outline of the domain, turned, mirrored, rippled and scaled to
a diameter drawn from the domain's distribution.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from emcopilot.errors import AdaptationError
from emcopilot.runs import IntArray, Labels, Mask
from models.mask_statistics import FIELD_CELLS, MaskStatistics

Corners = NDArray[np.complex128]
"""Shape (N, V), corners x + iy in px: one number a corner turns and ripples in one product."""

_RIPPLE = 0.03
"""Relative strength of the ripples on an outline, over their order 2 to 6."""
_NEIGHBOURS = 16
"""An outline is drawn among this part of the library's, those nearest in size."""
_SPOTS, _SIDES = 30, 12
"""Places tried for a group, and for a member at its group; a crowded field then does without."""
_MOST_HIDDEN = 0.4
"""Share of itself or of a neighbour that an overlap may hide."""


@dataclass(frozen=True, slots=True, eq=False)
class RandomMask:
    """What a frame of the domain might hold."""

    mask: Mask
    """Shape (H, W), True where there is a particle."""
    labels: Labels
    """Shape (H, W); 0 is background, 1..P number the particles without gaps."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """One particle's pixels about the pixel of its centre."""

    pixels: Mask
    """Shape (h, w), with a pixel of background all around."""
    touching: Mask
    """The same with the pixels that share an edge with it."""
    grown: Mask
    """The same with all pixels around: what another group must leave free."""
    top: int
    left: int
    """Of the array's first pixel, from the centre's."""
    diameter_px: float

    def window(self, y: int, x: int) -> tuple[slice, slice]:
        """Return where the stamp lies with its centre at pixel (y, x)."""
        top, left = y + self.top, x + self.left
        height, width = self.pixels.shape
        return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where groups may lie in a field of view: cells, those within the frame first."""

    cells: IntArray
    """Shape (N, 2), row and column."""
    reached: NDArray[np.float64]
    """Shape (N,), share of all groups that lie in the cells up to each."""
    inner: float
    """Share that lies within the frame."""
    edges_px: NDArray[np.float64]
    """Height and width of a cell."""
    part: float
    """Particles in the field over those of the measured frame."""

    def draw_spots(self, groups: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw places (y, x), shape (groups, _SPOTS, 2).

        Notes
        -----
        How many groups lie within the frame is no matter of chance: the count was drawn before.
        """
        inside = rng.permutation(groups) < math.floor(
            groups * self.inner + rng.random()
        )
        share = rng.random((groups, _SPOTS))
        outer = self.inner + share * (1 - self.inner)
        share = np.where(inside[:, None], share * self.inner, outer)
        chosen = np.searchsorted(self.reached, share, "right")
        cell = self.cells[np.minimum(chosen, len(self.cells) - 1)]
        return ((cell + rng.random(cell.shape)) * self.edges_px).astype(np.int64)


def draw_mask(
    statistics: MaskStatistics, shape: tuple[int, int], rng: np.random.Generator
) -> RandomMask:
    """Draw one mask.

    Parameters
    ----------
    statistics : MaskStatistics
        Of the domain; one of its frames, drawn, gives density and placement.
    shape : (int, int)
        Height and width in px, at the magnification of the measured masks.
    rng : numpy Generator
        The same state draws the same mask.

    Returns
    -------
    RandomMask
        It may be empty, as frames of the domain may; where the field is too crowded for random
        placement it holds fewer particles than asked for.

    Raises
    ------
    AdaptationError
        If a side of `shape` is not positive.

    Notes
    -----
    Strategy: particles are drawn as pixels and laid out, one group that touches after the other,
    on a field wider than the frame, so that the border cuts some. The largest groups come first:
    later ones find less room, and the small would crowd out the large.
    """
    if min(shape) < 1:
        raise AdaptationError(f"a mask needs sides of 1 px or more, got {shape}")
    frame = int(rng.integers(len(statistics.counts)))
    margin_px = math.ceil(statistics.reach_px) + 2
    wide = (shape[0] + 2 * margin_px, shape[1] + 2 * margin_px)
    placement = _draw_placement(statistics, frame, wide, margin_px, rng)
    count = _draw_count(float(statistics.counts[frame]), placement.part, rng)
    stamps = _draw_stamps(statistics, count, rng)
    groups = _draw_groups(statistics, stamps, rng)
    spots = placement.draw_spots(len(groups), rng)
    field = _Field(wide, stamps, statistics)
    for members, tries in zip(groups, spots, strict=True):
        field.lay(members, tries, rng)
    labels = _without_gaps(field.seen(margin_px, shape))
    return RandomMask(labels > 0, labels)


def _draw_count(held: float, part: float, rng: np.random.Generator) -> int:
    """Draw how many particles a field holds that is a `part` of a frame that held so many."""
    count = math.floor(held * max(part, 1.0) + rng.random())
    # A part of a frame holds more or less than its share by chance; a whole one was counted.
    return int(rng.binomial(count, part)) if part < 1 else count


def _draw_stamps(
    statistics: MaskStatistics, count: int, rng: np.random.Generator
) -> list[_Stamp]:
    diameters_px = _draw_diameters(statistics, count, rng)
    corners = _draw_outlines(statistics, diameters_px, rng)
    phase = rng.uniform(-0.5, 0.5, count) + 1j * rng.uniform(-0.5, 0.5, count)
    return [
        _stamp(outline, diameter_px)
        for outline, diameter_px in zip(
            corners + phase[:, None], diameters_px.tolist(), strict=True
        )
    ]


def _draw_diameters(
    statistics: MaskStatistics, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw diameters from a smoothed copy of the measured ones, of the same mean and spread.

    Notes
    -----
    Smoothed in ln d by Silverman's rule and drawn in towards the mean, so that the spread stays.
    Source: B. W. Silverman, Density Estimation, Chapman and Hall 1986, sections 3.4.2 and 6.4.
    """
    logs = np.log(statistics.diameters_px)
    mean = float(statistics.weights @ logs)
    spread = math.sqrt(float(statistics.weights @ (logs - mean) ** 2))
    width = 0.9 * spread * len(logs) ** -0.2
    drawn = rng.choice(logs, count, p=statistics.weights) + rng.normal(0, width, count)
    drawn_in = 1 / math.sqrt(1 + (width / max(spread, 1e-9)) ** 2)
    smoothed = mean + (drawn - mean) * drawn_in
    return np.exp(np.clip(smoothed, logs.min() - 0.1, logs.max() + 0.1))


def _draw_outlines(
    statistics: MaskStatistics,
    diameters_px: NDArray[np.float64],
    rng: np.random.Generator,
) -> Corners:
    """Draw the outline of each particle among those of its size, and vary it."""
    count, held = len(diameters_px), len(statistics.outlines)
    near = max(held // _NEIGHBOURS, 3)
    place = np.searchsorted(statistics.outline_diameters_px, diameters_px)
    chosen = place + rng.integers(-near, near + 1, count)
    vertices = statistics.outlines[np.clip(chosen, 0, held - 1)].astype(np.float64)
    corners: Corners = vertices[..., 1] + 1j * vertices[..., 0]
    mirrored = rng.random((count, 1)) < 0.5
    corners = np.where(mirrored, corners.conj(), corners)
    corners = corners * np.exp(2j * np.pi * rng.random((count, 1)))
    # Along a ray every point moves by the same factor: no outline can cross itself.
    facing = corners / np.maximum(np.abs(corners), 1e-9)
    for order in range(2, 7):
        strength = rng.normal(0, _RIPPLE / order, (count, 2)) @ np.array([1, 1j])
        corners = corners * (1 + (strength[:, None] * facing**order).real)
    crossed: Corners = corners.conj() * np.roll(corners, -1, axis=1)
    area = np.abs(crossed.imag.sum(axis=1)) / 2
    area_px = np.pi / 4 * diameters_px**2
    return corners * np.sqrt(area_px / area)[:, None]


def _stamp(corners: NDArray[np.complex128], diameter_px: float) -> _Stamp:
    """Find the pixels whose centre lies within an outline.

    Notes
    -----
    `specimen.signed_distance` asks for star-shaped outlines; these need not be.
    """
    top, left = math.floor(corners.imag.min()) - 1, math.floor(corners.real.min()) - 1
    height = math.ceil(corners.imag.max()) + 2 - top
    width = math.ceil(corners.real.max()) + 2 - left
    pixels = np.zeros((height, width), np.bool_)
    pixels[polygon(corners.imag - top, corners.real - left)] = True
    taller = pixels.copy()
    taller[1:] |= pixels[:-1]
    taller[:-1] |= pixels[1:]
    touching = taller.copy()
    touching[:, 1:] |= pixels[:, :-1]
    touching[:, :-1] |= pixels[:, 1:]
    grown = taller.copy()
    grown[:, 1:] |= taller[:, :-1]
    grown[:, :-1] |= taller[:, 1:]
    return _Stamp(pixels, touching, grown, top, left, diameter_px)


def _draw_groups(
    statistics: MaskStatistics, stamps: list[_Stamp], rng: np.random.Generator
) -> list[list[_Stamp]]:
    """Share the particles out to groups that touch, the group that covers most first."""
    if not stamps:
        return []
    sizes = rng.choice(statistics.group_sizes, len(stamps))
    ends = np.minimum(np.cumsum(sizes), len(stamps))
    ends = ends[: int(np.searchsorted(ends, len(stamps))) + 1]
    groups = [stamps[a:b] for a, b in itertools.pairwise([0, *ends.tolist()])]
    return sorted(groups, key=lambda group: -sum(s.diameter_px**2 for s in group))


def _draw_placement(
    statistics: MaskStatistics,
    frame: int,
    wide: tuple[int, int],
    margin_px: int,
    rng: np.random.Generator,
) -> _Placement:
    """Choose how a field of shape `wide` lies on the placement of one measured frame.

    Notes
    -----
    The frame is turned and mirrored at random. A field larger than it sees it reflected at its
    borders, a smaller one a part of it.
    """
    density = statistics.placement[frame]
    shape = statistics.shapes_px[frame]
    if rng.random() < 0.5:
        density, shape = density.T, shape[::-1]
    cell_px = shape / FIELD_CELLS
    cells = [max(round(side / px), 1) for side, px in zip(wide, cell_px, strict=True)]
    rows, columns = (_reflected(count, rng) for count in cells)
    edges_px = np.array(wide) / cells
    inner_rows, inner_columns = (
        _is_inner(count, edge_px, margin_px)
        for count, edge_px in zip(cells, edges_px.tolist(), strict=True)
    )
    is_inner = np.logical_and.outer(inner_rows, inner_columns).ravel()
    inner_first = np.argsort(~is_inner, kind="stable")
    seen = density[np.ix_(rows, columns)].ravel()
    reached = np.cumsum(seen[inner_first], dtype=np.float64)
    return _Placement(
        np.stack(np.divmod(inner_first, cells[1]), axis=1),
        reached / reached[-1],
        float(seen[is_inner].sum(dtype=np.float64) / reached[-1]),
        edges_px,
        float(seen.mean()) * wide[0] * wide[1] / float(shape.prod()),
    )


def _reflected(count: int, rng: np.random.Generator) -> IntArray:
    """Return `count` consecutive cells of one side from a random start, either way round."""
    slack = FIELD_CELLS - count
    start = int(rng.integers(min(slack, 0), max(slack, 0) + 1))
    index = (start + np.arange(count)) % (2 * FIELD_CELLS)
    index = np.where(index < FIELD_CELLS, index, 2 * FIELD_CELLS - 1 - index)
    return FIELD_CELLS - 1 - index if rng.random() < 0.5 else index


def _is_inner(cells: int, edge_px: float, margin_px: int) -> Mask:
    middle_px = (np.arange(cells) + 0.5) * edge_px
    return (middle_px > margin_px) & (middle_px < cells * edge_px - margin_px)


class _Field:
    """A field of view in the making, wider than the frame on all sides."""

    def __init__(
        self, wide: tuple[int, int], stamps: list[_Stamp], statistics: MaskStatistics
    ) -> None:
        self._wide = wide
        self._core, self._depths = statistics.core, statistics.depths
        # Stamps may hang over the field's border: nowhere need they be clipped.
        self._pad = max((max(stamp.pixels.shape) for stamp in stamps), default=0)
        padded = (wide[0] + 2 * self._pad, wide[1] + 2 * self._pad)
        self._owner = np.zeros(padded, np.int32)
        """Shape (H, W) of the padded field, 1 + index of the particle on top; 0 is none."""
        self._laid: list[_Stamp] = []
        self._centres = np.zeros((len(stamps), 2), np.int64)
        self._diameters_px = np.zeros(len(stamps))
        self._area_px = np.zeros(len(stamps), np.int64)
        """What is seen of each."""

    def lay(
        self,
        members: list[_Stamp],
        spots: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        """Lay a group down: its first particle on one of `spots`, the others beside it."""
        first, *others = members
        start = len(self._laid)
        spots = spots + self._pad
        for spot in spots[
            np.argsort(~self._keeps_distance(first, spots), kind="stable")
        ]:
            y, x = spot.tolist()
            if not self._owner[first.window(y, x)][first.grown].any():
                self._put(first, y, x)
                break
        else:
            return
        for stamp in others:
            self._join(stamp, start, rng)

    def seen(self, margin_px: int, shape: tuple[int, int]) -> Labels:
        """Return the frame's part of the field, labels with gaps."""
        start = self._pad + margin_px
        return self._owner[start : start + shape[0], start : start + shape[1]]

    def _keeps_distance(self, stamp: _Stamp, spots: NDArray[np.int64]) -> Mask:
        laid = slice(len(self._laid))
        off = spots[:, None] - self._centres[laid]
        least_px = self._core * (self._diameters_px[laid] + stamp.diameter_px) / 2
        return ((off**2).sum(axis=2) >= least_px**2).all(axis=1)

    def _join(self, stamp: _Stamp, start: int, rng: np.random.Generator) -> None:
        """Lay one particle in contact with one of its group, if there is room."""
        for _ in range(_SIDES):
            partner = int(rng.integers(start, len(self._laid)))
            angle = rng.uniform(0, 2 * np.pi)
            depth = float(rng.choice(self._depths)) if self._depths.size else 0.0
            y, x = self._beside(stamp, partner, angle, depth)
            if self._has_room(stamp, start, y, x):
                self._put(stamp, y, x)
                return

    def _beside(
        self, stamp: _Stamp, partner: int, angle: float, depth: float
    ) -> tuple[int, int]:
        """Find where, in one direction from its partner, it lies that deep in it."""
        centre_y, centre_x = self._centres[partner].tolist()

        def at(apart_px: float) -> tuple[int, int]:
            return (
                centre_y + round(apart_px * math.sin(angle)),
                centre_x + round(apart_px * math.cos(angle)),
            )

        other = self._laid[partner]
        near_px, far_px = 0.0, float(sum(stamp.pixels.shape + other.pixels.shape))
        while far_px - near_px > 0.5:
            middle_px = (near_px + far_px) / 2
            window = stamp.window(*at(middle_px))
            if _meet(stamp, window, other, other.window(centre_y, centre_x)):
                near_px = middle_px
            else:
                far_px = middle_px
        smaller_px = min(stamp.diameter_px, other.diameter_px)
        return at(near_px - depth * smaller_px)

    def _has_room(self, stamp: _Stamp, start: int, y: int, x: int) -> bool:
        """Tell whether a particle leaves other groups alone and hides little of its own."""
        centre = np.array([y, x]) - self._pad
        if (centre < 0).any() or (centre >= self._wide).any():
            return False
        around = self._owner[stamp.window(y, x)]
        met = around[stamp.grown]
        if ((met > 0) & (met <= start)).any():
            return False
        hidden_px = np.bincount(around[stamp.pixels], minlength=start + 1)[start + 1 :]
        own = slice(start, start + len(hidden_px))
        if (hidden_px > _MOST_HIDDEN * self._area_px[own]).any():
            return False
        return hidden_px.sum() <= _MOST_HIDDEN * np.count_nonzero(stamp.pixels)

    def _put(self, stamp: _Stamp, y: int, x: int) -> None:
        index = len(self._laid)
        self._laid.append(stamp)
        self._centres[index] = y, x
        self._diameters_px[index] = stamp.diameter_px
        view = self._owner[stamp.window(y, x)]
        hidden = view[stamp.pixels]
        np.subtract.at(self._area_px, hidden[hidden > 0] - 1, 1)
        self._area_px[index] = np.count_nonzero(stamp.pixels)
        view[stamp.pixels] = index + 1


def _meet(
    one: _Stamp,
    one_at: tuple[slice, slice],
    other: _Stamp,
    other_at: tuple[slice, slice],
) -> bool:
    """Tell whether two particles share a pixel's edge, or more."""
    first: list[slice] = []
    second: list[slice] = []
    for a, b in zip(one_at, other_at, strict=True):
        low, high = max(a.start, b.start), min(a.stop, b.stop)
        if low >= high:
            return False
        first.append(slice(low - a.start, high - a.start))
        second.append(slice(low - b.start, high - b.start))
    return bool((one.touching[tuple(first)] & other.pixels[tuple(second)]).any())


def _without_gaps(owner: Labels) -> Labels:
    """Give new numbers, from 1, to what is seen, in the order in which it was laid."""
    seen = np.bincount(owner.ravel()) > 0
    seen[0] = False
    numbers = np.where(seen, np.cumsum(seen), 0).astype(np.int32)
    return numbers[owner]
