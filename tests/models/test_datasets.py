"""Labelled images: how they are found, read and split."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcopilot.errors import ConfigError, DecodeError
from models.datasets import (
    Pair,
    data_hash,
    find_pairs,
    is_held_out,
    label,
    load_frames,
    read_pair,
    read_pixels,
)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for stem in ("b", "a"):
        tifffile.imwrite(images / f"{stem}.tif", np.eye(8, dtype=np.uint16) * 500)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(masks / f"{stem}.png")
    return images, masks


def test_images_and_masks_meet_by_stem(folders: tuple[Path, Path]) -> None:
    pairs = find_pairs(*folders)
    assert [(p.name, p.image.suffix, p.mask.suffix) for p in pairs] == [
        ("a", ".tif", ".png"),
        ("b", ".tif", ".png"),
    ]


def test_an_image_without_a_mask_is_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "b.png").unlink()
    with pytest.raises(ConfigError, match=r"1 of them without a mask .*first: b"):
        find_pairs(*folders)


def test_a_doubled_stem_is_named(folders: tuple[Path, Path]) -> None:
    Image.new("L", (8, 8)).save(folders[0] / "a.png")
    with pytest.raises(ConfigError, match="share a stem"):
        find_pairs(*folders)


def test_an_empty_or_missing_folder_is_named(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="0 images"):
        find_pairs(_empty(folders[0].parent / "none"), folders[1])
    with pytest.raises(ConfigError, match="no such folder"):
        find_pairs(folders[0] / "missing", folders[1])


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_any_value_above_zero_is_particle(tmp_path: Path) -> None:
    image, mask = tmp_path / "a.tif", tmp_path / "m.png"
    tifffile.imwrite(image, np.zeros((2, 3), np.uint8))
    Image.fromarray(np.array([[0, 1, 2], [3, 65535, 0]], np.uint16)).save(mask)
    _, particle = read_pair(Pair(image, mask))
    assert particle.tolist() == [[False, True, True], [True, True, False]]


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.uint8))
    Image.new("L", (5, 5)).save(tmp_path / "a.png")
    with pytest.raises(DecodeError, match=r"\(4, 5\) px but its mask is \(5, 5\)"):
        read_pair(Pair(tmp_path / "a.tif", tmp_path / "a.png"))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_png_becomes_one_plane(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (6, 4), 1).save(path)
    assert read_pixels(path).shape == (4, 6)


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "a.png")
    # BT.601: red carries 0.299 of the brightness.
    assert read_pixels(tmp_path / "a.png")[0, 0] == pytest.approx(0.299 * 255)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_what_is_no_image_is_an_error_with_its_name(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="broken"):
        read_pixels(path)


def test_frames_are_normalised_whole(folders: tuple[Path, Path]) -> None:
    frames = load_frames(find_pairs(*folders))
    assert [frame.name for frame in frames] == ["a", "b"]
    assert frames[0].pixels.dtype == np.float16
    assert np.median(frames[0].pixels) == 0
    assert frames[0].mask.sum() == 8


def test_the_hash_knows_every_pixel() -> None:
    pixels = np.arange(64.0).reshape(8, 8)
    mask = pixels > 50
    other = mask.copy()
    other[0, 0] = True
    first = data_hash([label("a", pixels, mask)])
    assert first == data_hash([label("a", pixels, mask)])
    assert first != data_hash([label("b", pixels, mask)])
    assert first != data_hash([label("a", pixels, other)])


def test_about_a_fifth_is_held_out_whatever_else_is_there() -> None:
    held = [is_held_out(f"10.1000/{n}") for n in range(2000)]
    # Binomial: 400 +- 18.
    assert 330 < sum(held) < 470
    assert held[:50] == [is_held_out(f"10.1000/{n}") for n in range(50)]
    assert held != [is_held_out(f"10.1000/{n}", seed=1) for n in range(2000)]


@pytest.mark.skipif(
    "EMCOPILOT_DATA" not in os.environ, reason="EMCOPILOT_DATA is unset"
)
def test_no_paper_of_the_real_images_is_in_two_splits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from emps import data_folder, read_emps, split

    training, validation = split(read_emps(data_folder()))
    assert {i.doi for i in training}.isdisjoint(i.doi for i in validation)
    assert len(training) + len(validation) == 172
    assert 20 <= len(validation) <= 50
    assert all(i.pair.image.exists() and i.pair.mask.exists() for i in validation)
