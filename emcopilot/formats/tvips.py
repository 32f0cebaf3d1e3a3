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
    layout = _layout(source)
    count = (source.size - layout.first) // layout.stride
    if count <= 0:
        return Contents("TVIPS stream", [])
    stream = np.memmap(source.path, np.uint8, "r")
    heads = [_head(stream, layout, i) for i in range(count)]
    pages = [
        Page(
            shape=layout.shape,
            dtype=layout.dtype,
            read=partial(_read, stream, layout, i),
            modality="diffraction" if head.mode == DIFFRACTION else "TEM",
            time_s=head.time_s - heads[0].time_s,
            # Of a pattern it says nothing of the pixels: no table may use it.
            magnification=None if head.mode == DIFFRACTION else layout.magnification,
            binning=layout.binning,
            notes=_notes(head.mode),
        )
        for i, head in enumerate(heads)
    ]
    return Contents("TVIPS stream", pages)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the frames of a stream lie, all alike."""

    shape: tuple[int, int]
    dtype: np.dtype[np.generic]
    first: int
    """Byte at which the first frame's header begins."""
    header: int
    """Bytes before the pixels of each frame."""
    magnification: float | None
    binning: float | None

    @property
    def pixel_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def stride(self) -> int:
        """Bytes from one frame to the next."""
        return self.header + self.pixel_bytes


@dataclass(frozen=True, slots=True)
class _Head:
    time_s: float
    mode: int


def _layout(source: Source) -> _Layout:
    with source.path.open("rb") as file:
        general = np.frombuffer(file.read(_GENERAL.itemsize), _GENERAL)[0]
    bits, height, width = (int(general[name]) for name in ("bits", "height", "width"))
    header = (
        int(general["frame_header"]) if general["version"] == 2 else _FRAME_HEADER_V1
    )
    if bits not in (8, 16) or header < _FRAME_HEADER_V1 or min(height, width) < 1:
        raise DecodeError(
            f"{source.name}: header states {height}x{width} px of {bits} bits behind "
            f"{header} bytes; expected 8 or 16 bits"
        )
    return _Layout(
        shape=(height, width),
        dtype=np.dtype(f"<u{bits // 8}"),
        first=int(general["size"]),
        header=header,
        magnification=float(general["magnification"]) or None,
        binning=float(general["bin_x"]) or None,
    )


def _head(stream: NDArray[np.uint8], layout: _Layout, index: int) -> _Head:
    """Read one frame's header; version 1 knows the time only."""
    start = layout.first + index * layout.stride
    size = min(layout.header, _FRAME.itemsize)
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
    stream: NDArray[np.uint8], layout: _Layout, index: int
) -> NDArray[np.generic]:
    start = layout.first + index * layout.stride + layout.header
    raw = stream[start : start + layout.pixel_bytes]
    return raw.view(layout.dtype).reshape(layout.shape)
