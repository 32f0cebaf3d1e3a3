"""The score of particles against boxes that people drew."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

BOXES = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float64)
Score = Callable[[np.ndarray, np.ndarray], float]


@pytest.fixture
def centre_f1(monkeypatch: pytest.MonkeyPatch) -> Score:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from arda import centre_f1

    return centre_f1


def score(centre_f1: Score, *centres: tuple[float, float]) -> float:
    return centre_f1(BOXES, np.array(centres, np.float64).reshape(-1, 2))


def test_each_box_with_a_centre_in_it_is_found(centre_f1: Score) -> None:
    assert score(centre_f1, (5, 5), (10, 20)) == 1.0  # y, x; edges belong to the box


def test_a_second_centre_in_a_box_and_one_outside_are_false(centre_f1: Score) -> None:
    # Precision 1/3, recall 1/2.
    assert score(centre_f1, (5, 5), (6, 6), (50, 50)) == pytest.approx(2 / 5)


def test_one_centre_finds_one_of_two_boxes_that_overlap(centre_f1: Score) -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15]], np.float64)
    assert centre_f1(boxes, np.array([[7.0, 7.0]])) == pytest.approx(2 / 3)


def test_nothing_found_is_right_only_where_nothing_is(centre_f1: Score) -> None:
    assert score(centre_f1) == 0.0
    assert centre_f1(np.empty((0, 4)), np.empty((0, 2))) == 1.0
