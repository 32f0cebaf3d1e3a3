"""Particles that overlap are parted from notch to notch; rough and branched ones stay whole."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.labels import label_particles
from emcopilot.notches import parted_at_notches
from emcopilot.watershed import parted

Mask = NDArray[np.bool_]


def discs(side: int, *circles: tuple[float, float, float]) -> Mask:
    """Draw (y, x, radius) where a pixel's centre lies inside."""
    y, x = np.mgrid[:side, :side]
    return np.any(
        [np.hypot(y - cy, x - cx) < radius for cy, cx, radius in circles], axis=0
    )


def overlapping(
    rng: np.random.Generator, diameter: float, ratio: float, close: float
) -> Mask:
    """Draw two discs whose centres lie at a share of where they would touch."""
    radii = diameter / 2, ratio * diameter / 2
    step, angle = close * sum(radii), rng.uniform(0, 2 * np.pi)
    side = int(4 * diameter)
    y, x = side / 2 + rng.uniform(-0.5, 0.5, 2)
    beside = (y + step * np.sin(angle), x + step * np.cos(angle), radii[1])
    return discs(side, (y, x, radii[0]), beside)


def jagged(outline: Mask, rng: np.random.Generator) -> Mask:
    """Fray the edge of a mask by a pixel or two."""
    noise = ndimage.gaussian_filter(rng.normal(0, 1, outline.shape), 1.0)
    inside = ndimage.distance_transform_edt(outline)
    depth = inside - ndimage.distance_transform_edt(~outline)
    return largest(depth + 5 * noise > 0)


def largest(mask: Mask) -> Mask:
    pieces, _ = ndimage.label(mask)
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1


def rod(side: int, angle: float, length: float, width: float) -> Mask:
    y, x = np.mgrid[:side, :side] - side / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    return (abs(along) < length / 2) & (abs(across) < width / 2)


def star(arms: int, depth: float, side: int = 240) -> Mask:
    y, x = np.mgrid[:side, :side] - side / 2
    angle = np.arctan2(y, x)
    return np.hypot(y, x) < side / 4 * (1 + depth * np.cos(arms * angle + 0.3))


def count_of(mask: Mask) -> int:
    """Count what the notches alone part."""
    return int(parted_at_notches(mask.astype(np.int32)).max())


@pytest.mark.parametrize("diameter", [16, 30, 60])
@pytest.mark.parametrize(("ratio", "close"), [(1.0, 0.7), (1.0, 0.85), (0.6, 0.85)])
def test_discs_that_hide_a_part_of_each_other_are_parted(
    diameter: float, ratio: float, close: float
) -> None:
    rng = np.random.default_rng(int(diameter))
    found = [
        label_particles(overlapping(rng, diameter, ratio, close)).max()
        for _ in range(20)
    ]
    assert found.count(2) >= 18


def test_a_small_particle_that_is_half_hidden_has_no_top_but_two_notches() -> None:
    mask = discs(160, (80, 70, 30), (80, 106, 14))
    assert parted(mask).max() == 1
    labels = label_particles(mask)
    assert labels.max() == 2
    assert labels[80, 70] != labels[80, 115]


def test_the_cut_runs_from_notch_to_notch() -> None:
    # The circles meet at x = 50, y = 50 -+ 12.
    mask = discs(100, (50, 34, 20), (50, 66, 20))
    parts = parted_at_notches(mask.astype(np.int32))
    left, right = parts[50, 30], parts[50, 70]
    assert {left, right} == {1, 2}
    assert (parts[:, :48] == right).sum() == 0
    assert (parts[:, 53:] == left).sum() == 0
    np.testing.assert_array_equal(parts > 0, mask)


