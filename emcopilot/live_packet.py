"""The live packet: one frame's image and outlines in one buffer.

They travel together so that outlines never lead the image. The layout, little-endian:

    b"EML1" | uint32 header bytes | header, JSON padded with spaces to 4 bytes
    | JPEG, padded to 4 | offsets uint32 (P+1) | ids uint32 (P) | diameter float32 (P)
    | flags uint8 (P), padded to 4 | points int16 (N, 2) | confidence uint8 (P), padded to 4

Every array starts on a multiple of 4 bytes, so a browser maps typed arrays onto the
packet without copying. A new array goes to the end, where a page that was opened before
does not look; any other change needs another magic.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from emcopilot.confidence import FloatArray
from emcopilot.errors import WireError
from emcopilot.messages import Payload, Unit

MAGIC = b"EML1"
TOUCHES_BORDER = 1
REJECTED = 2
POINTS_PER_PIXEL = 8
"""Points count eighths of a shown pixel; (0, 0) is the picture's top left corner, as a
browser counts, half a pixel from the first pixel's centre."""
UNKNOWN_CONFIDENCE = 255
_MAX_HEADER_BYTES = 64 * 1024


class LiveHeader(Payload):
    """The JSON part of a live packet: the frame, its figures, and array lengths."""

    seq: int
    frame_id: int
    session_id: int
    session: str
    name: str
    page: int
    height: int
    """Native height, px."""
    width: int
    shown_height: int
    """Height of the JPEG, px; at most 2048."""
    shown_width: int
    pixel_size_nm: tuple[float, float] | None
    """(y, x) of a native pixel."""
    pixel_size_source: str | None
    model_id: str
    particles: int
    counted: int
    excluded_border: int
    doubtful: int
    """Particles below an even chance; the rejected ones are not among them."""
    mean_diameter: float | None
    median_diameter: float | None
    unit: Unit
    infer_s: float
    latency_s: float | None
    time_s: float | None
    number: int = 0
    """The frame's in its session, from 1; 0 where a server does not tell."""
    frame_rejected: bool = False
    """The operator took the whole frame out of the statistics."""
    jpeg_bytes: int
    points: int


@dataclass(frozen=True, slots=True)
class LivePacket:
    """One frame as a viewer sees it."""

    header: LiveHeader
    jpeg: bytes
    offsets: NDArray[np.uint32]
    """Shape (P+1,); particle i owns `points[offsets[i]:offsets[i + 1]]`."""
    ids: NDArray[np.uint32]
    """Shape (P,); particle numbers, the ones that reject and restore take."""
    diameter: NDArray[np.float32]
    """Shape (P,), in `header.unit`."""
    flags: NDArray[np.uint8]
    """Shape (P,); TOUCHES_BORDER | REJECTED."""
    points: NDArray[np.int16]
    """Shape (N, 2), (x, y) in eighths of a shown pixel; may be negative at edges."""
    confidence: NDArray[np.uint8]
    """Shape (P,), whole percents or UNKNOWN_CONFIDENCE: see `in_percent`."""

    def pack(self) -> bytes:
        """Lay the packet out as one buffer.

        Raises
        ------
        WireError
            If the arrays and the header disagree on how many there are.
        """
        _check_lengths(self)
        header = self.header.model_dump_json().encode()
        header += b" " * (-len(header) % 4)
        parts = (
            MAGIC,
            struct.pack("<I", len(header)),
            header,
            _padded(self.jpeg),
            self.offsets.astype("<u4").tobytes(),
            self.ids.astype("<u4").tobytes(),
            self.diameter.astype("<f4").tobytes(),
            _padded(self.flags.astype("u1").tobytes()),
            self.points.astype("<i2").tobytes(),
            _padded(self.confidence.astype("u1").tobytes()),
        )
        return b"".join(parts)

    @classmethod
    def unpack(cls, packet: bytes) -> "LivePacket":
        """Read a packet back; the arrays are views on `packet`.

        Raises
        ------
        WireError
            If the packet is cut, padded wrongly, or not a live packet at all.
        """
        header, start = _read_header(packet)
        count, at = header.particles, start + _padded_size(header.jpeg_bytes)
        per_particle = ("<u4", count), ("<f4", count), ("u1", count)
        points_and_after = ("<i2", 2 * header.points), ("u1", count)
        arrays: list[NDArray[np.generic]] = []
        for kind, length in (("<u4", count + 1), *per_particle, *points_and_after):
            end = at + _padded_size(np.dtype(kind).itemsize * length)
            if end > len(packet):
                raise WireError(
                    f"live packet of {len(packet)} bytes is cut: its arrays need "
                    f"{end}; ask for the frame again"
                )
            arrays.append(np.frombuffer(packet, kind, length, at))
            at = end
        offsets, ids, diameter, flags, points, confidence = arrays
        jpeg = packet[start : start + header.jpeg_bytes]
        read = cls(
            header,
            jpeg,
            offsets.astype(np.uint32, copy=False),
            ids.astype(np.uint32, copy=False),
            diameter.astype(np.float32, copy=False),
            flags.astype(np.uint8, copy=False),
            points.astype(np.int16, copy=False).reshape(-1, 2),
            confidence.astype(np.uint8, copy=False),
        )
        _check_lengths(read)
        return read


def flag_bits(
    touches_border: NDArray[np.bool_], rejected: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return the flags of each particle, shape (P,)."""
    border = np.where(touches_border, TOUCHES_BORDER, 0)
    return (border | np.where(rejected, REJECTED, 0)).astype(np.uint8)


def in_percent(confidence: FloatArray) -> NDArray[np.uint8]:
    """Return each particle's confidence as a byte, shape (P,).

    Parameters
    ----------
    confidence : float array, shape (P,)
        Chances 0..1; NaN where unknown.

    Notes
    -----
    Rounded down, so that "below 50" in a browser is `is_doubtful` here, to the last particle.
    """
    percent = np.floor(100 * confidence)
    return np.nan_to_num(percent, nan=UNKNOWN_CONFIDENCE).astype(np.uint8)


def _read_header(packet: bytes) -> tuple[LiveHeader, int]:
    if len(packet) < 8 or packet[:4] != MAGIC:
        raise WireError(
            f"not a live packet: starts with {packet[:4]!r}, expected {MAGIC!r}; "
            "page and server versions may differ"
        )
    (size,) = struct.unpack_from("<I", packet, 4)
    if size > min(_MAX_HEADER_BYTES, len(packet) - 8) or size % 4:
        raise WireError(f"live packet claims a header of {size} bytes; it is damaged")
    try:
        return LiveHeader.model_validate_json(packet[8 : 8 + size]), 8 + size
    except ValidationError as error:
        raise WireError(f"live packet header is not valid: {error}") from error


def _check_lengths(packet: LivePacket) -> None:
    header = packet.header
    promised = (header.jpeg_bytes, header.points, header.particles)
    held = (len(packet.jpeg), len(packet.points), len(packet.ids))
    per_particle = (packet.diameter, packet.flags, packet.confidence)
    columns = {len(packet.offsets) - 1, *map(len, per_particle)}
    if promised != held or columns != {header.particles}:
        raise WireError(
            f"live packet of frame {header.frame_id}: header promises {promised} JPEG "
            f"bytes, points and particles, got {held} and columns of {sorted(columns)}"
        )
    if int(packet.offsets[0]) != 0 or int(packet.offsets[-1]) != header.points:
        raise WireError(
            f"live packet of frame {header.frame_id}: offsets end at "
            f"{int(packet.offsets[-1])}, expected {header.points} points"
        )


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _padded_size(size: int) -> int:
    return size + -size % 4
