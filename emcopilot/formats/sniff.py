"""Which reader a file gets: by its first bytes, checked against its extension."""

import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath

from emcopilot.errors import DecodeError
from emcopilot.formats.page import Contents, Source

HEAD_BYTES = 1024

Opener = Callable[[Source, ExitStack], Contents]


@dataclass(frozen=True, slots=True)
class Format:
    """One format that EMcopilot reads."""

    name: str
    extensions: tuple[str, ...]
    matches: Callable[[bytes, int], bool]
    """Whether a file with this head and size is of this format."""


def _tiff(head: bytes, size: int) -> bool:
    return head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def _dm(version: int) -> Callable[[bytes, int], bool]:
    return lambda head, size: head[:4] == struct.pack(">i", version)


def _mrc(head: bytes, size: int) -> bool:
    if len(head) < HEAD_BYTES:
        return False
    if head[208:211] == b"MAP":
        return True
    # Old writers leave the mark out: the header must then promise exactly this file.
    nx, ny, nz, mode = struct.unpack("<4i", head[:16])
    (extended,) = struct.unpack("<i", head[92:96])
    sample = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}.get(mode, 0)
    return min(nx, ny, nz) > 0 and size == 1024 + extended + nx * ny * nz * sample


def _tvips(head: bytes, size: int) -> bool:
    if len(head) < 256:
        return False
    header, version = struct.unpack("<2i", head[:8])
    return header == 256 and version in (1, 2)


FORMATS = (
    Format("TIFF", ("tif", "tiff", "btf", "tf8"), _tiff),
    Format("PNG", ("png",), lambda head, size: head[:8] == b"\x89PNG\r\n\x1a\n"),
    Format("JPEG", ("jpg", "jpeg"), lambda head, size: head[:3] == b"\xff\xd8\xff"),
    Format("EMD", ("emd",), lambda head, size: head[:8] == b"\x89HDF\r\n\x1a\n"),
    Format("DM3", ("dm3",), _dm(3)),
    Format("DM4", ("dm4",), _dm(4)),
    Format("TIA series", ("ser",), lambda head, size: head[:4] == b"II\x97\x01"),
    Format("TIA header", ("emi",), lambda head, size: head[:3] == b"JK\0"),
    Format("MRC", ("mrc", "mrcs", "st"), _mrc),
    Format("TVIPS stream", ("tvips",), _tvips),
)
EXTENSIONS = tuple(extension for f in FORMATS for extension in f.extensions)
"""Every extension that EMcopilot reads, without the dot."""

_FOREIGN = {
    b"PK": "a zip archive; unpack it first",
    b"%PDF": "a PDF",
    b"GIF8": "a GIF; save the original as TIFF",
    b"BM": "a Windows bitmap; save it as TIFF",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "HDF5",
}


def sniff(source: Source) -> tuple[Format, tuple[str, ...]]:
    """Find the format of a file, and what is odd about its name.

    Raises
    ------
    DecodeError
        If the file is empty, or neither its bytes nor its extension belong to a format
        that EMcopilot reads.
    """
    if source.size == 0:
        raise DecodeError(
            f"{source.name} is empty (0 bytes): the camera software may still be "
            "writing, or the disk was full; save it again"
        )
    extension = PurePosixPath(source.name).suffix.lstrip(".").lower()
    if extension and extension not in EXTENSIONS:
        raise DecodeError(
            f"{source.name}: .{extension} is not read; expected one of "
            + ", ".join("." + known for known in EXTENSIONS)
        )
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    for candidate in FORMATS:
        if candidate.matches(head, source.size):
            odd = extension and extension not in candidate.extensions
            note = f"named .{extension}, but it is {candidate.name} inside"
            return candidate, (note,) if odd else ()
    raise DecodeError(
        f"{source.name} is not the {extension or 'image'} file its name says: it looks "
        f"like {_looks_like(head)}; save it again from the camera software"
    )


def _looks_like(head: bytes) -> str:
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return what
    text = sum(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "text" if text > 0.95 * len(head) else "damaged or unknown data"
