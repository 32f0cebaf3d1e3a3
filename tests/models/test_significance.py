"""Paired tests of cases that can be counted by hand."""

import math

import numpy as np
import pytest

from models.significance import holm, paired_test


def test_six_gains_of_six_pairs_are_as_sure_as_six_pairs_can_be() -> None:
    # Of 2**6 signs, all plus and all minus.
    worse = np.arange(6.0)
    better = worse + np.arange(0.1, 0.65, 0.1)
    test = paired_test(better, worse)
    assert (test.n, test.differing) == (6, 6)
    assert test.p == pytest.approx(2 / 64)
    assert test.median_difference == pytest.approx(0.35)
    assert test.note == ""
    assert paired_test(worse, better).p == test.p
    assert paired_test(worse, better).median_difference == pytest.approx(-0.35)


def test_one_loss_of_the_smallest_rank_doubles_p() -> None:
    differences = np.array([-1.0, 2, 3, 4, 5, 6, 7])
    # Of 2**7 signs, those with a negative rank sum of 0 or 1, on either side.
    assert paired_test(differences, np.zeros(7)).p == pytest.approx(4 / 128)


def test_ties_share_their_ranks() -> None:
    # Six equal gains: only all-plus and all-minus are as extreme.
    assert paired_test([0.5] * 6, [0.25] * 6).p == pytest.approx(2 / 64)
    assert paired_test([1, 1, 1, -1], [0, 0, 0, 0]).p == pytest.approx(10 / 16)


def test_many_pairs_with_ties_are_tested_without_a_warning() -> None:
    better = np.repeat([1.0, 1.0, 2.0, 3.0, -1.0], 8)
    assert paired_test(better, np.zeros(40)).p < 1e-3
    large = np.random.default_rng(0).normal(0.4, 1, 172)
    assert paired_test(large, np.zeros(172)).p < 1e-3


def test_models_that_agree_are_not_different() -> None:
    test = paired_test([0.5, 0.7, 0.9], [0.5, 0.7, 0.9])
    assert (test.p, test.median_difference, test.differing) == (1, 0, 0)
    assert test.note == "no difference on any image"
    # Rounding of the last digit is no difference either.
    assert paired_test([0.1 + 0.2] * 8, [0.3] * 8).p == 1


def test_too_few_pairs_are_said_to_be_too_few() -> None:
    test = paired_test([1.0, 2, 3, 4, 5], [0.0] * 5)
    assert test.p == pytest.approx(2 / 32)
    assert "fewer than 6 cannot reach p < 0.05" in test.note
    # Equal pairs do not help: five of these eight speak.
    assert "5 pairs that differ" in paired_test([1, 2, 3, 4, 5, 0, 0, 0], [0] * 8).note


def test_pairs_without_a_figure_are_left_out() -> None:
    nan = math.nan
    test = paired_test([1.0, nan, 3.0, 4.0], [0.0, 2.0, nan, 2.0])
    assert (test.n, test.median_difference) == (2, 1.5)
    nothing = paired_test([nan], [1.0])
    assert nothing.n == 0
    assert math.isnan(nothing.p)
    assert math.isnan(nothing.median_difference)
    assert "cannot reach" in nothing.note


def test_holm_multiplies_by_the_comparisons_left() -> None:
    # Four comparisons, in any order: 4 x 0.005, 3 x 0.01, 2 x 0.03, and not below that: 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04]) == [0.04]
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_holm_counts_only_comparisons_that_were_made() -> None:
    first, second, third = holm([0.02, math.nan, 0.03])
    assert (first, third) == pytest.approx((0.04, 0.04))
    assert math.isnan(second)
