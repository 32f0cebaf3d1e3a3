"""Touching particles are parted and single ones left whole."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emcopilot.labels import label_particles
from emcopilot.watershed import parted


def ellipses(side: int, *shapes: tuple[float, float, float, float, float]) -> NDArray:
    """Draw (y, x, semi-major, semi-minor, angle) where a pixel is half covered."""
    fine = 8
    at = (np.arange(side * fine) + 0.5) / fine - 0.5
    inside = np.zeros((side * fine, side * fine), np.bool_)
    for cy, cx, major, minor, angle in shapes:
        dy, dx = at[:, None] - cy, at[None, :] - cx
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        inside |= (along / major) ** 2 + (across / minor) ** 2 <= 1
    return inside.reshape(side, fine, side, fine).mean((1, 3)) >= 0.5


def pair(
    rng: np.random.Generator, diameter: float, ratio: float, gap: float
) -> NDArray:
    other = diameter * ratio
    side = int(diameter + 2 * other + 8)
    angle = rng.uniform(0, 2 * np.pi)
    apart = (diameter + other) / 2 + gap
    step = np.array((np.sin(angle), np.cos(angle))) * apart / 2
    middle = side / 2 + rng.uniform(-0.5, 0.5, 2)
    one, two = middle - step, middle + step
    return ellipses(
        side,
        (*one, diameter / 2, diameter / 2, 0.0),
        (*two, other / 2, other / 2, 0.0),
    )


def test_fewer_than_one_in_a_hundred_single_ellipses_is_split() -> None:
    rng = np.random.default_rng(1)
    split = 0
    for _ in range(200):
        diameter, aspect = np.exp(rng.uniform(np.log(4), np.log(60))), rng.uniform(1, 2)
        major, minor = diameter / 2 * aspect**0.5, diameter / 2 / aspect**0.5
        y, x = 50 + rng.uniform(-0.5, 0.5, 2)
        mask = ellipses(100, (y, x, major, minor, rng.uniform(0, np.pi)))
        split += label_particles(mask).max() != 1
    assert split <= 2


@pytest.mark.parametrize("diameter", [6, 10, 20, 40])
@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_touching_discs_are_parted(diameter: int, ratio: float) -> None:
    rng = np.random.default_rng(diameter)
    count = 30
    found = [
        label_particles(pair(rng, diameter, ratio, 0.0)).max() for _ in range(count)
    ]
    assert found.count(2) >= 0.95 * count


@pytest.mark.parametrize("diameter", [14, 20, 40])
def test_discs_that_overlap_by_2_px_are_parted(diameter: int) -> None:
    rng = np.random.default_rng(diameter)
    found = [label_particles(pair(rng, diameter, 1.2, -2.0)).max() for _ in range(20)]
    assert found.count(2) >= 19


def test_a_bridge_of_2_px_that_closed_a_gap_is_cut() -> None:
    mask = ellipses(80, (40, 22, 14, 14, 0), (40, 54, 14, 14, 0))
    mask[39:41, 30:48] = True
    labels = label_particles(mask)
    assert labels.max() == 2
    areas = np.bincount(labels.ravel())[1:]
    assert areas[0] == pytest.approx(areas[1], rel=0.05)  # the bridge has 16 px of 615


def test_the_cut_runs_through_the_contact_of_two_discs() -> None:
    labels = label_particles(ellipses(100, (50, 28, 20, 20, 0), (50, 68, 20, 20, 0)))
    first, second = labels[50, 28], labels[50, 68]
    assert first != second
    # Contact at x = 48: a pixel or two of play for the discrete distance.
    assert (labels[:, :46] == second).sum() == 0
    assert (labels[:, 51:] == first).sum() == 0


def test_a_small_particle_beside_a_large_one_is_parted() -> None:
    labels = label_particles(ellipses(120, (55, 45, 35, 35, 0), (55, 88, 9, 9, 0)))
    assert labels.max() == 2


def test_a_chain_of_three_and_a_triangle_are_parted() -> None:
    chain = ellipses(110, (50, 20, 14, 14, 0), (50, 48, 14, 14, 0), (50, 76, 14, 14, 0))
    triangle = ellipses(
        80, (25, 26, 13, 13, 0), (25, 52, 13, 13, 0), (47.5, 39, 13, 13, 0)
    )
    assert label_particles(chain).max() == 3
    assert label_particles(triangle).max() == 3


@pytest.mark.parametrize("side", [12, 30])
def test_facets_and_rods_stay_whole(side: int) -> None:
    y, x = np.mgrid[:100, :100] - 50
    turned = 0.37
    u, v = (
        x * np.cos(turned) + y * np.sin(turned),
        y * np.cos(turned) - x * np.sin(turned),
    )
    square = (abs(u) < side / 2) & (abs(v) < side / 2)
    rod = (abs(u) < 1.4 * side) & (abs(v) < side / 4)
    triangle = (v < side / 2) & (v > 2 * abs(u) - side / 2)
    for mask in (square, rod, triangle):
        assert label_particles(mask).max() == 1


def test_a_rough_edge_does_not_split_a_particle() -> None:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:120, :120] - 60
    angle = np.arctan2(y, x)
    for _ in range(20):
        phase = rng.uniform(0, 2 * np.pi, 4)
        waves = sum(0.04 * np.sin(k * angle + phase[k - 3]) for k in range(3, 7))
        assert label_particles(np.hypot(y, x) < 30 * (1 + waves)).max() == 1


def test_parts_cover_the_piece_and_nothing_else() -> None:
    piece = np.pad(pair(np.random.default_rng(0), 9, 1.3, 0.0), 1)
    parts = parted(piece)
    assert parts.dtype == np.int32
    np.testing.assert_array_equal(parts > 0, piece)
    assert np.unique(parts).tolist() == [0, 1, 2]
