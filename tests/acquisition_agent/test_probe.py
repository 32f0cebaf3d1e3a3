import io
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from acquisition_agent.bounded import Source
from acquisition_agent.probe import probe, probe_source
from acquisition_agent.settle import Verdict

PIXELS = (np.arange(64 * 48) % 251).astype(np.uint16).reshape(64, 48)


def judge(data: bytes, extension: str) -> Verdict:
    return probe_source(Source(io.BytesIO(data), len(data)), extension)


def saved_tiff(**options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = options.pop("pixels", PIXELS)
    constructor = {
        key: options.pop(key)
        for key in ("bigtiff", "byteorder", "imagej")
        if key in options
    }
    with tifffile.TiffWriter(buffer, **constructor) as writer:  # pyright: ignore
        writer.write(pixels, **options)  # pyright: ignore
    return buffer.getvalue()


def saved_image(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (90, 80), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def mrc(mode: int = 1, sections: int = 2, extended: int = 256) -> bytes:
    width = {0: 1, 1: 2, 2: 4, 6: 2}[mode]
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, 16, 8, sections, mode)
    struct.pack_into("<i", header, 92, extended)
    header[208:212] = b"MAP "
    return bytes(header) + b"e" * extended + b"p" * (16 * 8 * sections * width)


def dm(version: int) -> bytes:
    """Header, root group, and the eight zeros that DigitalMicrograph puts behind it."""
    body = b"tags" * 100
    length = struct.pack(">I" if version == 3 else ">Q", len(body))
    return struct.pack(">I", version) + length + struct.pack(">I", 1) + body + bytes(8)


def hdf5(version: int, body: int = 2000) -> bytes:
    signature = b"\x89HDF\r\n\x1a\n"
    if version < 2:
        head = bytearray(24 + 4 * version + 32)
        head[:9] = signature + bytes([version])
        head[13] = head[14] = 8
        place = 24 + 4 * version + 16
    else:
        head = bytearray(48)
        head[:11] = signature + bytes([version, 8, 8])
        place = 28
    struct.pack_into("<Q", head, place, len(head) + body)
    return bytes(head) + b"d" * body


def ser(version: int = 0x0220, valid: int = 2, total: int = 2) -> bytes:
    word = "Q" if version == 0x0220 else "I"
    head = struct.pack("<HHH4I", 0x4949, 0x0197, version, 0x4122, 0x4152, total, valid)
    table = len(head) + struct.calcsize("<" + word) + 4
    head += struct.pack("<" + word, table) + struct.pack("<I", 0)
    element = bytes(40) + struct.pack("<HII", 2, 8, 4) + b"x" * 64
    first = table + 2 * total * struct.calcsize("<" + word)
    data = [first + i * len(element) for i in range(valid)] + [0] * (total - valid)
    end = first + valid * len(element)
    tags = [end + 8 * i for i in range(valid)] + [0] * (total - valid)
    places = struct.pack(f"<{2 * total}{word}", *data, *tags)
    return head + places + element * valid + b"t" * 8 * valid


WHOLE = {
    "tiff": (saved_tiff(), "tif"),
    "big endian tiff": (saved_tiff(byteorder=">"), "tif"),
    "bigtiff": (saved_tiff(bigtiff=True), "tif"),
    "tiled tiff": (saved_tiff(tile=(16, 16)), "tif"),
    "many strips": (saved_tiff(rowsperstrip=1), "tiff"),
    "deflated tiff": (saved_tiff(compression="zlib"), "tif"),
    "pages": (
        saved_tiff(pixels=np.stack([PIXELS] * 3), photometric="minisblack"),
        "tif",
    ),
    "imagej stack": (saved_tiff(pixels=np.stack([PIXELS] * 5), imagej=True), "tif"),
    "png": (saved_image("PNG"), "png"),
    "jpeg": (saved_image("JPEG"), "jpg"),
    "mrc": (mrc(), "mrc"),
    "mrc float stack": (mrc(mode=2, sections=5, extended=0), "mrcs"),
    "dm3": (dm(3), "dm3"),
    "dm4": (dm(4), "dm4"),
    "hdf5 v0": (hdf5(0), "emd"),
    "hdf5 v1": (hdf5(1), "emd"),
    "hdf5 v2": (hdf5(2), "emd"),
    "hdf5 v3": (hdf5(3), "emd"),
    "ser old": (ser(0x0210), "ser"),
    "ser new": (ser(0x0220), "ser"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_complete(name: str) -> None:
    assert judge(*WHOLE[name]) is Verdict.COMPLETE


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("part", [0.001, 0.02, 0.3, 0.5, 0.9, 0.97])
def test_a_file_cut_anywhere_is_never_complete(name: str, part: float) -> None:
    data, extension = WHOLE[name]
    cut = data[: max(1, int(len(data) * part))]
    assert judge(cut, extension) is Verdict.INCOMPLETE


@pytest.mark.parametrize("name", ["mrc", "dm3", "hdf5 v0", "hdf5 v2"])
def test_a_file_longer_than_its_header_says_is_left_to_stillness(name: str) -> None:
    data, extension = WHOLE[name]
    assert judge(data + b"more" * 20, extension) is Verdict.UNKNOWN


@pytest.mark.parametrize("extension", ["tif", "png", "dm3", "mrc", "emd", "ser"])
def test_zeros_where_the_header_belongs_mean_it_is_still_to_come(
    extension: str,
) -> None:
    assert judge(bytes(4096), extension) is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    "extension", ["tif", "png", "jpg", "dm3", "emd", "tvips", "emi"]
)
def test_text_under_an_image_name_is_left_to_stillness(extension: str) -> None:
    assert judge(b"This is not an image.\n" * 50, extension) is Verdict.UNKNOWN


def test_a_tiff_whose_first_directory_is_not_written_yet_is_incomplete() -> None:
    assert judge(b"II*\0" + bytes(4) + b"pixels" * 100, "tif") is Verdict.INCOMPLETE


def test_a_tiff_whose_directory_points_at_itself_is_unknown_and_ends() -> None:
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8)
    assert judge(loop, "tif") is Verdict.UNKNOWN


def test_a_tiff_that_claims_a_billion_directories_is_answered_in_time() -> None:
    # Each directory points at the next, two bytes further on.
    body = b"".join(struct.pack("<HI", 0, 8 + 6 * (i + 1)) for i in range(100_000))
    start = time.perf_counter()
    assert judge(b"II*\0\x08\0\0\0" + body, "tif") is Verdict.UNKNOWN
    assert time.perf_counter() - start < 5.0  # 20,000 reads take about 0.1 s


def test_a_vendor_note_behind_the_end_does_not_block_a_tiff_for_ever() -> None:
    whole = saved_tiff(extratags=[(65000, "s", 0, "vendor" * 20, True)])
    entry = whole.index(struct.pack("<HH", 65000, 2))
    broken = bytearray(whole)
    struct.pack_into("<I", broken, entry + 8, len(whole) + 1000)
    assert judge(bytes(broken), "tif") is Verdict.UNKNOWN


def test_an_aborted_series_is_left_to_stillness() -> None:
    assert judge(ser(valid=1, total=3), "ser") is Verdict.UNKNOWN


def test_hdf5_that_says_it_is_open_for_writing_is_incomplete() -> None:
    data = bytearray(hdf5(3))
    data[11] = 1
    assert judge(bytes(data), "emd") is Verdict.INCOMPLETE


def test_a_jpeg_with_something_behind_it_is_left_to_stillness() -> None:
    data, _ = WHOLE["jpeg"]
    assert judge(data + b"vendor data" * 9, "jpg") is Verdict.UNKNOWN


def test_an_mrc_header_without_sections_waits_for_its_writer() -> None:
    assert judge(mrc(sections=0), "mrc") is Verdict.INCOMPLETE


def test_a_probe_reads_from_disk_and_names_its_error(tmp_path: Path) -> None:
    path = tmp_path / "FRAME.TIF"
    path.write_bytes(saved_tiff())
    assert probe(path) is Verdict.COMPLETE
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "absent.tif")


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=600), st.sampled_from(["tif", "mrc", "dm4", "emd", "ser", "png"])
)
@example(b"", "tif")
def test_any_bytes_end_in_a_verdict(data: bytes, extension: str) -> None:
    assert judge(data, extension) in Verdict


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damaged_files_end_in_a_verdict(name: str, draw: st.DataObject) -> None:
    whole, extension = WHOLE[name]
    damaged = bytearray(whole)
    for _ in range(draw.draw(st.integers(1, 8))):
        # Headers lie in the first and, for some TIFFs, in the last bytes.
        near = draw.draw(st.integers(0, min(len(damaged), 200) - 1))
        at = draw.draw(st.sampled_from([near, len(damaged) - 1 - near]))
        damaged[at] = draw.draw(st.integers(0, 255))
    assert judge(bytes(damaged), extension) in Verdict


def test_every_real_image_is_complete_or_left_to_stillness() -> None:
    data = os.environ.get("EMCOPILOT_DATA")
    if not data:
        pytest.skip("set EMCOPILOT_DATA to the folder of real micrographs")
    kinds = {".tif", ".png", ".jpg", ".dm3", ".dm4", ".emd", ".ser", ".mrc"}
    paths = [p for p in Path(data).rglob("*") if p.suffix in kinds]
    assert len(paths) > 100
    verdicts = {path.name: probe(path) for path in paths}
    assert [n for n, v in verdicts.items() if v is Verdict.INCOMPLETE] == []
    # Only a series that was stopped half-way has to be awaited.
    assert [n for n, v in verdicts.items() if v is Verdict.UNKNOWN] == [
        "03_Scanning Preview_1.ser"
    ]
