"""The verdict on a candidate: what a mask is worth without truth, and what is decided by it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from models.verdict import Looked, Worth, verdict, weigh, worth_of

Y, X = np.mgrid[:96, :96]
DISC = np.hypot(Y - 48, X - 48) <= 20
GOOD = Worth(worth=1.0, step=1.0, solidity=1.0, stability=1.0, covered=0.1)
POOR = Worth(worth=0.5, step=0.6, solidity=0.9, stability=0.9, covered=0.1)
NOTHING = Worth(worth=0.0, step=0.0, solidity=0.0, stability=1.0, covered=0.0)


def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        (3 * DISC + rng.normal(0, 0.3, DISC.shape)).astype(np.float32) for _ in range(3)
    ]


def test_outlines_on_edges_are_worth_more_than_outlines_beside_them() -> None:
    right = worth_of(lambda frame: frame > 1.5, frames())
    wide = worth_of(lambda frame: np.hypot(Y - 48, X - 48) <= 34, frames())
    noise = worth_of(lambda frame: frame > 0.2, frames())
    assert right.worth > 2 * wide.worth
    assert right.stability > 0.95 > noise.stability
    assert abs(right.step - 3) < 0.2


def test_where_a_soft_edge_ends_is_no_matter_of_worth() -> None:
    soft = [ndimage.gaussian_filter(frame, 1.5) for frame in frames()]
    inner, middle, outer, beside = (
        worth_of(lambda _, at=at: np.hypot(Y - 48, X - 48) <= at, soft).worth
        for at in (19, 20, 21, 25)
    )
    # The stability of a mask that does not move is 1, so these differ by their steps alone.
    assert abs(inner / middle - 1) < 0.02
    assert abs(outer / middle - 1) < 0.02
    assert beside < 0.8 * middle


def test_specks_of_noise_gain_nothing_by_moved_outlines() -> None:
    noise = [
        np.random.default_rng(n).standard_normal(DISC.shape, np.float32)
        for n in range(3)
    ]
    assert worth_of(lambda frame: frame > 2, noise).worth == 0
    specks = (Y % 16 < 4) & (X % 16 < 4)
    spoilt = worth_of(lambda _: DISC | specks, frames())
    assert spoilt.worth < 0.5 * worth_of(lambda _: DISC, frames()).worth


def test_nothing_found_is_worth_nothing() -> None:
    found = worth_of(lambda frame: np.zeros(frame.shape, bool), frames())
    assert (found.worth, found.covered, found.stability) == (0, 0, 1)


def test_a_better_candidate_is_promoted_and_a_worse_one_is_not() -> None:
    fine = {"fidelity": 0.97, "synthetic_gain": 0.1}
    assert verdict(GOOD, POOR, POOR, **fine).word == "promote"
    assert verdict(POOR, GOOD, POOR, **fine).word == "reject"
    assert verdict(POOR, POOR, GOOD, **fine).word == "reject"
    assert verdict(GOOD, GOOD, POOR, **fine).word == "doubtful"
    assert verdict(GOOD, POOR, GOOD, **fine).word == "promote"
    assert verdict(GOOD, NOTHING, GOOD, **fine).word == "promote"
    assert verdict(GOOD, NOTHING, NOTHING, **fine).word == "doubtful"
    assert verdict(NOTHING, NOTHING, NOTHING, **fine).word == "reject"


def test_a_cut_drawn_where_brightness_tells_is_given_a_start() -> None:
    """On real micrographs exact masks are worth less than the cut's own."""
    fine = {"fidelity": 0.97, "synthetic_gain": 0.1}
    words = [
        verdict(replace(GOOD, worth=share), POOR, GOOD, **fine).word
        for share in (0.96, 0.9, 0.8)
    ]
    assert words == ["promote", "doubtful", "reject"]


def test_the_incumbent_is_given_none() -> None:
    """Its outlines lie where a network puts them, like the candidate's."""
    fine = {"fidelity": 0.97, "synthetic_gain": 0.1}
    assert verdict(replace(GOOD, worth=0.9), GOOD, POOR, **fine).word == "reject"


def test_all_frames_are_weighed_by_the_outlines_that_serve_most() -> None:
    weighed = weigh(
        [Looked(2.0, 1.0, 3.0, 0.5, 0.8, 0.1), Looked(2.0, 5.0, 1.0, 1.0, 0.5, 0.3)]
    )
    assert weighed.step == 3.0  # drawn in: (1 + 5) / 2
    assert weighed.worth == pytest.approx((1 * 0.5 * 0.8 + 5 * 1.0 * 0.5) / 2)
    assert (weighed.solidity, weighed.stability) == pytest.approx((0.75, 0.65))
    assert weighed.covered == pytest.approx(0.2)


def test_figures_that_are_no_numbers_are_no_promotion() -> None:
    for figures in ((np.nan, 0.1), (0.97, np.nan)):
        fidelity, gain = figures
        found = verdict(GOOD, POOR, POOR, fidelity=fidelity, synthetic_gain=gain)
        assert found.word == "reject"
    lost = replace(GOOD, worth=np.nan)
    for worths in ((lost, POOR, POOR), (GOOD, lost, POOR), (GOOD, POOR, lost)):
        assert verdict(*worths, fidelity=0.97, synthetic_gain=0.1).word == "reject"


def test_untrue_masks_or_missed_particles_are_no_promotion() -> None:
    untrue = verdict(GOOD, POOR, POOR, fidelity=0.8, synthetic_gain=0.1)
    missed = verdict(GOOD, POOR, POOR, fidelity=0.97, synthetic_gain=-0.01)
    assert untrue.word == missed.word == "reject"
    assert "0.800" in " ".join(untrue.reasons)


def test_as_good_within_the_spread_of_trainings_is_left_to_the_operator() -> None:
    loss = {"fidelity": 0.97, "synthetic_gain": -0.001}
    assert verdict(GOOD, GOOD, GOOD, **loss).word == "doubtful"
    assert verdict(GOOD, POOR, POOR, **loss).word == "doubtful"
