"""What a model does not believe itself is no particle; all else stays as it was."""

import numpy as np
import pytest

from emcopilot.belief import LEAST_CHANCE, believed
from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.labels import label_particles

FITTED = ParticleConfidence(constant=-2.0, per_lead=2.0)
"""A lead of 1, a mean probability of 0.73, is an even chance."""
Y, X = np.mgrid[:80, :160]


def two_discs(clear: int, faint: int) -> np.ndarray:
    shown = np.full(Y.shape, 20, np.uint8)
    shown[np.hypot(Y - 40, X - 40) <= 15] = clear
    shown[np.hypot(Y - 40, X - 120) <= 15] = faint
    return shown


def test_a_particle_that_the_model_hardly_believes_in_is_gone_whole() -> None:
    shown = two_discs(clear=250, faint=132)
    left = believed(shown, FITTED)
    assert label_particles(shown).max() == 2
    assert label_particles(left).max() == 1
    assert left[40, 120] == 127
    assert np.array_equal(left[:, :80], shown[:, :80])


def test_a_doubtful_particle_stays() -> None:
    shown = two_discs(clear=250, faint=170)
    chance = FITTED(np.array([170 / 255]), np.array([30.0]))[0]
    assert LEAST_CHANCE < chance < 0.5
    assert believed(shown, FITTED) is shown


def test_without_a_fitted_map_nothing_is_dropped() -> None:
    shown = two_discs(clear=250, faint=128)
    assert believed(shown, IDENTITY) is shown


@pytest.mark.parametrize("level", [0, 127])
def test_an_empty_field_stays_empty(level: int) -> None:
    shown = np.full((64, 64), level, np.uint8)
    assert np.array_equal(believed(shown, FITTED), shown)


def test_what_was_given_is_not_changed() -> None:
    shown = two_discs(clear=250, faint=132)
    before = shown.copy()
    believed(shown, FITTED)
    assert np.array_equal(shown, before)
