"""Particles as exact outlines, and how the pixels of a frame see them.

Every outline is a polygon that is star-shaped about its centre, so one rule answers
for all of them: a point lies in the wedge of one edge, and its signed distance to that
edge says inside or outside, without super-sampling and without a hole in the exactness.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SMOOTH_VERTICES = 72
"""Corners of a smooth outline; it strays from its curve by 0.1 % of the radius."""
AREA_SAMPLES = 128
"""Points per side over a partly seen particle: its area is then good to about 0.1 %."""


@dataclass(frozen=True, slots=True)
class Body:
    """One particle on the specimen, in pixels of the frame."""

    particle: int
    """Its number for life: it keeps it from frame to frame."""
    centre_y_px: float
    centre_x_px: float
    outline: FloatArray
    """Shape (V, 2), vertices (y, x) about the centre, by increasing angle, area 1."""
    diameter_px: float
    """Of the circle with the same area."""
    contrast: float = 1.0
    """How strongly it scatters beside its neighbours."""
    reach_px: float = field(init=False)
    """Distance from the centre to the farthest vertex."""

    def __post_init__(self) -> None:
        # Kept, not recomputed: placing 400 particles asks for it 100,000 times.
        reach = math.sqrt(float((self.vertices**2).sum(axis=1).max()))
        object.__setattr__(self, "reach_px", reach)

    @property
    def vertices(self) -> FloatArray:
        """Shape (V, 2), the outline about the centre in px."""
        return self.outline * (self.diameter_px * math.sqrt(math.pi) / 2)

    def moved(self, y_px: float, x_px: float) -> "Body":
        """Return the same particle, moved by (y_px, x_px)."""
        return replace(
            self,
            centre_y_px=self.centre_y_px + y_px,
            centre_x_px=self.centre_x_px + x_px,
        )


def polygon_area(vertices: FloatArray) -> float:
    """Return the area within `vertices`, shape (V, 2), by the shoelace formula."""
    y, x = vertices[:, 0], vertices[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def ellipse_outline(aspect_ratio: float, angle: float) -> FloatArray:
    """Return an ellipse of area 1 whose long axis lies at `angle` rad from the x axis."""
    turn = np.linspace(0.0, 2 * np.pi, SMOOTH_VERTICES, endpoint=False)
    long_axis, short_axis = math.sqrt(aspect_ratio), 1 / math.sqrt(aspect_ratio)
    along, across = long_axis * np.cos(turn), short_axis * np.sin(turn)
    y = along * math.sin(angle) + across * math.cos(angle)
    x = along * math.cos(angle) - across * math.sin(angle)
    return _unit_area(np.stack([y, x], axis=1))


def faceted_outline(rng: np.random.Generator) -> FloatArray:
    """Return a convex polygon of area 1 with 4 to 9 facets, some corners truncated."""
    corners = int(rng.integers(4, 10))
    turn = (
        (np.arange(corners) + rng.uniform(-0.15, 0.15, corners)) * 2 * np.pi / corners
    )
    stretch = rng.uniform(1.0, 1.5)
    y, x = np.sin(turn), np.cos(turn) * stretch  # on an ellipse: convex for certain
    angle = rng.uniform(0, 2 * np.pi)
    turned = np.stack(
        [
            y * math.cos(angle) + x * math.sin(angle),
            x * math.cos(angle) - y * math.sin(angle),
        ],
        axis=1,
    )
    return _unit_area(_truncate_corners(turned, rng.uniform(0.0, 0.25)))


def irregular_outline(rng: np.random.Generator) -> FloatArray:
    """Return a smooth lobed outline of area 1."""
    turn = np.linspace(0.0, 2 * np.pi, SMOOTH_VERTICES, endpoint=False)
    radius = np.ones_like(turn)
    for order in range(2, 7):
        strength = rng.normal(0, 0.13) / (order - 1) ** 0.8
        radius += strength * np.cos(order * turn + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.55, 1.6)
    return _unit_area(np.stack([radius * np.sin(turn), radius * np.cos(turn)], axis=1))


def relaxed(outline: FloatArray, step: float) -> FloatArray:
    """Return `outline` rounded by a share `step` of the way, as surface diffusion does."""
    radius = np.sqrt((outline**2).sum(axis=1, keepdims=True))
    return _unit_area(outline * radius**-step)


def _truncate_corners(vertices: FloatArray, share: float) -> FloatArray:
    before, after = np.roll(vertices, 1, axis=0), np.roll(vertices, -1, axis=0)
    cut = np.stack(
        [vertices + share * (before - vertices), vertices + share * (after - vertices)],
        axis=1,
    )
    return cut.reshape(-1, 2)


def _unit_area(vertices: FloatArray) -> FloatArray:
    """Centre, scale to area 1 and order by angle, because `signed_distance` bisects."""
    vertices = vertices - _centroid(vertices)
    by_angle = np.argsort(np.arctan2(vertices[:, 0], vertices[:, 1]), kind="stable")
    return vertices[by_angle] / math.sqrt(polygon_area(vertices[by_angle]))


def _centroid(vertices: FloatArray) -> FloatArray:
    following = np.roll(vertices, -1, axis=0)
    cross = vertices[:, 0] * following[:, 1] - vertices[:, 1] * following[:, 0]
    return ((vertices + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())


def signed_distance(
    body: Body, y: FloatArray, x: FloatArray
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure how deep the points (y, x) of the frame lie in `body`.

    Parameters
    ----------
    body : Body
    y, x : float64 arrays that broadcast together
        Points in px of the frame; a pixel's centre has whole numbers.

    Returns
    -------
    distance_px : float32 array
        To the line of the facing edge: positive inside, 0 on the outline.
    reach : float32 array
        0 at the centre, 1 on the outline, greater outside.
    """
    vertices = body.vertices
    to_y, to_x = y - body.centre_y_px, x - body.centre_x_px
    angles = np.arctan2(vertices[:, 0], vertices[:, 1])
    wedge = np.searchsorted(angles, np.arctan2(to_y, to_x), side="right") - 1
    edge = np.roll(vertices, -1, axis=0) - vertices
    normal = np.stack([-edge[:, 1], edge[:, 0]], axis=1)
    normal /= np.sqrt((normal**2).sum(axis=1, keepdims=True))
    height = (normal * vertices).sum(axis=1)
    normal *= np.sign(height)[:, None]
    height = np.abs(height)
    outward = normal[wedge, 0] * to_y + normal[wedge, 1] * to_x
    edge_height = height[wedge]
    distance_px = (edge_height - outward).astype(np.float32)
    return distance_px, (outward / edge_height).astype(np.float32)


