"""Is this TIFF complete? Classic and Big, single and many pages, ImageJ's stacks."""

import re
import struct

from acquisition_agent.bounded import CutOffError, OddError, Source
from acquisition_agent.settle import Verdict

_IFD_TYPES = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
"""Bytes of one value by field type; TIFF 6.0 section 2 and the BigTIFF proposal."""
_INTEGERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_DESCRIPTION, _STRIPS, _STRIP_BYTES = 270, 273, 279
_TILES, _TILE_BYTES, _SUB_IFDS = 324, 325, 330
_KEPT = (_DESCRIPTION, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _SUB_IFDS)


def probe_tiff(source: Source) -> Verdict:
    """Follow every directory to its end; all they point at must be in the file.

    Raises
    ------
    CutOffError
        If a directory or its data lies behind the end of the file.
    OddError
        If the structure is not what TIFF 6.0 says, or bites its own tail.
    """
    order = "<" if source.at(0, 2) == b"II" else ">"
    (version,) = source.unpack(order + "H", 2)
    is_big = version == 43
    (first,) = source.unpack(order + ("Q" if is_big else "I"), 8 if is_big else 4)
    if first == 0:
        return Verdict.INCOMPLETE  # libtiff fills the header in last
    to_read, seen, is_loose = [first], set[int](), False
    while to_read:
        offset = to_read.pop()
        if offset in seen:
            raise OddError
        seen.add(offset)
        tags, following, loose = _directory(source, order, offset, is_big=is_big)
        is_loose |= loose
        _require_data(source, tags)
        to_read += [at for at in (*tags.get(_SUB_IFDS, ()), following) if at]
        if len(seen) == 1 and not to_read:
            _require_imagej_stack(source, tags)
    return Verdict.UNKNOWN if is_loose else Verdict.COMPLETE


Tags = dict[int, tuple[int, ...]]


def _directory(
    source: Source, order: str, offset: int, *, is_big: bool
) -> tuple[Tags, int, bool]:
    """Read one directory.

    Returns the tags that matter, where the next directory lies, and whether any other
    tag points behind the end of the file.
    """
    count_as, entry_bytes, inline = ("Q", 20, 8) if is_big else ("H", 12, 4)
    word = "Q" if is_big else "I"
    (count,) = source.unpack(order + count_as, offset)
    table = source.at(offset + struct.calcsize(count_as), count * entry_bytes)
    tags: Tags = {}
    is_loose = False
    for tag, kind, values, field in struct.iter_unpack(
        f"{order}HH{word}{inline}s", table
    ):
        length = _IFD_TYPES.get(kind, 0) * values
        at = offset
        if length > inline:
            (at,) = struct.unpack(order + word, field)
        if tag not in _KEPT:
            # A vendor's note that points behind the end may stay so for ever, and the
            # pixels are fine: let stillness decide, but never at once.
            is_loose |= at + length > source.size
            continue
        raw = source.at(at, length) if length > inline else field[:length]
        if tag == _DESCRIPTION:
            tags[tag] = tuple(raw[:4096])
        elif kind in _INTEGERS:
            tags[tag] = struct.unpack(f"{order}{values}{_INTEGERS[kind]}", raw)
    end = offset + struct.calcsize(count_as) + len(table)
    (following,) = source.unpack(order + word, end)
    return tags, following, is_loose


def _require_data(source: Source, tags: Tags) -> None:
    """Check that all strips and tiles lie inside the file."""
    for offsets, counts in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        if (offsets in tags) != (counts in tags):
            raise OddError  # an old writer's: it cannot be told where the data ends
        starts, sizes = tags.get(offsets, ()), tags.get(counts, ())
        if len(starts) != len(sizes):
            raise OddError
        for start, size in zip(starts, sizes, strict=True):
            # Offset 0 with a size is a place kept for data still to be written.
            if start + size > source.size or (start == 0 and size > 0):
                raise CutOffError


def _require_imagej_stack(source: Source, tags: Tags) -> None:
    """Check the frames that ImageJ writes behind the only directory it makes."""
    text = bytes(tags.get(_DESCRIPTION, ()))
    found = re.search(rb"^images=(\d{1,9})\s", text, re.MULTILINE)
    if text.startswith(b"ImageJ=") and found and tags.get(_STRIPS):
        frame = sum(tags[_STRIP_BYTES])
        if tags[_STRIPS][0] + int(found[1]) * frame > source.size:
            raise CutOffError
