import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rsciio import mrc, tiff

from emcopilot.frame_files import deliver, mrc_bytes, tiff_bytes

# The public reader of MRC leaves its file open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]

FRAME = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
STACK = np.stack([FRAME, FRAME + 1, FRAME + 2])


def stored(tmp_path: Path, content: bytes, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("pixels", [FRAME, FRAME.astype(np.uint8)])
def test_a_tiff_keeps_pixels_and_pixel_size(tmp_path: Path, pixels: np.ndarray) -> None:
    path = stored(tmp_path, tiff_bytes(pixels, 0.2, "HAADF"), "frame.tif")
    with tifffile.TiffFile(path) as tif:
        assert tif.imagej_metadata["unit"] == "nm"
        assert "Modality=HAADF" in tif.imagej_metadata["Info"]
        per_nm, one = tif.pages[0].tags["XResolution"].value
        assert one / per_nm == pytest.approx(0.2)
        assert np.array_equal(tif.asarray(), pixels)
        assert tif.asarray().dtype == pixels.dtype


def test_another_library_reads_the_same_tiff_scale(tmp_path: Path) -> None:
    path = stored(tmp_path, tiff_bytes(FRAME, 0.137, "BF"), "frame.tif")
    axes = tiff.file_reader(str(path))[0]["axes"]
    # It takes ImageJ's scale but knows only ImageJ's "micron" by name.
    assert [axis["scale"] for axis in axes] == pytest.approx([0.137, 0.137], rel=1e-5)


def test_a_tiff_stack_has_a_page_per_frame_and_a_time_axis(tmp_path: Path) -> None:
    path = stored(tmp_path, tiff_bytes(STACK, 0.2, "BF", 0.5), "stack.tif")
    with tifffile.TiffFile(path) as tif:
        assert np.array_equal(tif.asarray(), STACK)
        assert tif.imagej_metadata["finterval"] == 0.5
        assert tif.imagej_metadata["frames"] == 3


@pytest.mark.parametrize("pages", [FRAME, STACK, STACK.astype(np.uint8)])
def test_an_mrc_keeps_pixels_and_pixel_size(tmp_path: Path, pages: np.ndarray) -> None:
    path = stored(tmp_path, mrc_bytes(pages, 0.2, "HAADF"), "frame.mrc")
    (signal,) = mrc.file_reader(str(path))
    assert np.array_equal(np.squeeze(signal["data"]), np.squeeze(pages))
    for axis in signal["axes"][-2:]:
        assert axis["units"] == "nm"
        assert axis["scale"] == pytest.approx(0.2)


def test_an_mrc_header_follows_the_standard() -> None:
    content = mrc_bytes(STACK, 0.2, "HAADF")
    assert len(content) == 1024 + STACK.nbytes
    assert struct.unpack_from("<4i", content) == (64, 48, 3, 6)
    # Cell lengths are in angstrom: 64 px of 2 angstrom.
    assert struct.unpack_from("<3f", content, 40) == pytest.approx((128, 96, 6))
    assert struct.unpack_from("<3f", content, 76) == pytest.approx(
        (STACK.min(), STACK.max(), STACK.mean())
    )
    assert content[208:216] == b"MAP \x44\x44\0\0"
    assert struct.unpack_from("<i", content, 108) == (20141,)


def test_a_renamed_file_was_never_half_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    deliver(path, b"x" * 1000, "rename")
    assert path.read_bytes() == b"x" * 1000
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    path.mkdir()  # a file cannot replace a folder
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's choice
        deliver(path, b"x", "rename")
    assert list(tmp_path.iterdir()) == [path]


def test_a_slow_file_pauses_half_written(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    writer = threading.Thread(target=deliver, args=(path, b"x" * 1000, "slow", 0.5))
    writer.start()
    seen: set[int] = set()
    while writer.is_alive():
        seen.add(path.stat().st_size if path.exists() else 0)
        time.sleep(0.02)
    writer.join()
    assert 400 in seen
    assert path.stat().st_size == 1000


def test_an_interrupted_pause_still_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)  # the clock, not our code
    path = tmp_path / "frame.tif"
    with pytest.raises(KeyboardInterrupt):
        deliver(path, b"x" * 1000, "slow")
    assert path.read_bytes() == b"x" * 1000