@pytest.mark.parametrize("turned", range(4))
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_cluster_is_parted_into_all_its_particles(
    turned: int, is_mirrored: bool
) -> None:
    places = [(40, 40), (40, 62), (40, 84), (60, 95), (80, 84)]
    owner = np.zeros((130, 130), np.int32)
    for number, (y, x) in enumerate(places, start=1):
        owner[discs(130, (y, x, 2))] = number
    mask = discs(130, *((y, x, 14) for y, x in places))
    mask, owner = (np.rot90(one, turned) for one in (mask, owner))
    if is_mirrored:
        mask, owner = mask.T, owner.T
    labels = label_particles(mask)
    assert labels.max() == 5
    middles = [np.unique(labels[owner == number]).tolist() for number in range(1, 6)]
    assert sorted(middles) == [[1], [2], [3], [4], [5]]


def test_a_cluster_that_the_frame_cuts_is_parted_too() -> None:
    mask = discs(100, (50, 34, 20), (50, 66, 20))[:, 34:]
    assert count_of(mask) == 2


def test_parts_that_are_numbered_already_keep_their_numbers() -> None:
    parts = np.zeros((160, 160), np.int32)
    parts[10:40, 10:40] = 2
    parts[discs(160, (80, 100, 16), (80, 124, 16))] = 1
    finer = parted_at_notches(parts)
    assert np.unique(finer).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(finer == 2, parts == 2)
    np.testing.assert_array_equal(np.isin(finer, (1, 3)), parts == 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_jagged_rod_stays_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert count_of(jagged(rod(200, rng.uniform(0, np.pi), 150, 36), rng)) == 1


@pytest.mark.parametrize("arms", [5, 6, 23])
@pytest.mark.parametrize("depth", [0.1, 0.2, 0.4])
def test_stars_and_dendrites_stay_whole(arms: int, depth: float) -> None:
    # Of fewer arms a star may pass for two or three particles.
    assert count_of(star(arms, depth)) == 1


def test_rods_that_cross_are_not_cut_into_two_hooks() -> None:
    crossed = rod(200, 0.2, 150, 24) | rod(200, 0.2 + np.pi / 2, 150, 24)
    assert count_of(crossed) == 1


def test_parts_are_connected_whatever_the_mask() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        circles = [(*rng.uniform(20, 140, 2), rng.uniform(6, 22)) for _ in range(12)]
        holes = discs(160, *((*rng.uniform(0, 160, 2), 3) for _ in range(12)))
        mask = jagged(discs(160, *circles) & ~holes, rng)
        parts = parted_at_notches(mask.astype(np.int32))
        np.testing.assert_array_equal(parts > 0, mask)
        for number in range(1, parts.max() + 1):
            assert ndimage.label(parts == number)[1] == 1


def test_noise_and_what_is_too_small_are_left_alone() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (512, 512))
    assert count_of(largest(ndimage.gaussian_filter(noise, 1.5) > -0.05)) == 1
    speck = np.zeros((9, 9), np.bool_)
    speck[2:5, 2:7] = True
    assert count_of(speck) == 1
    two_pieces = discs(60, (20, 20, 8), (40, 40, 8))
    assert count_of(two_pieces) == 1  # one number of the caller's: not ours to part
    for shape in ((9, 9), (0, 5)):
        assert not parted_at_notches(np.zeros(shape, np.int32)).any()


def test_a_large_particle_with_many_at_its_rim_is_parted_from_all_of_them() -> None:
    ring = [(256 + 190 * np.sin(a), 256 + 190 * np.cos(a)) for a in np.arange(24) / 3.9]
    rosette = discs(512, (256, 256, 182), *((y, x, 16) for y, x in ring))
    assert count_of(rosette) == 25


def test_more_parts_than_any_clump_has_are_left_alone() -> None:
    pair = discs(40, (18, 12, 8), (18, 26, 8)).astype(np.int32)
    assert parted_at_notches(pair).max() == 2
    many = np.kron(np.arange(1, 1025).reshape(32, 32), np.ones((40, 40), np.int32))
    many = np.where(np.tile(pair, (32, 32)) > 0, many, 0).astype(np.int32)
    assert parted_at_notches(many).max() == 1024
