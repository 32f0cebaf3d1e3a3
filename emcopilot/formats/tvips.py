"""TVIPS streams (.tvips), one image at a time.

A general header of 256 bytes, then frames, each behind a header of its own. The layout is the
one that rosettasciio reads; its reader wants the camera's file name, which a blob on the server
does not have, and its whole stack of libraries.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import DecodeError, RefusedError
from emcopilot.formats.page import Contents, Page, Source

_GENERAL = np.dtype(
    [
        ("size", "<u4"), ("version", "<u4"), ("width", "<u4"), ("height", "<u4"),
        ("bits", "<u4"), ("offset_x", "<u4"), ("offset_y", "<u4"), ("bin_x", "<u4"),
        ("bin_y", "<u4"), ("pixel_nm", "<u4"), ("kilovolts", "<u4"),
        ("magnification", "<u4"), ("frame_header", "<u4"),
    ]
)  # fmt: skip
_FRAME_HEADER_V1 = 12
_FRAME = np.dtype(
    {
        "names": ["unix_s", "ms", "mode"],
        "formats": ["<u4", "<u4", "<u4"],
        "offsets": [4, 8, 24],
    }
)
DIFFRACTION = 2


def open_tvips(source: Source, keep: ExitStack) -> Contents:
    """Open the first part of a stream, the only one with a header.

    Raises
    ------
    RefusedError
        If it is a later part of a stream.
    DecodeError
        If the header does not fit the file.
    """
    part = re.search(r"_(\d{3})\.tvips$", source.name, re.IGNORECASE)
    if part and int(part[1]) > 0:
        raise RefusedError(
            f"{source.name} is part {part[1]} of a TVIPS stream, without the header that "
            "part 000 holds; set the recorder to one file a stream"
        )
    with source.path.open("rb") as file:
        general = np.frombuffer(file.read(_GENERAL.itemsize), _GENERAL)[0]
    bits, first = int(general["bits"]), int(general["size"])
    height, width = int(general["height"]), int(general["width"])
    header = (
        int(general["frame_header"]) if general["version"] == 2 else _FRAME_HEADER_V1
    )
    if bits not in (8, 16) or header < _FRAME_HEADER_V1 or min(height, width) < 1:
        raise DecodeError(
            f"{source.name}: header states {height}x{width} px of {bits} bits behind "
            f"{header} bytes; expected 8 or 16 bits"
        )
    dtype = np.dtype(f"<u{bits // 8}")
    stride = header + height * width * dtype.itemsize
    count = (source.size - first) // stride
    stream = (
        np.memmap(source.path, np.uint8, "r") if count > 0 else np.empty(0, np.uint8)
    )
    heads = [_head(stream, first + i * stride, header) for i in range(count)]
    magnification = float(general["magnification"]) or None
    pages = [
        Page(
            shape=(height, width),
            dtype=dtype,
            read=partial(
                _read, stream, first + i * stride + header, height, width, dtype
            ),
            modality="diffraction" if head.mode == DIFFRACTION else "TEM",
            time_s=head.time_s - heads[0].time_s,
            # Of a pattern it says nothing of the pixels: no table may use it.
            magnification=None if head.mode == DIFFRACTION else magnification,
            binning=float(general["bin_x"]) or None,
            notes=_notes(head.mode),
        )
        for i, head in enumerate(heads)
    ]
    return Contents("TVIPS stream", pages)


@dataclass(frozen=True, slots=True)
class _Head:
    time_s: float
    mode: int


def _head(stream: NDArray[np.uint8], start: int, length: int) -> _Head:
    """Read one frame's header; version 1 knows the time only."""
    size = min(length, _FRAME.itemsize)
    raw = bytes(stream[start : start + size]).ljust(_FRAME.itemsize, b"\0")
    record = np.frombuffer(raw, _FRAME)[0]
    return _Head(
        float(record["unix_s"]) + float(record["ms"]) / 1000, int(record["mode"])
    )


def _notes(mode: int) -> tuple[str, ...]:
    if mode == DIFFRACTION:
        return ("the camera recorded diffraction patterns: sizes stay in px",)
    # The header's "pixel size" is in whole nm, and elsewhere the camera's own pitch.
    return ("a TVIPS stream states no reliable pixel size: give one, or a table",)


def _read(
    stream: NDArray[np.uint8],
    start: int,
    height: int,
    width: int,
    dtype: np.dtype[np.generic],
) -> NDArray[np.generic]:
    raw = stream[start : start + height * width * dtype.itemsize]
    return raw.view(dtype).reshape(height, width)
