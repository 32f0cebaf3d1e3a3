import math

import numpy as np
import pytest

from emcopilot.specimen import (
    Body,
    ellipse_outline,
    faceted_outline,
    irregular_outline,
    polygon_area,
    relaxed,
    sight,
    signed_distance,
    window,
)

SHAPE = (120, 140)


def disc(y: float, x: float, diameter_px: float, particle: int = 1) -> Body:
    return Body(particle, y, x, ellipse_outline(1.0, 0.0), diameter_px)


def inside(body: Body, step_px: float) -> float:
    """Area by counting points, independent of the shoelace formula."""
    y = np.arange(0, SHAPE[0], step_px)[:, None]
    x = np.arange(0, SHAPE[1], step_px)[None, :]
    return float((signed_distance(body, y, x)[0] > 0).sum()) * step_px**2


@pytest.mark.parametrize("seed", range(8))
def test_every_outline_has_area_one_and_its_centroid_at_the_origin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for outline in (
        faceted_outline(rng),
        irregular_outline(rng),
        ellipse_outline(2.3, rng.uniform(0, 3)),
    ):
        assert polygon_area(outline) == pytest.approx(1.0)
        fine = Body(1, 60, 70, outline, 60)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
        own = signed_distance(fine, y, x)[0] > 0
        # A pixel count of 2,800 px knows a centroid to a few hundredths of a pixel.
        assert y[own].mean() == pytest.approx(60, abs=0.1)
        assert x[own].mean() == pytest.approx(70, abs=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_points_within_the_outline_fill_its_area(seed: int) -> None:
    rng = np.random.default_rng(seed)
    body = Body(1, 60.3, 70.8, irregular_outline(rng), 50)
    # Quarter-pixel points on a boundary of 160 px leave an error well below 0.3 %.
    assert inside(body, 0.25) == pytest.approx(math.pi * 25**2, rel=3e-3)


def test_distance_is_that_to_the_edge() -> None:
    body = disc(60, 70, 40)
    y, x = np.array([[60.0]]), np.array([[70.0, 85.0, 90.0, 95.0]])
    distance_px, reach = signed_distance(body, y, x)
    # A polygon of 72 edges lies within 0.02 px of this circle.
    assert distance_px[0] == pytest.approx([20, 5, 0, -5], abs=0.03)
    assert reach[0] == pytest.approx([0, 0.75, 1, 1.25], abs=2e-3)


def test_a_window_holds_the_particle_and_is_empty_outside_the_frame() -> None:
    rows, columns = window(disc(60, 70, 20), SHAPE)
    assert rows.start <= 49
    assert rows.stop > 71
    assert columns.start <= 59
    assert columns.stop > 81
    assert columns.stop - columns.start < 28
    away = window(disc(-50, 70, 20), SHAPE)
    assert away[0].start == away[0].stop == 0


def test_a_whole_particle_is_seen_exactly() -> None:
    seen = sight(disc(60, 70, 21.7), [disc(20, 20, 10)], SHAPE)
    assert seen.area_px == math.pi * 21.7**2 / 4
    assert not seen.is_cut
    assert not seen.is_covered


def test_the_border_takes_its_half() -> None:
    seen = sight(disc(-0.5, 70, 30), [], SHAPE)
    assert seen.is_cut
    assert not seen.is_covered
    assert seen.area_px == pytest.approx(math.pi * 15**2 / 2, rel=5e-3)


def test_a_particle_above_hides_the_lens_they_share() -> None:
    radius, apart = 20.0, 24.0
    # Area of the lens of two equal circles (elementary geometry).
    half = math.acos(apart / 2 / radius)
    lens = 2 * radius**2 * (half - math.sin(half) * math.cos(half))
    seen = sight(disc(60, 60, 2 * radius), [disc(60, 60 + apart, 2 * radius)], SHAPE)
    assert seen.is_covered
    assert seen.area_px == pytest.approx(math.pi * radius**2 - lens, rel=3e-3)


def test_relaxing_rounds_and_keeps_the_area() -> None:
    outline = ellipse_outline(1.8, 0.4)
    radius = np.sqrt((outline**2).sum(axis=1))
    rounder = relaxed(outline, 0.2)
    after = np.sqrt((rounder**2).sum(axis=1))
    assert after.max() / after.min() < radius.max() / radius.min()
    assert polygon_area(rounder) == pytest.approx(1.0)


def test_moving_keeps_everything_else() -> None:
    body = disc(10, 20, 8, particle=5)
    moved = body.moved(1.5, -2)
    assert (moved.centre_y_px, moved.centre_x_px) == (11.5, 18)
    assert (moved.particle, moved.diameter_px) == (5, 8)
    assert moved.reach_px == body.reach_px
