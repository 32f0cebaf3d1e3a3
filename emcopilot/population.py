"""Which particles a specimen holds: their sizes, shapes and neighbours."""

import math
from dataclasses import dataclass, replace

import numpy as np

from emcopilot.specimen import (
    Body,
    FloatArray,
    ellipse_outline,
    faceted_outline,
    irregular_outline,
)
from emcopilot.support import power_law_noise

_VACANCIES = 0.03
"""Share of a layer's places that are empty."""


@dataclass(frozen=True, slots=True)
class Population:
    """The statistics that a specimen's particles follow."""

    count: int
    """Particles asked for; a crowded field may hold fewer."""
    median_diameter_px: float
    spread: float = 0.25
    """Standard deviation of ln(diameter)."""
    smallest_px: float = 4.0
    largest_px: float = 220.0
    shapes: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of ellipses, facets and irregular outlines."""
    largest_aspect_ratio: float = 1.6
    touching: float = 0.1
    """Share placed in contact with another."""
    overlapping: float = 0.05
    """Share placed partly over another."""
    clustering: float = 0.0
    """0 spreads them evenly over the frame, 1 gathers all in a few clusters."""
    contrast_spread: float = 0.2
    """Standard deviation of ln(contrast) from particle to particle."""
    layer_gap_px: float | None = None
    """Where given, particles lie side by side in a layer with holes, as nanocrystals that a drop
    left behind: so far apart on average, some touching. The layer, not `count`, says how many."""


def populate(
    population: Population, shape: tuple[int, int], rng: np.random.Generator
) -> list[Body]:
    """Lay a population out on a frame of `shape`, bottom-most particle first."""
    if population.layer_gap_px is not None and population.count:
        return _layer(population, population.layer_gap_px, shape, rng)
    clusters = rng.uniform(0, 1, (int(rng.integers(1, 6)), 2)) * shape
    cluster_px = rng.uniform(0.06, 0.2) * min(shape)

    def anywhere() -> FloatArray:
        if rng.random() < population.clustering:
            middle = clusters[int(rng.integers(len(clusters)))]
            return middle + rng.normal(0, cluster_px, 2)
        margin = 0.3 * population.median_diameter_px  # the border cuts some
        return rng.uniform(-margin, np.asarray(shape) + margin)

    bodies: list[Body] = []
    for number in range(1, population.count + 1):
        body = draw_body(population, number, rng)
        kind = rng.random()
        for _ in range(25):
            partner = None
            if bodies and kind < population.touching + population.overlapping:
                partner = bodies[int(rng.integers(len(bodies)))]
                close = 1.0 if kind < population.touching else rng.uniform(0.55, 0.92)
                body = _beside(body, partner, close, rng)
            else:
                y, x = anywhere()
                body = replace(body, centre_y_px=float(y), centre_x_px=float(x))
            if is_free(body, partner, bodies):
                bodies.append(body)
                break
    return bodies


def _layer(
    population: Population,
    gap_px: float,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> list[Body]:
    """Lay particles on a shaken hexagonal grid, but for some holes."""
    largest_px = min(
        population.median_diameter_px * math.exp(2 * population.spread),
        population.largest_px,
    )
    close = replace(population, largest_px=largest_px, largest_aspect_ratio=1.15)
    pitch_px = population.median_diameter_px * math.exp(population.spread) + gap_px
    holes = power_law_noise(shape, 3.0, rng, 16)
    rim = np.quantile(holes, rng.uniform(0, 0.6))
    bodies: list[Body] = []
    for y, x in _hexagonal(pitch_px, shape, rng):
        row, column = (
            min(max(round(place), 0), side - 1)
            for place, side in zip((y, x), shape, strict=True)
        )
        if holes[row, column] < rim or rng.random() < _VACANCIES:
            continue
        body = draw_body(close, len(bodies) + 1, rng)
        bodies.append(replace(body, centre_y_px=float(y), centre_x_px=float(x)))
    return bodies


def _hexagonal(
    pitch_px: float, shape: tuple[int, int], rng: np.random.Generator
) -> FloatArray:
    """Return the (y, x) of a turned and shaken hexagonal grid over a frame, shape (N, 2)."""
    reach = math.ceil(math.hypot(*shape) / pitch_px)
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    grid = np.stack([row * math.sqrt(3) / 2, column + row / 2], axis=-1).reshape(-1, 2)
    angle = rng.uniform(0, math.pi / 3)
    turn = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    shaken = grid + rng.normal(0, rng.uniform(0.02, 0.12), grid.shape)
    places = shaken @ turn * pitch_px + np.asarray(shape) / 2
    is_near = (places > -pitch_px / 2) & (places < np.asarray(shape) + pitch_px / 2)
    return places[is_near.all(axis=1)]


def random_layer(median_diameter_px: float, rng: np.random.Generator) -> Population:
    """Draw the statistics of particles of one size that lie close together."""
    return Population(
        count=1,  # 0 would empty the field; the layer itself says how many
        median_diameter_px=median_diameter_px,
        spread=rng.uniform(0.03, 0.15),
        smallest_px=3.0,
        shapes=(0.8, 0.2, 0.0),
        contrast_spread=rng.uniform(0.02, 0.3),
        layer_gap_px=rng.uniform(0.5, 2.0 + 0.3 * median_diameter_px),
    )


def random_population(
    median_diameter_px: float, shape: tuple[int, int], rng: np.random.Generator
) -> Population:
    """Draw the statistics of a specimen; one in thirty holds no particle."""
    spread = rng.uniform(0.03, 0.5)
    covered = 0.01 * 45 ** rng.random()  # 1 to 45 % of the frame
    mean_area = math.pi / 4 * median_diameter_px**2 * math.exp(2 * spread**2)
    count = int(np.clip(covered * shape[0] * shape[1] / mean_area, 1, 400))
    ellipses, facets, irregular = rng.dirichlet((1.2, 0.6, 0.6)).tolist()
    return Population(
        count=0 if rng.random() < 1 / 30 else count,
        median_diameter_px=median_diameter_px,
        spread=spread,
        shapes=(ellipses, facets, irregular),
        largest_aspect_ratio=rng.uniform(1.05, 3.0),
        touching=float(rng.choice([0.0, rng.uniform(0, 0.5)])),
        overlapping=float(rng.choice([0.0, rng.uniform(0, 0.25)])),
        clustering=float(rng.choice([0.0, rng.uniform(0, 1)])),
        contrast_spread=rng.uniform(0.02, 0.4),
    )


def draw_outline(population: Population, rng: np.random.Generator) -> FloatArray:
    """Draw one outline of area 1 by the population's shares of shapes."""
    kind = rng.choice(3, p=np.asarray(population.shapes) / sum(population.shapes))
    if kind == 0:
        aspect_ratio = 1 + (population.largest_aspect_ratio - 1) * rng.beta(1.2, 2.5)
        return ellipse_outline(float(aspect_ratio), rng.uniform(0, math.pi))
    return faceted_outline(rng) if kind == 1 else irregular_outline(rng)


