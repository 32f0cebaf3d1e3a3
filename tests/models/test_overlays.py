"""Pictures: right colours at the right places, for any kind of counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcopilot.errors import ConfigError
from models.overlays import BOTH_RGB, MODEL_RGB, TRUTH_RGB, save_overlay


def outlines(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Truth in row 3, answer in column 5; they meet at one pixel."""
    truth, answer = np.zeros(shape, bool), np.zeros(shape, bool)
    truth[3], answer[:, 5] = True, True
    return truth, answer


def drawn(folder: Path, pixels: np.ndarray, caption: str = "best: a") -> np.ndarray:
    truth, answer = outlines(pixels.shape)
    path = folder / "overlay.png"
    save_overlay(path, pixels, truth=truth, answer=answer, caption=caption)
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "?"])
def test_outlines_lie_on_the_pixels_they_belong_to(tmp_path: Path, dtype: str) -> None:
    pixels = (np.arange(96.0).reshape(12, 8) * 2).astype(dtype)
    picture = drawn(tmp_path, pixels)
    # 12 px a side are shown 80 times as large, under a strip for the words.
    image = picture[-960:, :640]
    assert image[3 * 80 + 40, 2 * 80 + 40].tolist() == list(TRUTH_RGB)
    assert image[7 * 80 + 40, 5 * 80 + 40].tolist() == list(MODEL_RGB)
    assert image[3 * 80 + 40, 5 * 80 + 40].tolist() == list(BOTH_RGB)
    red, green, blue = image[7 * 80 + 40, 2 * 80 + 40].tolist()
    assert red == green == blue
    strip = picture[:-960]
    assert all((strip == colour).all(axis=2).any() for colour in (TRUTH_RGB, MODEL_RGB))


def test_a_large_image_is_reduced_and_its_outlines_stay_whole(tmp_path: Path) -> None:
    picture = drawn(tmp_path, np.random.default_rng(0).normal(size=(4100, 100)))
    height = -(-4100 // 3)
    assert picture.shape[0] == height + 26
    image = picture[-height:]
    assert image[1, 10].tolist() == list(TRUTH_RGB)
    assert (image[100:, 1] == MODEL_RGB).all()


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_counts_without_contrast_are_drawn_too(tmp_path: Path, value: float) -> None:
    picture = drawn(tmp_path, np.full((8, 8), value))
    assert picture[-60, 60].tolist() == [127] * 3


def test_a_lone_bright_pixel_and_a_gap_are_drawn(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40), np.float32)
    pixels[20, 20], pixels[30, 30] = 1.0, np.nan
    picture = drawn(tmp_path, pixels)[-960:]
    assert picture[20 * 24 + 12, 20 * 24 + 12].tolist() == [255] * 3
    assert picture[30 * 24 + 12, 30 * 24 + 12].tolist() == [0] * 3


def test_words_that_are_wider_than_the_image_are_not_cut(tmp_path: Path) -> None:
    narrow = drawn(tmp_path, np.zeros((8, 8)))
    wide = drawn(tmp_path, np.zeros((8, 8)), caption="a name " * 20)
    assert wide.shape[1] > narrow.shape[1]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        drawn(tmp_path / "missing", np.zeros((8, 8)))
