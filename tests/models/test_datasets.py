"""Labelled images: how they are found, read and split."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcopilot.errors import ConfigError, DecodeError
from emcopilot.frame_files import mrc_bytes
from models.datasets import (
    Pair,
    data_hash,
    find_pairs,
    is_held_out,
    label,
    load_frames,
    read_marks,
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
    # As on the live path: red carries 0.2126 of the brightness (BT.709), rounded to counts.
    assert read_pixels(tmp_path / "a.png")[0, 0] == 54


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_what_is_no_image_is_an_error_with_its_name(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="broken"):
        read_pixels(path)


def test_a_vendors_file_is_an_image_like_any_other(tmp_path: Path) -> None:
    images, masks = _empty(tmp_path / "images"), _empty(tmp_path / "masks")
    counts = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    (images / "a.mrc").write_bytes(mrc_bytes(np.stack([counts, counts + 1]), 0.5, "BF"))
    (images / "._a.mrc").write_bytes(b"left by another file system")
    (images / "a.json").write_text("{}")
    Image.fromarray((counts > 9000).astype(np.uint8)).save(masks / "a.png")
    (pair,) = find_pairs(images, masks)
    pixels, particle = read_pair(pair)
    np.testing.assert_array_equal(pixels, counts)  # the first frame of two
    assert particle.sum() == 38


def test_an_emi_is_not_counted_beside_its_series(tmp_path: Path) -> None:
    images, masks = _empty(tmp_path / "images"), _empty(tmp_path / "masks")
    for name in ("a.emi", "a_1.ser"):
        (images / name).touch()
    Image.new("L", (4, 4)).save(masks / "a_1.png")
    assert [pair.image.name for pair in find_pairs(images, masks)] == ["a_1.ser"]


def test_a_bitmap_is_read_though_no_microscope_writes_it(tmp_path: Path) -> None:
    marks = np.array([[0, 7], [255, 0]], np.uint8)
    Image.fromarray(marks).save(tmp_path / "m.bmp")
    assert read_marks(tmp_path / "m.bmp").tolist() == marks.tolist()
    assert read_pixels(tmp_path / "m.bmp").tolist() == marks.tolist()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_numbers_of_a_mask_stay_what_they_are(tmp_path: Path, dtype: str) -> None:
    marks = np.array([[0, 1], [3, 200]], dtype)
    tifffile.imwrite(tmp_path / "m.tif", marks)
    read = read_marks(tmp_path / "m.tif")
    assert read.dtype.kind in "iu"
    assert read.tolist() == [[0, 1], [3, 200]]


def test_marks_with_fractions_stay_floats(tmp_path: Path) -> None:
    marks = np.array([[0.0, 0.25], [np.nan, 1e300]])
    tifffile.imwrite(tmp_path / "m.tif", marks)
    read = read_marks(tmp_path / "m.tif")
    assert (read > 0).tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_dark_blue_mark_is_a_mark(tmp_path: Path, mode: str) -> None:
    drawn = Image.new("RGB", (3, 1))
    drawn.putpixel((1, 0), (0, 0, 1))  # its luminance rounds to 0
    (drawn.quantize(4) if mode == "P" else drawn.convert(mode)).save(tmp_path / "m.png")
    assert (read_marks(tmp_path / "m.png") > 0).tolist() == [[False, True, False]]


def test_every_bad_file_is_named_before_training(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.tif").write_bytes(b"II*\0 cut short")
    Image.new("L", (5, 5)).save(folders[1] / "b.png")
    with pytest.raises(
        DecodeError, match=r"2 of 2 .*a\.tif.*b\.tif is \(8, 8\)"
    ) as said:
        load_frames(find_pairs(*folders))
    assert str(folders[0]) in str(said.value)


def test_one_corrupt_image_among_many_is_the_one_named(tmp_path: Path) -> None:
    images, masks = _empty(tmp_path / "images"), _empty(tmp_path / "masks")
    for number in range(40):
        for folder in (images, masks):
            Image.new("L", (4, 4), number).save(folder / f"{number:04d}.png")
    whole = (images / "0023.png").read_bytes()
    (images / "0023.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"1 of 40 images .*0023\.png"):
        load_frames(find_pairs(images, masks))


def test_mixed_depths_train_and_are_judged_together(tmp_path: Path) -> None:
    images, masks = _empty(tmp_path / "images"), _empty(tmp_path / "masks")
    counts = np.random.default_rng(0).integers(0, 200, (16, 16))
    for dtype in ("u1", "u2", "i2", "u4", "f4", "f8"):
        # Gain and offset of the camera differ with its depth; contrast does not.
        gain = 1 if dtype == "u1" else 3
        tifffile.imwrite(images / f"{dtype}.tif", (counts * gain + gain).astype(dtype))
        Image.fromarray((counts > 100).astype(np.uint8)).save(masks / f"{dtype}.png")
    frames = load_frames(find_pairs(images, masks))
    assert len(frames) == 6
    for frame in frames:
        # One unit in the last place of float16 at the values that occur (below 4).
        np.testing.assert_allclose(frame.pixels, frames[0].pixels, atol=2**-9)


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