def draw_body(population: Population, number: int, rng: np.random.Generator) -> Body:
    """Draw one particle at the origin."""
    diameter_px = population.median_diameter_px * math.exp(
        rng.normal(0, population.spread)
    )
    return Body(
        particle=number,
        centre_y_px=0.0,
        centre_x_px=0.0,
        outline=draw_outline(population, rng),
        diameter_px=float(
            np.clip(diameter_px, population.smallest_px, population.largest_px)
        ),
        # Never much fainter than the population: an invisible one would still be labelled.
        contrast=max(math.exp(rng.normal(0, population.contrast_spread)), 0.6),
    )


def _beside(body: Body, partner: Body, close: float, rng: np.random.Generator) -> Body:
    """Move `body` to `close` times the distance at which the two outlines touch."""
    angle = rng.uniform(0, 2 * math.pi)
    toward = np.array([math.sin(angle), math.cos(angle)])
    apart = (partner.vertices @ toward).max() + (body.vertices @ -toward).max()
    y, x = toward * apart * close
    return replace(
        body,
        centre_y_px=partner.centre_y_px + float(y),
        centre_x_px=partner.centre_x_px + float(x),
    )


def is_free(body: Body, partner: Body | None, others: list[Body]) -> bool:
    """Tell whether `body` keeps 2 px away from all of `others` but its partner."""
    gap_px = 2.0
    return not any(
        other is not partner
        and math.hypot(
            other.centre_y_px - body.centre_y_px, other.centre_x_px - body.centre_x_px
        )
        < other.reach_px + body.reach_px + gap_px
        for other in others
    )
