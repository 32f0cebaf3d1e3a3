"""TIA series (.ser) and their headers (.emi), one image at a time.

Written here because rosettasciio reads a whole series at once; the layout follows the
description of the format by Chris Boothroyd. Images are stored bottom row first.
"""

import re
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import DecodeError, RefusedError
from emcopilot.formats.page import Contents, Page, Source
from emcopilot.formats.units import pixel_size_nm

EMI_ALONE = (
    "a TIA header file: its images are in the .ser files beside it, "
    "which are read on their own"
)
SPECTRA = 0x4120
TIMED_TAGS = (0x4152, 0x4142)
"""Tags that hold the time (and, the second, the position) of one element."""
MAX_ELEMENTS = 1_000_000
_TYPES = {
    1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8",
    9: "<c8", 10: "<c16",
}  # fmt: skip
_ELEMENT = struct.Struct("<ddlddlhll")
"""Offset, step and element of x, then y; type; width; height."""


@dataclass(frozen=True, slots=True)
class _Series:
    elements_kind: int
    offsets: tuple[int, ...]
    tag_offsets: tuple[int, ...]
    dimension_sizes: tuple[int, ...]


def open_ser(source: Source, keep: ExitStack) -> Contents:
    """Open one .ser series; each element is a page.

    Raises
    ------
    RefusedError
        If it holds spectra, or a two-dimensional scan of images (4-D data).
    DecodeError
        If the headers do not fit the file.
    """
    file = keep.enter_context(source.path.open("rb"))
    series = _read_header(file, source)
    if series.elements_kind == SPECTRA:
        raise RefusedError(
            f"{source.name} holds spectra, not images; "
            "acquire the survey image as a file of its own"
        )
    if sum(size > 1 for size in series.dimension_sizes) > 1:
        raise RefusedError(
            f"{source.name} is 4-D: a scan of images; EMcopilot reads 2-D images"
        )
    start = _time(file, series, 0)
    pages = [_page(file, source, series, i, start) for i in range(len(series.offsets))]
    return Contents("TIA series", pages)


def open_emi(source: Source, keep: ExitStack) -> Contents:
    """Open all series that an .emi header belongs to, in their order."""
    # A blob on the server has no extension, and its folder no series: it is not searched.
    beside = _series_beside(source.path) if source.path.suffix else []
    if not beside:
        raise RefusedError(EMI_ALONE)
    pages: list[Page] = []
    skipped: list[str] = []
    for path in beside:
        series = Source(path, path.name, path.stat().st_size)
        try:
            pages.extend(open_ser(series, keep).pages)
        except RefusedError as error:
            skipped.append(str(error))
    return Contents("TIA header", pages, tuple(skipped))


def _series_beside(path: Path) -> list[Path]:
    pattern = re.compile(re.escape(path.stem) + r"_(\d+)\.ser", re.IGNORECASE)
    numbered = [
        (int(match[1]), beside)
        for beside in path.parent.iterdir()
        if (match := pattern.fullmatch(beside.name))
    ]
    return [beside for _, beside in sorted(numbered)]


def _read_header(file: BinaryIO, source: Source) -> _Series:
    order, magic, version, kind, _, total, valid = _take(file, "<HHHLLLL", source)
    if order != 0x4949 or magic != 0x0197:
        raise DecodeError(f"{source.name}: not a TIA series, its first bytes differ")
    offset_type = "<L" if version < 0x220 else "<Q"  # 64-bit since TIA 4.7.3
    (table,) = _take(file, offset_type, source)
    (dimensions,) = _take(file, "<L", source)
    if valid == 0 or total > MAX_ELEMENTS or valid > total or dimensions > 8:
        raise DecodeError(
            f"{source.name}: header states {valid} valid of {total} elements in "
            f"{dimensions} dimensions; the acquisition may have been stopped at once"
        )
    sizes = tuple(_take_dimension(file, source) for _ in range(dimensions))
    file.seek(table)
    width = struct.calcsize(offset_type)
    entries = np.frombuffer(file.read(2 * total * width), f"<u{width}")
    if entries.size < valid:
        raise DecodeError(f"{source.name}: its table of elements was cut short")
    numbers = tuple(int(entry) for entry in entries)
    return _Series(kind, numbers[:valid], numbers[total : total + valid], sizes)


def _take_dimension(file: BinaryIO, source: Source) -> int:
    (size, *_) = _take(file, "<LddL", source)
    for _ in range(2):  # a description and a unit, each with its length before it
        (length,) = _take(file, "<L", source)
        file.seek(min(length, source.size), 1)
    return int(size)


def _page(
    file: BinaryIO, source: Source, series: _Series, index: int, start: int | None
) -> Page:
    file.seek(series.offsets[index])
    _, step_x, _, _, step_y, _, kind, width, height = _ELEMENT.unpack(
        _exactly(file, _ELEMENT.size, source)
    )
    if kind not in _TYPES or width < 1 or height < 1:
        raise DecodeError(
            f"{source.name}: element {index} states type {kind}, {height}x{width} px"
        )
    dtype = np.dtype(_TYPES[kind])
    now = _time(file, series, index)
    data_start = series.offsets[index] + _ELEMENT.size
    return Page(
        shape=(height, width),
        dtype=dtype,
        read=partial(_read, file, source, data_start, (height, width), dtype),
        # Diffraction patterns are stored in 1/m without saying so; read as metres their
        # steps are thousands of kilometres, which no pixel size may be.
        pixel_size_nm=pixel_size_nm(step_y, step_x, "m", "m"),
        time_s=None if now is None or start is None else float(now - start),
    )


def _read(
    file: BinaryIO,
    source: Source,
    start: int,
    shape: tuple[int, int],
    dtype: np.dtype[np.generic],
) -> NDArray[np.generic]:
    file.seek(start)
    raw = _exactly(file, shape[0] * shape[1] * dtype.itemsize, source)
    return np.frombuffer(raw, dtype).reshape(shape)[::-1]


def _time(file: BinaryIO, series: _Series, index: int) -> int | None:
    """Unix time of one element, to the second; None where the series has none."""
    if index >= len(series.tag_offsets) or len(series.offsets) < 2:
        return None
    file.seek(series.tag_offsets[index])
    raw = file.read(8)
    if len(raw) < 8:
        return None
    kind, _, unix_s = struct.unpack("<HHL", raw)
    return unix_s if kind in TIMED_TAGS and unix_s else None


def _take(file: BinaryIO, layout: str, source: Source) -> tuple[int, ...]:
    return struct.unpack(layout, _exactly(file, struct.calcsize(layout), source))


def _exactly(file: BinaryIO, count: int, source: Source) -> bytes:
    if file.tell() + count > source.size:  # checked before the memory is taken
        raise DecodeError(
            f"{source.name} ends at byte {source.size}, its header promises more: "
            "it was cut short; copy it again"
        )
    return file.read(count)