def window(
    body: Body, shape: tuple[int, int], margin_px: int = 1
) -> tuple[slice, slice]:
    """Return the part of a frame of `shape` that `body` can touch; it may be empty."""
    reach = body.reach_px + margin_px

    def span(centre: float, length: int) -> slice:
        first = min(max(math.floor(centre - reach), 0), length)
        return slice(first, max(min(math.ceil(centre + reach) + 1, length), first))

    return span(body.centre_y_px, shape[0]), span(body.centre_x_px, shape[1])


@dataclass(frozen=True, slots=True)
class Sight:
    """How much of a particle a frame shows."""

    area_px: float
    """Exact for a whole particle; sampled, to about 0.1 %, for one partly seen."""
    is_cut: bool
    """The frame's border cuts it."""
    is_covered: bool
    """Another particle hides a part."""


def sight(body: Body, above: list[Body], shape: tuple[int, int]) -> Sight:
    """Measure how much of `body` a frame of `shape` shows.

    Parameters
    ----------
    body : Body
    above : list of Body
        Those drawn after it, which hide it where they overlap.
    shape : (int, int)
        Of the frame; its pixels cover -0.5 to H - 0.5 and -0.5 to W - 0.5.
    """
    centre = np.array([body.centre_y_px, body.centre_x_px])
    low_y, low_x = body.vertices.min(axis=0) + centre
    high_y, high_x = body.vertices.max(axis=0) + centre
    is_cut = bool(
        min(low_y, low_x) < -0.5 or high_y > shape[0] - 0.5 or high_x > shape[1] - 0.5
    )
    near = [other for other in above if _may_overlap(body, other)]
    full_px = math.pi * body.diameter_px**2 / 4
    if not near and not is_cut:
        return Sight(full_px, is_cut=False, is_covered=False)
    steps = (np.arange(AREA_SAMPLES) + 0.5) / AREA_SAMPLES
    y = (low_y + (high_y - low_y) * steps)[:, None]
    x = (low_x + (high_x - low_x) * steps)[None, :]
    own = signed_distance(body, y, x)[0] > 0
    bare = own.copy()
    for other in near:
        bare &= signed_distance(other, y, x)[0] <= 0
    seen = bare & (y > -0.5) & (y < shape[0] - 0.5) & (x > -0.5) & (x < shape[1] - 0.5)
    # The ratio, not the count: the sampling error of the outline cancels.
    area_px = full_px * int(seen.sum()) / max(int(own.sum()), 1)
    return Sight(area_px, is_cut, is_covered=bool((bare != own).any()))


def _may_overlap(first: Body, second: Body) -> bool:
    apart = math.hypot(
        first.centre_y_px - second.centre_y_px, first.centre_x_px - second.centre_x_px
    )
    return apart < first.reach_px + second.reach_px
