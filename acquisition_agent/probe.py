"""Is this file complete? Ask the bytes: many formats say how long they must be.

A probe reads a few headers with `struct` and answers complete, incomplete or unknown;
it never looks at pixels. The bytes may be anything, half-written or hostile: reads are
bounded in number and size, chains that bite their tail end in "unknown", and nothing
but OSError of the file itself gets out.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from acquisition_agent.bounded import CutOffError, OddError, Source
from acquisition_agent.probe_tiff import probe_tiff
from acquisition_agent.settle import Verdict
from acquisition_agent.windows import open_shared

_TAIL = 64 * 2**10
_HEADERS_LAST = frozenset(
    ("dm3", "dm4", "emd", "jpeg", "jpg", "mrc", "mrcs", "png", "ser", "tif", "tiff")
)
"""Formats that begin with a magic number: zeros in its place are a file laid out in
advance whose header is still to come."""


def probe(path: Path) -> Verdict:
    """Judge one file by its bytes and, where they are not there yet, by its name.

    Raises
    ------
    OSError
        If the file cannot be read just now.
    """
    with open_shared(path) as file:
        size = file.seek(0, 2)
        return probe_source(Source(file, size), path.suffix[1:].casefold())


def probe_source(source: Source, extension: str) -> Verdict:
    """Judge bytes that carry a file name's extension (lower case, no dot)."""
    head = source.at(0, min(source.size, 16))
    if extension in ("mrc", "mrcs"):
        return _judge(_mrc, source)  # it has no magic number in front
    for magic, of_format in _BY_MAGIC:
        length = min(len(magic), len(head))
        if head[:length] == magic[:length] and length > 0:
            if length < len(magic):
                return Verdict.INCOMPLETE
            return _judge(of_format, source)
    if extension in _HEADERS_LAST and not any(head):
        return Verdict.INCOMPLETE
    return Verdict.UNKNOWN


def _judge(of_format: Callable[[Source], Verdict], source: Source) -> Verdict:
    try:
        return of_format(source)
    except CutOffError:
        return Verdict.INCOMPLETE
    except (OddError, struct.error, OverflowError):
        return Verdict.UNKNOWN


def _by_end(size: int, end: int) -> Verdict:
    """Compare a file with the length that its own header promises."""
    if size < end:
        return Verdict.INCOMPLETE
    # More than promised: a writer that has not updated its header yet, or padding.
    return Verdict.COMPLETE if size == end else Verdict.UNKNOWN


_MRC_BITS = {0: 8, 1: 16, 2: 32, 3: 32, 4: 64, 6: 16, 12: 16, 101: 4}
"""Bits of one pixel by mode; MRC2014 and IMOD's extensions."""


def _mrc(source: Source) -> Verdict:
    """Compare the size with header, extended header and sections (MRC2014)."""
    for order in "<>":
        columns, rows, sections, mode = source.unpack(order + "4i", 0)
        (extended,) = source.unpack(order + "i", 92)
        if mode in _MRC_BITS and extended >= 0 and max(columns, rows) < 2**20:
            break
    else:
        raise OddError
    source.at(0, 1024)
    if min(columns, rows, sections) < 0:
        raise OddError
    if 0 in (columns, rows, sections):
        return Verdict.INCOMPLETE  # the writer fills the header in when it closes
    row = (columns * _MRC_BITS[mode] + 7) // 8
    return _by_end(source.size, 1024 + extended + row * rows * sections)


def _dm(source: Source) -> Verdict:
    """Compare the size with the length of the root tag group (DM3 and DM4)."""
    (version,) = source.unpack(">I", 0)
    length_as, header = (">I", 12) if version == 3 else (">Q", 16)
    (length,) = source.unpack(length_as, 4)
    if length == 0:
        return Verdict.INCOMPLETE
    end = header + length
    # Up to 8 zero bytes close the root group; not every writer counts them in.
    if end <= source.size <= end + 8:
        return Verdict.COMPLETE
    return _by_end(source.size, end)


def _hdf5(source: Source) -> Verdict:
    """Compare the size with the end-of-file address of the superblock."""
    (version,) = source.unpack("B", 8)
    if version in (0, 1):
        (width,) = source.unpack("B", 13)
        place = 24 + 4 * version + 2 * width
    elif version in (2, 3):
        (width,) = source.unpack("B", 9)
        place = 12 + 2 * width
        if version == 3 and source.unpack("B", 11)[0] & 0b101:
            return Verdict.INCOMPLETE  # open for writing, says the file itself
    else:
        raise OddError
    if width not in (2, 4, 8):
        raise OddError
    return _by_end(source.size, int.from_bytes(source.at(place, width), "little"))


def _ser(source: Source) -> Verdict:
    """Check that every element of a TIA series lies inside the file."""
    version, kind, _, total, valid = source.unpack("<H4I", 4)
    word = "I" if version == 0x0210 else "Q"
    (table,) = source.unpack("<" + word, 22)
    if valid == 0 or valid > total or kind not in (0x4120, 0x4122):
        raise OddError
    places = source.unpack(f"<{2 * total}{word}", table)
    last = max(places[:valid])
    if kind == 0x4122:
        pixel, columns, rows = source.unpack("<HII", last + 40)
        end = last + 50 + columns * rows * _ser_bytes(pixel)
    else:
        pixel, count = source.unpack("<HI", last + 20)
        end = last + 26 + count * _ser_bytes(pixel)
    if max(end, *places[total : total + valid]) > source.size:
        return Verdict.INCOMPLETE
    # A series that was stopped keeps empty places: only stillness can tell it from one
    # that goes on.
    return Verdict.COMPLETE if valid == total else Verdict.UNKNOWN


def _ser_bytes(pixel: int) -> int:
    """Bytes of one value by TIA's data type."""
    sizes = {1: 1, 2: 2, 3: 4, 4: 1, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 16}
    if pixel not in sizes:
        raise OddError
    return sizes[pixel]


def _png(source: Source) -> Verdict:
    """Walk the chunks to IEND."""
    for kind, end in _png_chunks(source):
        if end > source.size:
            return Verdict.INCOMPLETE
        if kind == b"IEND":
            return Verdict.COMPLETE
    return Verdict.UNKNOWN


def _png_chunks(source: Source) -> Iterator[tuple[bytes, int]]:
    at = 8
    while True:
        length, kind = struct.unpack(">I4s", source.at(at, 8))
        at += 12 + length
        yield kind, at


def _jpeg(source: Source) -> Verdict:
    """Look for the end-of-image marker in the tail."""
    length = min(source.size, _TAIL)
    tail = source.at(source.size - length, length)
    if tail.rstrip(b"\0").endswith(b"\xff\xd9"):
        return Verdict.COMPLETE
    # A marker further up may be a thumbnail's, or a vendor's data follows the image.
    return Verdict.UNKNOWN if b"\xff\xd9" in tail else Verdict.INCOMPLETE


_BY_MAGIC: tuple[tuple[bytes, Callable[[Source], Verdict]], ...] = (
    (b"II*\0", probe_tiff),
    (b"MM\0*", probe_tiff),
    (b"II+\0\x08\0\0\0", probe_tiff),
    (b"MM\0+\0\x08\0\0", probe_tiff),
    (b"\0\0\0\x03", _dm),
    (b"\0\0\0\x04", _dm),
    (b"\x89HDF\r\n\x1a\n", _hdf5),
    (b"II\x97\x01", _ser),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
)
