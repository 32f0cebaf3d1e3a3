"""Outlines follow the labels' edges, few points each, one polygon a label."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import points_in_poly

from emcopilot.outlines import Outlines, outlines


def discs(shape: tuple[int, int], *circles: tuple[float, float, float]) -> NDArray:
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for label, (cy, cx, radius) in enumerate(circles, 1):
        labels[np.hypot(y - cy, x - cx) <= radius] = label
    return labels


def area(polygon: NDArray[np.float64]) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def redrawn(found: Outlines, label: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside the label's polygon."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    points = np.stack((x.ravel(), y.ravel()), axis=1)
    return points_in_poly(points, found.polygon(label)).reshape(shape)


def test_every_label_has_one_polygon_in_label_order() -> None:
    labels = discs((60, 90), (20, 60, 9), (40, 20, 12), (45, 70, 5))
    found = outlines(labels)
    assert found.offsets.dtype == np.uint32
    assert found.points.dtype == np.int16
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.points)
    for label, (cx, cy) in enumerate([(60, 20), (20, 40), (70, 45)], 1):
        middle = found.polygon(label).mean(axis=0)
        assert middle == pytest.approx((cx, cy), abs=2)  # points are uneven


@pytest.mark.parametrize("radius", [2.0, 3.5, 6.0, 10.0, 25.0, 60.0])
def test_the_outline_of_a_disc_lies_on_its_edge(radius: float) -> None:
    side = int(2 * radius + 12)
    labels = discs((side, side), (side / 2, side / 2, radius))
    polygon = outlines(labels).polygon(1)
    off = np.hypot(*(polygon - side / 2).T) - radius
    # Half a pixel of drawing, 0.4 of simplifying.
    assert np.abs(off).max() < 0.9
    assert abs(off.mean()) < 0.35


@pytest.mark.parametrize("seed", range(3))
def test_a_redrawn_outline_covers_the_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    circles = [(*rng.uniform(15, 65, 2), rng.uniform(4, 14)) for _ in range(6)]
    labels = (discs((80, 80), *circles) > 0).astype(np.int32)
    found = redrawn(outlines(labels), 1, labels.shape)
    pieces, _ = ndimage.label(labels)
    largest = 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    piece = ndimage.binary_fill_holes(pieces == largest)
    # Only pixels along the edge may differ.
    overlap = (piece & found).sum() / (piece | found).sum()
    assert overlap > 0.95


def test_points_are_few() -> None:
    for radius, most in ((5, 16), (20, 40), (100, 100)):
        side = 2 * radius + 6
        labels = discs((side, side), (side / 2, side / 2, radius))
        assert 6 <= len(outlines(labels).points) <= most


def test_neighbours_share_their_border() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[4:16, 4:20], labels[4:16, 20:36] = 1, 2
    left, right = (outlines(labels).polygon(label) for label in (1, 2))
    assert left[:, 0].max() == pytest.approx(19.5)
    assert right[:, 0].min() == pytest.approx(19.5)


def test_a_square_keeps_its_corners() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[10:50, 10:50] = 1
    polygon = outlines(labels).polygon(1)
    corners = np.array([(9.5, 9.5), (49.5, 9.5), (9.5, 49.5), (49.5, 49.5)])
    nearest = np.hypot(*(polygon[:, None] - corners).T).min(axis=1)
    # The staircase filter and the tolerance each round a corner by half a pixel.
    assert nearest.max() <= 1.2
    assert area(polygon) == pytest.approx(1600, rel=0.01)


def test_holes_are_left_out_and_outlines_turn_clockwise() -> None:
    labels = discs((60, 60), (30, 30, 20))
    labels[discs((60, 60), (30, 30, 12)) > 0] = 0
    found = outlines(labels)
    assert len(found.offsets) == 2
    assert area(found.polygon(1)) == pytest.approx(np.pi * 400, rel=0.02)


def test_of_a_label_in_pieces_the_largest_is_drawn() -> None:
    labels = np.minimum(discs((40, 80), (20, 15, 4), (20, 55, 12)), 1).astype(np.int32)
    polygon = outlines(labels).polygon(1)
    assert polygon[:, 0].min() > 40


def test_pixels_that_share_a_corner_are_two_pieces() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[2:12, 2:12] = labels[12:26, 12:26] = 1
    polygon = outlines(labels).polygon(1)
    assert area(polygon) == pytest.approx(196, rel=0.03)


def test_particles_at_the_frame_edge_are_closed_along_it() -> None:
    labels = np.ones((30, 40), np.int32)
    polygon = outlines(labels).polygon(1)
    assert polygon.min() == pytest.approx(-0.5)
    assert polygon.max(axis=0) == pytest.approx((39.5, 29.5))
    assert area(polygon) == pytest.approx(1200, rel=0.01)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_scaled_outlines_lie_on_the_shown_particle(scale: float) -> None:
    labels = discs((200, 300), (100, 200, 60))
    polygon = outlines(labels, scale).polygon(1)
    # Shown pixels grow from the frame's corner: centres lie at (c + 0.5) * scale - 0.5.
    middle = np.array((200.5, 100.5)) * scale - 0.5
    off = np.hypot(*(polygon - middle).T) - 60 * scale
    assert np.abs(off).max() < 0.5 + scale


def test_a_wide_frame_needs_a_scale() -> None:
    labels = np.zeros((10, 16_384), np.int32)
    labels[2:8, 16_300:16_380] = 1
    with pytest.raises(ValueError, match="smaller scale"):
        outlines(labels)
    polygon = outlines(labels, 2048 / 16_384).polygon(1)
    assert polygon[:, 0].max() == pytest.approx(16_380 / 8 - 0.5, abs=0.5)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (30, 40)])
def test_no_particle_gives_no_point(shape: tuple[int, int]) -> None:
    found = outlines(np.zeros(shape, np.int32))
    assert found.offsets.tolist() == [0]
    assert found.points.shape == (0, 2)


def test_one_pixel_and_one_line_have_outlines() -> None:
    labels = np.zeros((5, 30), np.int32)
    labels[2, 2], labels[2, 6:28] = 1, 2
    found = outlines(labels)
    assert len(found.polygon(1)) >= 3
    assert found.polygon(2)[:, 0].max() > 26


def test_a_number_without_a_pixel_has_no_points() -> None:
    labels = discs((30, 60), (15, 12, 6), (15, 30, 6), (15, 48, 6))
    labels[labels == 2] = 0
    found = outlines(labels)
    assert len(found.polygon(2)) == 0
    assert len(found.polygon(3)) > 5


def test_a_thousand_outlines_have_a_thousand_polygons() -> None:
    y, x = np.divmod(np.arange(1000), 40)
    labels = np.zeros((300, 500), np.int32)
    for dy in range(6):
        for dx in range(7):
            labels[y * 12 + dy, x * 12 + dx] = np.arange(1, 1001)
    found = outlines(labels)
    assert (np.diff(found.offsets.astype(int)) >= 4).all()
    assert found.polygon(1000).mean(axis=0) == pytest.approx(
        (39 * 12 + 3, 290.5), abs=1
    )
