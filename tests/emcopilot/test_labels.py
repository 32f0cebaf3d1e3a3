"""Components, specks, holes and the numbers that labels get."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emcopilot.labels import MIN_AREA_PX, label_particles


def discs(shape: tuple[int, int], *circles: tuple[float, float, float]) -> NDArray:
    """Draw circles (y, x, radius) as a bool mask: pixels whose centre lies inside."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, np.bool_)
    for cy, cx, radius in circles:
        mask |= np.hypot(y - cy, x - cx) <= radius
    return mask


def numbers(labels: NDArray[np.int32]) -> list[int]:
    return np.unique(labels).tolist()


def test_apart_particles_get_numbers_without_gaps() -> None:
    labels = label_particles(discs((80, 120), (20, 20, 8), (60, 30, 5), (40, 90, 12)))
    assert labels.dtype == np.int32
    assert numbers(labels) == [0, 1, 2, 3]


def test_threshold_decides_what_is_particle() -> None:
    probability = np.zeros((20, 40), np.uint8)
    probability[5:15, 5:15] = 127
    probability[5:15, 25:35] = 128
    assert label_particles(probability).max() == 1
    assert label_particles(probability, threshold=100).max() == 2


def test_probability_and_its_mask_give_the_same_labels() -> None:
    mask = discs((64, 64), (20, 20, 9), (44, 44, 11))
    probability = np.where(mask, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(label_particles(mask), label_particles(probability))


def test_specks_are_background_and_leave_no_gap_in_the_numbers() -> None:
    mask = discs((60, 60), (30, 30, 8), (50, 50, 6))
    mask[2:4, 2:4] = True  # 4 px, as a detector spike leaves
    mask[5, 40] = True
    labels = label_particles(mask)
    assert numbers(labels) == [0, 1, 2]
    assert labels[2, 2] == labels[5, 40] == 0
    assert label_particles(mask, min_area_px=1).max() == 4


def test_every_disc_of_4_px_is_large_enough() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        y, x = 8 + rng.uniform(-0.5, 0.5, 2)
        assert discs((16, 16), (y, x, 2.0)).sum() >= MIN_AREA_PX


def test_corners_do_not_join() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[2:10, 2:10] = mask[10:18, 10:18] = True
    assert label_particles(mask).max() == 2


@pytest.mark.parametrize("value", [0, 255])
def test_uniform_frames_are_safe(value: int) -> None:
    labels = label_particles(np.full((300, 400), value, np.uint8))
    assert labels.max() == (1 if value else 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (0, 0), (0, 9), (2, 2)])
def test_thin_and_empty_frames_are_safe(shape: tuple[int, int]) -> None:
    assert label_particles(np.full(shape, 255, np.uint8)).shape == shape


def test_only_one_frame_at_a_time() -> None:
    with pytest.raises(ValueError, match=r"shape \(H, W\)"):
        label_particles(np.zeros((2, 8, 8), np.uint8))


def test_a_hollow_disc_is_one_full_particle() -> None:
    ring = discs((80, 80), (40, 40, 25)) & ~discs((80, 80), (40, 40, 14))
    labels = label_particles(ring)
    assert labels.max() == 1
    assert labels[40, 40] == 1


def test_a_particle_inside_a_ring_keeps_its_pixels() -> None:
    ring = discs((80, 80), (40, 40, 25)) & ~discs((80, 80), (40, 40, 16))
    labels = label_particles(ring | discs((80, 80), (40, 40, 6)))
    assert labels.max() == 2
    assert labels[40, 40] != labels[40, 18]
    np.testing.assert_array_equal(
        labels == labels[40, 40], discs((80, 80), (40, 40, 6))
    )


def test_a_wreath_of_discs_is_not_filled() -> None:
    angles = np.arange(8) * np.pi / 4
    circles = [(60 + 30 * np.sin(a), 60 + 30 * np.cos(a), 12.0) for a in angles]
    labels = label_particles(discs((120, 120), *circles))
    assert labels.max() == 8
    assert labels[60, 60] == 0


def test_all_mask_pixels_of_a_split_clump_are_labelled() -> None:
    mask = discs((60, 90), (30, 25, 15), (30, 54, 15), (30, 77, 9))
    labels = label_particles(mask)
    assert labels.max() == 3
    np.testing.assert_array_equal(labels > 0, mask)


def test_ten_thousand_particles_are_told_apart() -> None:
    y, x = np.mgrid[:1200, :1200]
    mask = np.hypot(y % 12 - 6, x % 12 - 6) < 4.2
    labels = label_particles(mask)
    assert labels.max() == 10_000
    assert len(np.unique(labels)) == 10_001


def test_noise_gives_labels_without_gaps() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    labels = label_particles(noise)
    assert numbers(labels) == list(range(int(labels.max()) + 1))


def test_the_input_is_left_alone() -> None:
    mask = discs((40, 60), (20, 20, 10), (20, 39, 10))
    before = mask.copy()
    label_particles(mask)
    np.testing.assert_array_equal(mask, before)
