"""Chances of particles and frames, against values worked out by hand."""

import math

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from emcopilot.confidence import (
    ParticleConfidence,
    doubtful_share,
    frame_confidence,
    is_doubtful,
)


def test_the_identity_says_the_mean_probability() -> None:
    mean = np.array([0.5, 0.8, 0.95])
    np.testing.assert_allclose(ParticleConfidence()(mean, np.full(3, 9.0)), mean)


def test_eight_bits_of_certainty_leave_a_doubt() -> None:
    (chance,) = ParticleConfidence()(np.array([1.0]), np.array([20.0]))
    assert chance == pytest.approx(255 / 256)


def test_a_map_can_doubt_specks_and_stays_within_bounds() -> None:
    doubting = ParticleConfidence(constant=-6.0, per_lead=1.0, per_log_diameter=2.0)
    speck, disc = doubting(np.array([0.9, 0.9]), np.array([4.0, 40.0]))
    assert speck == pytest.approx(1 / (1 + math.exp(6 - math.log(9) - 2 * math.log(4))))
    assert speck < 0.8 < disc
    steep = ParticleConfidence(constant=-900.0)
    assert 0.0 <= steep(np.array([0.6]), np.array([5.0]))[0] < 1e-9


def test_a_speck_among_discs_is_doubted_more_than_one_among_specks() -> None:
    relative = ParticleConfidence(per_log_relative_diameter=2.0)
    among_discs = relative(np.full(3, 0.8), np.array([5.0, 40.0, 40.0]))
    among_specks = relative(np.full(3, 0.8), np.full(3, 5.0))
    np.testing.assert_allclose(among_specks, 0.8)
    assert among_discs[0] == pytest.approx(1 / (1 + 64 / 4))  # odds 4 times (1/8)^2
    np.testing.assert_allclose(among_discs[1:], 0.8)


def test_unknown_stays_unknown_and_nothing_stays_nothing() -> None:
    assert np.isnan(ParticleConfidence()(np.array([np.nan]), np.array([5.0]))).all()
    assert ParticleConfidence()(np.empty(0), np.empty(0)).shape == (0,)


@pytest.mark.parametrize(
    "broken",
    [{"konstant": -2.0}, {"constant": float("nan")}, {"per_lead": "high"}],
)
def test_a_broken_map_from_outside_does_not_pass_for_the_identity(
    broken: dict[str, object],
) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ParticleConfidence).validate_python(broken)


def test_doubt_begins_below_an_even_chance_and_needs_to_be_known() -> None:
    chance = np.array([0.0, np.nextafter(0.5, 0), 0.5, 1.0, np.nan])
    assert is_doubtful(chance).tolist() == [True, True, False, False, False]
    assert is_doubtful(np.empty(0)).shape == (0,)


def test_a_frame_is_as_sure_as_its_particles_by_area() -> None:
    assert frame_confidence(
        np.array([0.9, 0.5]), np.array([300, 100])
    ) == pytest.approx(0.8)
    assert math.isnan(frame_confidence(np.empty(0), np.empty(0)))


def test_doubt_is_the_rim_against_the_particles() -> None:
    probability = np.zeros((50, 50), np.uint8)
    probability[10:30, 10:30] = 250
    assert doubtful_share(probability) == 0.0
    probability[10:30, 30:32] = 100
    assert doubtful_share(probability) == pytest.approx(40 / 400)
    assert doubtful_share(np.full((50, 50), 100, np.uint8)) == 100.0
