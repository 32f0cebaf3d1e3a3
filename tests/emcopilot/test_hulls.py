"""Convex hulls of many labels at once, against one hull at a time."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from emcopilot.hulls import hulls_of
from emcopilot.runs import runs_of

ARM = 0.35


def diamonds(labels: np.ndarray, label: int) -> np.ndarray:
    """All corners of all pixels' diamonds, (n, 2) as (y, x)."""
    pixels = np.argwhere(labels == label).astype(float)
    arms = np.array([(ARM, 0), (-ARM, 0), (0, ARM), (0, -ARM)])
    return (pixels[:, None] + arms).reshape(-1, 2)


def blobs(seed: int) -> np.ndarray:
    """Random pixels in random labels: as ragged as labels get."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 40, (50, 60)).astype(np.int32)
    labels[labels > 9] = 0
    labels[0, :9] = np.arange(1, 10)
    return labels


@pytest.mark.parametrize("seed", range(5))
def test_areas_and_widths_equal_those_of_qhull(seed: int) -> None:
    labels = blobs(seed)
    hulls = hulls_of(runs_of(labels), 9)
    largest, smallest = hulls.feret_diameters()
    for label in range(1, 10):
        points = diamonds(labels, label)
        hull = ConvexHull(points)
        assert hulls.areas()[label - 1] == pytest.approx(hull.volume)
        corners = points[hull.vertices]
        apart = np.linalg.norm(corners[:, None] - corners[None], axis=2)
        assert largest[label - 1] == pytest.approx(apart.max())
        reach = corners @ hull.equations[:, :2].T
        assert smallest[label - 1] == pytest.approx(np.ptp(reach, axis=0).min())


def test_many_hulls_equal_each_on_its_own() -> None:
    labels = blobs(1)
    areas = hulls_of(runs_of(labels), 9).areas()
    for label in range(1, 10):
        alone = (labels == label).astype(np.int32)
        assert hulls_of(runs_of(alone), 1).areas()[0] == pytest.approx(areas[label - 1])


def test_one_pixel_has_a_hull() -> None:
    labels = np.zeros((3, 3), np.int32)
    labels[1, 1] = 1
    hulls = hulls_of(runs_of(labels), 1)
    largest, smallest = hulls.feret_diameters()
    assert hulls.areas()[0] == pytest.approx(2 * ARM**2)
    assert largest[0] == pytest.approx(2 * ARM)
    assert smallest[0] == pytest.approx(2 * ARM / 2**0.5)


def test_no_label_has_no_hull() -> None:
    hulls = hulls_of(runs_of(np.zeros((4, 4), np.int32)), 0)
    assert len(hulls.areas()) == 0
    assert [len(width) for width in hulls.feret_diameters()] == [0, 0]


def test_stretched_hulls_are_measured_in_the_new_unit() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:25, 10:15] = 1
    hulls = hulls_of(runs_of(labels), 1)
    stretched = hulls.scaled((0.5, 4.0))
    assert stretched.areas()[0] == pytest.approx(2 * hulls.areas()[0])


def test_corner_pairs_are_compared_in_bounded_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = blobs(2)
    hulls = hulls_of(runs_of(labels), 9)
    at_once = hulls.feret_diameters()
    monkeypatch.setattr("emcopilot.hulls._PAIRS_AT_ONCE", 150)
    assert len(list(hulls._pairs())) > 3
    np.testing.assert_array_equal(hulls.feret_diameters(), at_once)


def test_a_large_smooth_hull_is_found() -> None:
    y, x = np.mgrid[:1500, :1500] - 750
    hulls = hulls_of(runs_of((np.hypot(y, x) <= 700).astype(np.int32)), 1)
    assert hulls.areas()[0] == pytest.approx(np.pi * 700**2, rel=1e-3)
    # Within half a pixel at either end.
    assert hulls.feret_diameters()[0][0] == pytest.approx(1400, abs=1)
