"""Scores of masks that were drawn to have a known answer."""

import math

import numpy as np
import pytest

from models.npssegnet import build
from models.segmentation_metrics import (
    boundary_f1,
    diameter_error_percent,
    instance_score,
    pixel_score,
    predict_probability,
    size_distance_px,
)


def box(shape: tuple[int, int], *corners: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for number, (top, left, bottom, right) in enumerate(corners, start=1):
        labels[top:bottom, left:right] = number
    return labels


def test_pixel_scores_are_those_counted_by_hand() -> None:
    truth = box((10, 10), (0, 0, 4, 5)) > 0  # 20 px
    mask = box((10, 10), (0, 1, 4, 6)) > 0  # 20 px, 16 of them shared
    score = pixel_score(mask, truth)
    assert score.pa == pytest.approx(92 / 100)
    assert score.iou_particle == pytest.approx(16 / 24)
    assert score.miou == pytest.approx((16 / 24 + 76 / 84) / 2)


def test_an_empty_field_left_empty_is_right() -> None:
    nothing = np.zeros((6, 6), bool)
    assert pixel_score(nothing, nothing).miou == 1
    assert boundary_f1(nothing, nothing) == 1
    score = instance_score(nothing.astype(np.int32), nothing.astype(np.int32))
    assert score.precision == score.recall == score.f1 == score.panoptic_quality == 1


def test_an_invented_particle_is_wrong_everywhere() -> None:
    nothing, one = np.zeros((9, 9), np.int32), box((9, 9), (2, 2, 6, 6))
    assert pixel_score(one > 0, nothing > 0).iou_particle == 0
    assert boundary_f1(one > 0, nothing > 0) == 0
    for score in (instance_score(one, nothing), instance_score(nothing, one)):
        assert (
            score.precision == score.recall == score.f1 == score.panoptic_quality == 0
        )


def test_an_edge_within_the_tolerance_counts_as_found() -> None:
    truth, near = (
        box((40, 40), (10, 10, 30, 30)) > 0,
        box((40, 40), (12, 12, 28, 28)) > 0,
    )
    far = box((40, 40), (16, 16, 24, 24)) > 0
    assert boundary_f1(near, truth, tolerance_px=3) == 1
    assert boundary_f1(far, truth, tolerance_px=3) == 0


def test_instance_scores_are_those_counted_by_hand() -> None:
    truth = box((20, 40), (0, 0, 10, 10), (0, 20, 10, 30), (12, 0, 18, 6))
    found = box(
        (20, 40), (0, 0, 10, 9), (0, 20, 10, 30), (12, 30, 18, 36), (1, 32, 4, 35)
    )
    score = instance_score(found, truth)
    assert sorted(score.matched_iou) == [pytest.approx(0.9), 1.0]
    assert (score.found, score.true) == (4, 3)
    assert score.precision == pytest.approx(2 / 4)
    assert score.recall == pytest.approx(2 / 3)
    assert score.f1 == pytest.approx(2 * 2 / 7)
    # Segmentation quality 1.9 / 2 times recognition quality 2 / (2 + 2/2 + 1/2).
    assert score.panoptic_quality == pytest.approx(1.9 / 2 * 2 / 3.5)


def test_half_an_overlap_is_no_match() -> None:
    ours = box((10, 20), (0, 0, 10, 10), (0, 10, 10, 20))
    assert instance_score(ours, box((10, 20), (0, 0, 10, 5))).f1 == 0
    assert instance_score(ours, box((10, 20), (0, 0, 10, 6))).f1 == pytest.approx(2 / 3)


def test_a_particle_cut_in_two_is_found_at_most_once() -> None:
    truth = box((10, 10), (0, 0, 10, 10))
    halves = box((10, 10), (0, 0, 10, 6), (0, 6, 10, 10))
    score = instance_score(halves, truth)
    assert (score.precision, score.recall) == (1 / 2, 1)
    assert score.panoptic_quality == pytest.approx(0.6 / 1.5)


def test_numbers_need_not_agree_nor_be_without_gaps() -> None:
    truth = box((20, 40), (0, 0, 10, 10), (0, 20, 10, 30))
    renumbered = np.array([0, 9, 4], np.int32)[truth]
    assert instance_score(renumbered, truth).panoptic_quality == 1


def test_ten_thousand_particles_are_matched_without_a_table_of_all_pairs() -> None:
    # Numbers whose products do not fit 32 bits.
    numbers = 9 * np.arange(1, 10_001, dtype=np.int32).reshape(100, 100)
    labels = np.kron(numbers, np.pad(np.ones((4, 4), np.int32), ((0, 1), (0, 1))))
    score = instance_score(labels, labels)
    assert (score.found, score.f1) == (10_000, 1)


def test_the_distance_of_sizes_sees_the_spread() -> None:
    same_mean = np.array([8.0, 12.0]), np.array([10.0, 10.0])
    assert diameter_error_percent(*same_mean) == 0
    assert size_distance_px(*same_mean) == pytest.approx(2)
    # Distributions are compared, not counts: twice as many of each is the same.
    assert size_distance_px(np.repeat(same_mean[0], 2), same_mean[0]) == 0
    assert math.isnan(size_distance_px(np.array([]), same_mean[0]))
    assert math.isnan(size_distance_px(same_mean[0], np.array([])))


def test_the_size_error_has_a_sign() -> None:
    assert diameter_error_percent(np.array([9.0]), np.array([10.0])) == pytest.approx(
        -10
    )
    assert math.isnan(diameter_error_percent(np.array([]), np.array([10.0])))


def test_a_network_answers_at_the_frames_own_odd_size() -> None:
    network = build().eval()
    pixels = np.random.default_rng(0).normal(size=(45, 70)).astype(np.float32)
    probability = predict_probability(network, pixels)
    assert probability.shape == (45, 70)
    assert 0 <= probability.min() <= probability.max() <= 1
