"""What every frame looks like to the network, whatever the detector."""

import numpy as np
import pytest

from models.preprocess import normalise


def frame(side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(3)
    pixels = rng.normal(1000, 30, (side, side))
    pixels[20:50, 30:60] += 400
    return pixels


def test_gain_and_offset_drop_out() -> None:
    # float32 keeps 7 digits of counts that the offset makes 10 times as large.
    np.testing.assert_allclose(
        normalise(frame() * 7.5 + 900), normalise(frame()), atol=1e-5
    )


def test_inverted_contrast_gives_the_inverted_frame() -> None:
    np.testing.assert_allclose(normalise(-frame()), -normalise(frame()), atol=1e-5)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64]
)
def test_bit_depth_does_not_matter(dtype: type) -> None:
    counts = np.rint(frame() / 8)
    np.testing.assert_allclose(
        normalise(counts.astype(dtype)), normalise(counts), atol=1e-5
    )


def test_the_median_is_zero_and_noise_has_unit_spread() -> None:
    noise = np.random.default_rng(0).normal(50, 9, (512, 512))
    result = normalise(noise)
    assert np.median(result) == pytest.approx(0, abs=1e-6)
    # The tail percentiles of 262,144 samples scatter by about 1 %.
    assert result.std() == pytest.approx(1, rel=0.03)


def test_hot_pixels_do_not_dim_the_rest() -> None:
    clean = frame()
    hot = clean.copy()
    hot[5, 5], hot[70, 70] = 1e7, -1e7
    # Two of 9,216 pixels shift the tail percentiles by a few ranks of the noise.
    np.testing.assert_allclose(normalise(hot)[20:50], normalise(clean)[20:50], atol=0.2)
    assert np.abs(normalise(hot)).max() == 10


@pytest.mark.parametrize("value", [0, 7, 1e-30, -3e38, np.nan, np.inf, -np.inf])
def test_a_constant_frame_is_zero(value: float) -> None:
    assert not normalise(np.full((20, 30), value)).any()


def test_a_nearly_constant_float_frame_is_not_blown_up() -> None:
    pixels = np.full((40, 40), 1e6, np.float32)
    pixels[::2] = np.nextafter(np.float32(1e6), np.float32(2e6))
    assert np.abs(normalise(pixels)).max() < 1


def test_pixels_that_are_not_finite_become_the_median() -> None:
    pixels = frame()
    pixels[0, :5] = np.nan, np.inf, -np.inf, np.nan, np.inf
    result = normalise(pixels)
    assert np.isfinite(result).all()
    assert np.abs(result[0, :5]).max() < 0.01


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (0, 5), (2, 2)])
def test_odd_shapes_are_kept_and_finite(shape: tuple[int, int]) -> None:
    result = normalise(np.random.default_rng(1).integers(0, 99, shape))
    assert result.shape == shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()


@pytest.mark.parametrize("factor", [1e-300, 1e-20, 1e20, 1e300])
def test_extreme_counts_stay_finite(factor: float) -> None:
    result = normalise(frame() * factor)
    assert np.isfinite(result).all()
    assert np.abs(result).max() <= 10


def test_one_small_particle_in_a_large_frame_is_not_clipped() -> None:
    pixels = np.random.default_rng(2).normal(0, 1, (1024, 1024))
    y, x = np.ogrid[:1024, :1024]
    pixels[(y - 500) ** 2 + (x - 500) ** 2 <= 20**2] += 30
    # 1,257 of 1,048,576 px are above the 0.1 % that the range leaves out.
    assert normalise(pixels)[500, 500] < 10


def test_the_input_is_left_untouched() -> None:
    pixels = frame()
    pixels[0, 0] = np.nan
    before = pixels.copy()
    normalise(pixels)
    np.testing.assert_array_equal(pixels, before)
