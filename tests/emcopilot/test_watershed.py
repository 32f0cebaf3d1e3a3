"""Particles that touch or overlap are parted, single ones left whole."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.labels import label_particles
from emcopilot.notches import parted_at_notches
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


def overlapping(
    rng: np.random.Generator, diameter: float, ratio: float, close: float
) -> NDArray[np.bool_]:
    """Draw two discs whose centres lie at a share of where they would touch."""
    radii = diameter / 2, ratio * diameter / 2
    step = close * sum(radii)
    angle = rng.uniform(0, 2 * np.pi)
    side = int(4 * diameter)
    y, x = side / 2 + rng.uniform(-0.5, 0.5, 2)
    return ellipses(
        side,
        (y, x, radii[0], radii[0], 0.0),
        (y + step * np.sin(angle), x + step * np.cos(angle), radii[1], radii[1], 0.0),
    )


def jagged(outline: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Fray the edge of a mask by a pixel or two."""
    noise = ndimage.gaussian_filter(rng.normal(0, 1, outline.shape), 1.0)
    inside = ndimage.distance_transform_edt(outline)
    depth = inside - ndimage.distance_transform_edt(~outline)
    frayed, _ = ndimage.label(depth + 5 * noise > 0)
    return frayed == np.bincount(frayed.ravel())[1:].argmax() + 1


@pytest.mark.parametrize("diameter", [16, 30, 60])
@pytest.mark.parametrize(("ratio", "close"), [(1.0, 0.7), (1.0, 0.85), (0.6, 0.85)])
def test_discs_that_hide_a_part_of_each_other_are_parted(
    diameter: float, ratio: float, close: float
) -> None:
    rng = np.random.default_rng(int(diameter))
    found = [
        label_particles(overlapping(rng, diameter, ratio, close)).max()
        for _ in range(10)
    ]
    assert found.count(2) >= 9


def test_a_small_particle_that_is_half_hidden_has_no_top_but_two_notches() -> None:
    mask = ellipses(160, (80, 70, 30, 30, 0), (80, 106, 14, 14, 0))
    assert parted(np.pad(mask, 1)).max() == 1
    labels = label_particles(mask)
    assert labels.max() == 2
    assert labels[80, 70] != labels[80, 115]


def test_the_cut_runs_from_notch_to_notch() -> None:
    # The circles meet at x = 50, y = 50 -+ 12.
    mask = ellipses(100, (50, 34, 20, 20, 0), (50, 66, 20, 20, 0))
    parts = parted_at_notches(mask.astype(np.int32))
    left, right = parts[50, 30], parts[50, 70]
    assert {left, right} == {1, 2}
    assert (parts[:, :48] == right).sum() == 0
    assert (parts[:, 53:] == left).sum() == 0
    np.testing.assert_array_equal(parts > 0, mask)


def test_a_cluster_is_parted_into_all_its_particles() -> None:
    places = [(40, 40), (40, 62), (40, 84), (60, 95), (80, 84)]
    mask = ellipses(130, *((y, x, 14, 14, 0) for y, x in places))
    labels = label_particles(mask)
    assert labels.max() == 5
    assert len({int(labels[y, x]) for y, x in places}) == 5


def test_parts_that_are_numbered_already_keep_their_numbers() -> None:
    parts = np.zeros((100, 160), np.int32)
    parts[10:40, 10:40] = 2
    parts[ellipses(160, (50, 100, 16, 16, 0), (50, 124, 16, 16, 0))[:100]] = 1
    finer = parted_at_notches(parts)
    assert np.unique(finer).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(finer == 2, parts == 2)
    np.testing.assert_array_equal(np.isin(finer, (1, 3)), parts == 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_jagged_rod_stays_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :200] - 100
    angle = rng.uniform(0, np.pi)
    along, across = (
        x * np.cos(angle) + y * np.sin(angle),
        y * np.cos(angle) - x * np.sin(angle),
    )
    rod = jagged((abs(along) < 75) & (abs(across) < 18), rng)
    assert parted_at_notches(rod.astype(np.int32)).max() == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_particle_that_is_notched_all_around_stays_whole(seed: int) -> None:
    """Dendrites and flakes: spikes everywhere, and nothing that a cut would part."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :240] - 120
    angle = np.arctan2(y, x)
    spikes = 1 + 0.18 * np.sin(23 * angle + rng.uniform(0, 6)) * rng.uniform(0.8, 1.2)
    star = np.hypot(y, 0.7 * x) < 60 * spikes
    assert parted_at_notches(star.astype(np.int32)).max() == 1


def test_noise_and_what_is_too_small_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (512, 512)), 1.5) > -0.05
    largest = ndimage.label(noise)[0] == 1
    assert parted_at_notches(largest.astype(np.int32)).max() == 1
    speck = np.zeros((9, 9), np.int32)
    speck[2:5, 2:7] = 1
    assert parted_at_notches(speck).max() == 1
    assert not parted_at_notches(np.zeros((9, 9), np.int32)).any()
