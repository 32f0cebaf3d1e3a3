"""Scores of masks that were drawn to have a known answer."""

import math

import numpy as np
import pytest

from models.datasets import LabelledFrame
from models.npssegnet import build
from models.segmentation_metrics import (
    boundary_f1,
    diameter_error_percent,
    instance_f1,
    mean_iou,
    pairwise_iou,
    pixel_score,
    predict_probability,
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
    assert instance_f1(nothing.astype(np.int32), nothing.astype(np.int32)) == 1


def test_an_invented_particle_is_wrong_everywhere() -> None:
    nothing, one = np.zeros((9, 9), np.int32), box((9, 9), (2, 2, 6, 6))
    assert pixel_score(one > 0, nothing > 0).iou_particle == 0
    assert boundary_f1(one > 0, nothing > 0) == 0
    assert instance_f1(one, nothing) == 0
    assert instance_f1(nothing, one) == 0


def test_an_edge_within_the_tolerance_counts_as_found() -> None:
    truth, near = (
        box((40, 40), (10, 10, 30, 30)) > 0,
        box((40, 40), (12, 12, 28, 28)) > 0,
    )
    far = box((40, 40), (16, 16, 24, 24)) > 0
    assert boundary_f1(near, truth, tolerance_px=3) == 1
    assert boundary_f1(far, truth, tolerance_px=3) == 0


def test_pairwise_iou_is_that_counted_by_hand() -> None:
    ours = box((10, 20), (0, 0, 10, 10), (0, 10, 10, 20))
    truth = box((10, 20), (0, 0, 10, 5))
    np.testing.assert_allclose(pairwise_iou(ours, truth), [[0.5], [0.0]])


def test_instances_are_matched_one_to_one() -> None:
    truth = box((20, 40), (0, 0, 10, 10), (0, 20, 10, 30), (12, 0, 18, 6))
    found = box((20, 40), (0, 0, 10, 9), (0, 20, 10, 30), (12, 30, 18, 36))
    assert instance_f1(found, truth) == pytest.approx(2 * 2 / 6)
    assert instance_f1(truth[:, ::-1], truth[:, ::-1]) == 1


def test_a_particle_cut_in_two_is_found_at_most_once() -> None:
    truth = box((10, 10), (0, 0, 10, 10))
    halves = box((10, 10), (0, 0, 10, 6), (0, 6, 10, 10))
    assert instance_f1(halves, truth) == pytest.approx(2 / 3)


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
    frame = LabelledFrame("a", pixels.astype(np.float16), probability >= 0.5)
    # The frame is its own truth but for float16 rounding of the input at the 0.5 contour.
    assert mean_iou(network, [frame]) > 0.9
