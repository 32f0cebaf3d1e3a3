"""Scores of answers that are known."""

import math

import numpy as np
import pytest

from emcopilot.errors import DecodeError
from models.scores import (
    MarkedParticles,
    label_edges,
    score_image,
    true_labels,
    whole_diameters_px,
)


def discs(side: int = 96) -> np.ndarray:
    """Two touching discs of 24 px and one apart, numbered, none at the border."""
    labels = np.zeros((side, side), np.uint16)
    y, x = np.ogrid[:side, :side]
    for number, (cy, cx) in enumerate(((30, 30), (30, 54), (70, 70)), start=7):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 12**2] = number
    return labels


def square(shape: tuple[int, int], *corners: tuple[int, int, int]) -> np.ndarray:
    """Squares given by top, left and side, numbered from 1."""
    labels = np.zeros(shape, np.uint16)
    for number, (top, left, side) in enumerate(corners, start=1):
        labels[top : top + side, left : left + side] = number
    return labels


def test_numbered_masks_keep_their_numbers_apart() -> None:
    assert true_labels(discs()).max() == 3
    assert set(np.unique(true_labels(discs()))) == {0, 1, 2, 3}
    # 8-bit masks are marks, not numbers: touching discs are parted by their shape.
    binary = (discs() > 0).astype(np.uint8) * 255
    assert true_labels(binary).max() == 3
    assert true_labels(np.zeros((5, 5), np.uint8)).max() == 0
    assert true_labels(discs() > 0).max() == 3  # a 1-bit mask


def test_a_fully_numbered_mask_has_no_background() -> None:
    marks = np.array([[1, 1, 2], [1, 1, 2]], np.int32)
    assert true_labels(marks).tolist() == [[1, 1, 2], [1, 1, 2]]


def test_marks_below_zero_are_no_particles() -> None:
    marks = np.array([[-1, -1, 0], [3, 3, 5]], np.int16)
    assert true_labels(marks).tolist() == [[0, 0, 0], [1, 1, 2]]


def test_particles_cut_by_the_border_have_no_size() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[0:10, 5:15] = 1
    labels[20:30, 20:30] = 2
    np.testing.assert_allclose(whole_diameters_px(labels), [math.sqrt(400 / math.pi)])


def test_a_dilated_answer_shows_as_a_size_error() -> None:
    truth = square((80, 80), (20, 20, 20))
    wide = (square((80, 80), (18, 18, 24)) > 0).astype(np.uint8) * 255
    score = score_image("wide", wide, wide, truth)
    # A square of 24 instead of 20 px.
    assert score.mean_diameter_error_percent == pytest.approx(20, abs=1e-6)
    assert score.size_wasserstein_px == pytest.approx(4 * math.sqrt(4 / math.pi))
    assert score.iou_particle == pytest.approx(400 / 576)
    assert score.instance_f1 == 1
    assert score.panoptic_quality == pytest.approx(400 / 576)


def test_a_missed_and_an_invented_particle_are_told_apart() -> None:
    truth = square((100, 100), (10, 10, 20), (10, 60, 20), (60, 10, 20))
    answer = square((100, 100), (10, 10, 20), (10, 60, 20), (60, 60, 20), (40, 40, 10))
    shown = (answer > 0).astype(np.uint8) * 255
    score = score_image("any", shown, shown, truth)
    assert score.instance_precision == 2 / 4
    assert score.instance_recall == 2 / 3
    assert score.instance_f1 == pytest.approx(4 / 7)
    assert score.panoptic_quality == pytest.approx(4 / 7)  # what is found fits exactly
    assert score.false_per_megapixel == pytest.approx(2 / 0.01)


def test_an_empty_field_is_judged_by_what_is_invented() -> None:
    truth = MarkedParticles(true_labels(np.zeros((100, 50), np.uint8)))
    assert truth.is_empty
    kept = truth.score("kept", np.zeros((100, 50), np.uint8))
    assert kept.instance_f1 == kept.panoptic_quality == kept.miou == 1
    assert kept.false_per_megapixel == 0
    invented = (square((100, 50), (5, 5, 10)) > 0).astype(np.uint8) * 255
    spoilt = truth.score("spoilt", invented)
    assert spoilt.instance_f1 == spoilt.iou_particle == 0
    assert spoilt.false_per_megapixel == pytest.approx(200)
    assert math.isnan(spoilt.mean_diameter_error_percent)
    assert math.isnan(spoilt.size_wasserstein_px)


def test_a_mask_of_another_size_is_refused() -> None:
    plane = np.zeros((4, 5), np.uint8)
    with pytest.raises(DecodeError, match=r"a: the image is \(4, 5\) px, its mask"):
        score_image("a", plane, plane, plane.T)


def test_edges_part_particles_that_touch() -> None:
    labels = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 1, 1, 2, 0]], np.int32)
    assert label_edges(labels).astype(int).tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 1, 0],
    ]
    assert label_edges(np.ones((5, 5), np.int32)).sum() == 0
