"""Pictures for the eye: robust contrast, whole-factor reduction, nothing on the frame moves."""

import io

import numpy as np
import pytest
from PIL import Image

from gpu_server.picture import overlay, picture, png, reduced, shown_factor


def test_a_few_hot_pixels_do_not_decide_the_contrast() -> None:
    pixels = np.linspace(100, 200, 128 * 128).reshape(128, 128)
    pixels[5, 5], pixels[9, 9] = 65535, -1000
    shown = picture(pixels)
    assert shown[0, 0] < 10
    assert shown[-1, -1] > 245
    assert 110 < shown[64, 64] < 145


def test_constant_and_empty_of_numbers_frames_are_plain() -> None:
    assert np.ptp(picture(np.full((16, 16), 7, np.uint16))) == 0
    assert np.ptp(picture(np.full((16, 16), np.nan, np.float32))) == 0


def test_a_nearly_constant_frame_shows_the_pixels_that_differ() -> None:
    pixels = np.zeros((256, 256), np.uint8)
    pixels[100:103, 100:103] = 9  # 0.01 % of the frame, beyond the percentiles
    shown = picture(pixels)
    assert shown[101, 101] > shown[0, 0]


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "u4", "f4", "f8"])
def test_every_detector_type_gives_the_same_picture(dtype: str) -> None:
    ramp = np.tile(np.arange(0, 100), (100, 1))
    expected = picture(ramp.astype(np.float64)).astype(int)
    assert np.abs(picture(ramp.astype(dtype)).astype(int) - expected).max() <= 1


def test_what_is_not_a_number_is_black_and_spoils_nothing_else() -> None:
    pixels = np.tile(np.arange(0.0, 100.0), (100, 1))
    clean = picture(pixels).astype(int)
    pixels[40, 40] = np.nan
    pixels[41, 41] = np.inf
    shown = picture(pixels).astype(int)
    assert shown[40, 40] == 0
    away = np.ones(shown.shape, bool)
    away[40:42, 40:42] = False
    assert np.abs(shown - clean)[away].max() <= 2


def test_reduction_keeps_the_mean_and_covers_the_cut_edge() -> None:
    pixels = np.random.default_rng(0).uniform(0, 1000, (2051, 1030)).astype(np.float32)
    small = reduced(pixels, 3)
    assert small.shape == (684, 344)
    assert small[0, 0] == pytest.approx(pixels[:3, :3].mean(), rel=1e-5)
    # Row 683 holds rows 2049 and 2050 alone; the last is repeated to fill the block.
    edge = np.vstack((pixels[2049:2051, :3], pixels[2050:2051, :3]))
    assert small[683, 0] == pytest.approx(edge.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((1, 1), 1),
        ((2048, 2048), 1),
        ((2049, 10), 2),
        ((4096, 4096), 2),
        ((16384, 8), 8),
    ],
)
def test_frames_are_shown_at_2048_px_at_most(shape, factor) -> None:
    assert shown_factor(shape) == factor


def test_overlay_colours_by_what_counts() -> None:
    square = np.array([(10, 10), (20, 10), (20, 20), (10, 20)], float)
    polygons = [square, square + 30, square + np.array((60, 0)), np.empty((0, 2))]
    drawn = overlay(
        np.zeros((100, 100), np.uint8),
        polygons,
        touches_border=np.array([False, True, False, False]),
        rejected=np.array([False, False, True, False]),
    )
    counted, cut, rejected = drawn[10, 15], drawn[40, 45], drawn[10, 75]
    assert int(counted[2]) - int(counted[0]) > 100
    assert len(set(cut.tolist())) == 1
    assert int(rejected[0]) - int(rejected[2]) > 100
    assert drawn[15, 15].tolist() == [0, 0, 0]


def test_png_is_lossless() -> None:
    shown = np.random.default_rng(1).integers(0, 256, (33, 44)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(shown)))), shown)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_counts_by_table_come_out_as_by_arithmetic(dtype: type) -> None:
    rng = np.random.default_rng(4)
    for counts in (
        rng.poisson(90, (700, 900)),
        rng.integers(0, np.iinfo(dtype).max + 1, (64, 80)),
        np.where(rng.random((300, 300)) > 0.9999, 200, 7),  # nearly constant
        np.full((20, 30), 5),
    ):
        pixels = counts.astype(dtype)
        np.testing.assert_array_equal(picture(pixels), picture(pixels.astype(np.int32)))
