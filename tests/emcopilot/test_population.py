import math
from dataclasses import replace

import numpy as np
import pytest

from emcopilot.population import (
    Population,
    populate,
    random_layer,
    random_population,
)
from emcopilot.specimen import Body

SHAPE = (400, 400)


def gaps_px(bodies: list[Body]) -> list[float]:
    """Distances between circles of equal area, for every pair."""
    return [
        math.hypot(a.centre_y_px - b.centre_y_px, a.centre_x_px - b.centre_x_px)
        - (a.diameter_px + b.diameter_px) / 2
        for i, a in enumerate(bodies)
        for b in bodies[i + 1 :]
    ]


def test_sizes_follow_the_log_normal_asked_for() -> None:
    population = Population(count=400, median_diameter_px=10, spread=0.2, touching=0)
    bodies = populate(population, (2000, 2000), np.random.default_rng(1))
    logs = np.log([body.diameter_px for body in bodies])
    # 400 draws: standard errors 0.01 of the mean and 0.007 of the deviation.
    assert logs.mean() == pytest.approx(math.log(10), abs=0.04)
    assert logs.std() == pytest.approx(0.2, abs=0.03)


def test_separate_particles_keep_apart() -> None:
    population = Population(60, 20, touching=0.0, overlapping=0.0)
    bodies = populate(population, SHAPE, np.random.default_rng(2))
    assert len(bodies) > 30
    assert min(gaps_px(bodies)) > 0


def test_touching_discs_touch() -> None:
    population = Population(
        2, 30, spread=0.1, shapes=(1, 0, 0), largest_aspect_ratio=1, touching=1.0
    )
    first, second = populate(population, SHAPE, np.random.default_rng(3))
    # Outlines of 72 edges stray from the circle by 0.02 px.
    assert gaps_px([first, second]) == pytest.approx([0.0], abs=0.1)


def test_overlapping_discs_overlap() -> None:
    population = Population(2, 30, shapes=(1, 0, 0), touching=0, overlapping=1.0)
    assert max(gaps_px(populate(population, SHAPE, np.random.default_rng(4)))) < 0


def test_a_crowded_field_holds_what_fits() -> None:
    bodies = populate(Population(400, 60), (200, 200), np.random.default_rng(5))
    assert 0 < len(bodies) < 100  # 400 discs of 60 px cover the field 28 times


def test_numbers_are_unique_and_sizes_stay_in_their_limits() -> None:
    rng = np.random.default_rng(6)
    for _ in range(40):
        population = random_population(math.exp(rng.uniform(1.6, 4)), (256, 256), rng)
        bodies = populate(population, (256, 256), rng)
        assert len({body.particle for body in bodies}) == len(bodies)
        assert all(4 <= body.diameter_px <= 220 for body in bodies)


def test_some_populations_are_empty() -> None:
    rng = np.random.default_rng(7)
    empty = [random_population(20, SHAPE, rng).count == 0 for _ in range(600)]
    assert 5 < sum(empty) < 45  # one in thirty of 600 is 20, within 5 deviations


def test_a_layer_is_close_and_keeps_its_gap() -> None:
    layer = Population(
        1, 8, spread=0.02, shapes=(1, 0, 0), contrast_spread=0.1, layer_gap_px=3
    )
    bodies = populate(layer, (150, 150), np.random.default_rng(8))
    gaps = np.array(gaps_px(bodies))
    nearest = len(bodies)  # about three neighbours each, counted once a pair
    assert 60 < len(bodies) < 260  # 213 where nothing is left out
    assert np.percentile(gaps, 100 * nearest / len(gaps)) < 5
    assert gaps.min() > 0
    assert len({body.particle for body in bodies}) == len(bodies)


def test_layers_differ_and_an_emptied_one_is_empty() -> None:
    rng = np.random.default_rng(9)
    layers = [random_layer(8, rng) for _ in range(6)]
    counts = {len(populate(layer, (200, 200), rng)) for layer in layers}
    assert len(counts) == 6
    assert min(counts) > 20
    assert not populate(replace(layers[0], count=0), (200, 200), rng)
