"""Distances between frames and domains, and what is a flaw."""

import math

import numpy as np
import pytest

from emcopilot.domain import (
    USUAL_SCALE,
    Reading,
    domain_scale,
    flaw_of,
    left_out_distances,
    nearest,
    stacked,
)
from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, STATISTICS, FrameLook

SURE = Reading(20, 0.1, 30.0, 0.2)
UNSURE = Reading(3, 4.0, 5.0, 0.001)


def look(first: float = 0.0, **statistics: float) -> FrameLook:
    vector = np.zeros(LOOK_WIDTH, np.float32)
    vector[0] = first
    for name, value in {"structure": 1.5, **statistics}.items():
        vector[NETWORK_WIDTH + STATISTICS.index(name)] = value
    return FrameLook(vector)


def test_the_nearest_three_count_and_not_the_far_ones() -> None:
    others = stacked([look(x) for x in (1, 2, 3, 100, 1000)])
    assert nearest(look(0), others) == pytest.approx(2.0)


def test_nothing_is_infinitely_far_from_no_frames() -> None:
    assert nearest(look(), stacked([])) == math.inf


def test_views_of_one_frame_are_no_others_to_each_other() -> None:
    looks = stacked([look(x) for x in (0, 0, 10, 10, 20, 20)])
    apart = left_out_distances(looks, np.array([0, 0, 1, 1, 2, 2]))
    assert apart.min() >= 10


def test_a_few_frames_leave_the_scale_as_it_usually_is() -> None:
    assert domain_scale(stacked([look(), look(1)])) == USUAL_SCALE


def test_an_even_film_draws_the_scale_in_but_not_to_nothing() -> None:
    even = stacked([look(0.001 * n) for n in range(200)])
    assert 0.5 * USUAL_SCALE < domain_scale(even) < 0.7 * USUAL_SCALE


def test_a_wide_domain_draws_the_scale_out_within_bounds() -> None:
    wide = stacked([look(50.0 * n) for n in range(200)])
    assert USUAL_SCALE < domain_scale(wide) <= 1.5 * USUAL_SCALE


def test_slopes_half_as_steep_as_usual_are_out_of_focus() -> None:
    domain = stacked([look(sharpness=-0.9)] * 5)
    assert flaw_of(look(sharpness=-0.9 - 0.35), SURE, domain) == "defocused"
    assert flaw_of(look(sharpness=-0.9 - 0.25), SURE, domain) is None


def test_sharpness_is_compared_with_a_few_frames_at_least() -> None:
    domain = stacked([look(sharpness=-0.9)] * 3)
    assert flaw_of(look(sharpness=-3), SURE, domain) is None


def test_noise_without_sure_particles_is_blank() -> None:
    assert flaw_of(look(structure=0.05), UNSURE, stacked([])) == "blank"
    assert flaw_of(look(structure=0.05), SURE, stacked([])) is None
