"""What changed, in words."""

import numpy as np
import pytest

from emcopilot.domain import Reading, stacked
from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, STATISTICS, FrameLook
from emcopilot.look_words import Ensemble, usual_look, what_changed

USUAL = {"polarity": 0.4, "noise": -0.5, "sharpness": -0.9, "structure": 1.4}
USUAL |= {"slope": -2.4, "grain_px": 4.0}


def ensemble(diameter_px: float | None = 30.0, **statistics: float) -> Ensemble:
    vector = np.zeros(LOOK_WIDTH, np.float32)
    for name, value in (USUAL | statistics).items():
        vector[NETWORK_WIDTH + STATISTICS.index(name)] = value
    reading = Reading(20 if diameter_px else 0, 0.1, diameter_px, 0.2)
    return Ensemble(stacked([FrameLook(vector)] * 4), [reading] * 4)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (ensemble(polarity=-0.4), "contrast inverted"),
        (ensemble(diameter_px=7.5), "particles 4x smaller"),
        (ensemble(diameter_px=90), "particles 3x larger"),
        (ensemble(diameter_px=None, grain_px=3.0), "structures 2x finer"),
        (ensemble(noise=-0.2), "twice the noise"),
        (ensemble(noise=0.2), "5x the noise"),
        (ensemble(noise=-0.8), "half the noise"),
        (ensemble(sharpness=-1.3), "softer outlines"),
        (ensemble(slope=-1.2), "new texture"),
        (ensemble(polarity=-0.4, noise=-0.2), "contrast inverted, twice the noise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_changed_is_named(now, words) -> None:
    assert what_changed(ensemble(), now) == words


def test_what_has_no_name_is_a_new_texture() -> None:
    assert what_changed(ensemble(), ensemble()) == "new texture"


def test_a_weak_contrast_of_either_sign_is_not_inverted() -> None:
    weak, other = ensemble(polarity=0.03), ensemble(polarity=-0.03)
    assert "inverted" not in what_changed(weak, other)


def test_a_look_is_told_in_words() -> None:
    assert usual_look(ensemble().looks) == "bright on dark, structures of 16 px"
    assert usual_look(ensemble(polarity=-0.4).looks).startswith("dark on bright")
