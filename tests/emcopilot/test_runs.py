"""Runs of pixels and their closed sums against pixel by pixel sums."""

import numpy as np
import pytest

from emcopilot.runs import boxes_of, ellipse_fill, moments_of, runs_of


def random_labels(seed: int, count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, count + 1, (23, 31)).astype(np.int32)
    labels[0, :count] = np.arange(1, count + 1)  # none may be missing
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_runs_cover_exactly_the_pixels_of_each_label(seed: int) -> None:
    labels = random_labels(seed)
    runs = runs_of(labels)
    again = np.zeros_like(labels)
    for label, row, first, last in zip(
        runs.label, runs.row, runs.first, runs.last, strict=True
    ):
        assert not again[row, first : last + 1].any()
        again[row, first : last + 1] = label
    np.testing.assert_array_equal(again, labels)


def test_a_run_ends_at_the_edge_of_the_frame() -> None:
    runs = runs_of(np.ones((3, 5), np.int32))
    assert runs.row.tolist() == [0, 1, 2]
    assert runs.first.tolist() == [0, 0, 0]
    assert runs.last.tolist() == [4, 4, 4]
    assert runs.length.tolist() == [5, 5, 5]


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0), (4, 4)])
def test_an_empty_frame_has_no_runs(shape: tuple[int, int]) -> None:
    runs = runs_of(np.zeros(shape, np.int32))
    assert len(runs.label) == 0
    assert len(moments_of(runs, 0).area) == 0


@pytest.mark.parametrize("seed", range(4))
def test_moments_equal_sums_over_pixels(seed: int) -> None:
    labels = random_labels(seed)
    moments = moments_of(runs_of(labels), 6)
    for label in range(1, 7):
        y, x = np.nonzero(labels == label)
        i = label - 1
        assert moments.area[i] == len(y)
        assert moments.y[i] == pytest.approx(y.mean())
        assert moments.x[i] == pytest.approx(x.mean())
        spread = np.cov(y, x, bias=True)
        assert moments.yy[i] == pytest.approx(spread[0, 0])
        assert moments.xx[i] == pytest.approx(spread[1, 1])
        assert moments.xy[i] == pytest.approx(spread[0, 1])


def test_moments_keep_their_digits_far_from_the_origin() -> None:
    labels = np.zeros((16, 16_000), np.int32)
    labels[6:9, 15_990:15_993] = 1
    moments = moments_of(runs_of(labels), 1)
    assert moments.xx[0] == pytest.approx(2 / 3, rel=1e-12)
    assert moments.xy[0] == pytest.approx(0, abs=1e-12)


def test_boxes_hold_their_labels() -> None:
    labels = np.zeros((10, 12), np.int32)
    labels[2:5, 3:9] = 1
    labels[7, 11] = 2
    boxes = boxes_of(runs_of(labels), 2)
    assert boxes.slices(1) == (slice(2, 5), slice(3, 9))
    assert boxes.slices(2) == (slice(7, 8), slice(11, 12))
    assert boxes.areas().tolist() == [18, 1]


def test_ellipse_fill_knows_ellipse_rectangle_and_pair() -> None:
    y, x = np.mgrid[:200, :300]
    ellipse = (x - 150) ** 2 / 90**2 + (y - 100) ** 2 / 45**2 <= 1
    rectangle = (abs(x - 150) < 80) & (abs(y - 100) < 30)
    pair = np.minimum(np.hypot(x - 100, y - 100), np.hypot(x - 200, y - 100)) <= 50
    fills = [
        ellipse_fill(moments_of(runs_of(mask.astype(np.int32)), 1))[0]
        for mask in (ellipse, rectangle, pair)
    ]
    # Analytic values; a pixel grid of this size reaches them within 0.5 %.
    assert fills == pytest.approx([1, 3 / np.pi, 0.8944], rel=5e-3)


def test_a_line_of_pixels_has_a_finite_fill() -> None:
    labels = np.zeros((3, 20), np.int32)
    labels[1, 2:18] = 1
    assert np.isfinite(ellipse_fill(moments_of(runs_of(labels), 1))).all()
