"""What was measured of the particles of one frame, and how it is stored."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import StoreError
from emcopilot.runs import FloatArray

BoolArray = NDArray[np.bool_]

_MAGIC = b"EMPT"
_VERSION = 1
_HEAD = struct.Struct("<4sHHI")
"""Magic, version, bytes of the JSON list of columns, particles."""
_DTYPES = {"label": "<i4", "area_px": "<i4", "touches_border": "|b1"}
_FLOAT = "<f8"


@dataclass(frozen=True, slots=True)
class ParticleTable:
    """What was measured of each particle of one frame; every column has shape (P,).

    Columns in nm are NaN where the frame is uncalibrated. Shape descriptors are those
    of the specimen: on non-square pixels they are measured on the stretched grid.
    """

    label: NDArray[np.int32]
    """1..P, the number in the label image."""
    centroid_y_px: FloatArray
    centroid_x_px: FloatArray
    """Centre of mass; (0, 0) is the centre of the frame's top left pixel."""
    area_px: NDArray[np.int32]
    area_nm2: FloatArray
    equivalent_diameter_px: FloatArray
    """Diameter of the circle that covers as many pixels."""
    equivalent_diameter_nm: FloatArray
    feret_diameter_max_nm: FloatArray
    feret_diameter_min_nm: FloatArray
    perimeter_nm: FloatArray
    """Length of the outline by Crofton's formula in four directions."""
    eccentricity: FloatArray
    """Of the ellipse with the same second moments; 0 is a circle, 1 a line."""
    solidity: FloatArray
    """Area over the area of the convex hull, 0..1."""
    circularity: FloatArray
    """4 pi area / perimeter², 1 for a circle; at most 1."""
    aspect_ratio: FloatArray
    """Major over minor axis of the ellipse with the same second moments; at least 1."""
    mean_intensity: FloatArray
    """Mean of the frame's own counts; NaN where a pixel is not a number."""
    touches_border: BoolArray
    """Cut by the frame's edge: counted, but left out of sizes."""
    confidence: FloatArray
    """The chance that it is a particle, 0..1: what the model's map of confidence, or else the mean
    probability inside, says of it; NaN where no probability was given."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def is_calibrated(self) -> bool:
        """Say whether the columns in nm hold numbers; an empty table is calibrated."""
        return not bool(np.isnan(self.area_nm2).any())

    def diameters(self) -> FloatArray:
        """Return the equivalent diameters, in nm if calibrated and else in px."""
        if self.is_calibrated:
            return self.equivalent_diameter_nm
        return self.equivalent_diameter_px

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the columns by their contract names, in contract order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def rows(self) -> Iterator[dict[str, float | int | bool | None]]:
        """Yield one plain dict a particle, for CSV and JSON; NaN becomes None."""
        names = list(self.columns())
        for values in zip(*(c.tolist() for c in self.columns().values()), strict=True):
            yield {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in zip(names, values, strict=True)
            }

    def to_bytes(self) -> bytes:
        """Pack the table: a fixed head, the column list as JSON, then raw columns."""
        columns = {name: _packed(name, c) for name, c in self.columns().items()}
        listed = [[name, column.dtype.str] for name, column in columns.items()]
        header = json.dumps(listed, separators=(",", ":")).encode()
        head = _HEAD.pack(_MAGIC, _VERSION, len(header), len(self))
        return b"".join((head, header, *(c.tobytes() for c in columns.values())))

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """Unpack what `to_bytes` made.

        Raises
        ------
        StoreError
            If the blob is cut, damaged or of another version.
        """
        return cls(**_unpacked(blob))


def countable(table: ParticleTable, rejected: BoolArray | None = None) -> BoolArray:
    """Say which particles enter sizes: whole ones that no operator rejected.

    Parameters
    ----------
    table : ParticleTable
        P particles.
    rejected : bool array, shape (P,), optional
        The operator's verdicts; None rejects nothing.

    Returns
    -------
    bool array, shape (P,)

    Notes
    -----
    A large particle is cut by the edge more often than a small one, so leaving out the
    cut ones favours the small; `edge_weights` undoes that.
    """
    whole = ~table.touches_border
    return whole if rejected is None else whole & ~rejected


def _packed(name: str, column: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(column, dtype=_DTYPES.get(name, _FLOAT))


def _unpacked(blob: bytes) -> dict[str, Any]:
    wanted = [[f.name, _DTYPES.get(f.name, _FLOAT)] for f in fields(ParticleTable)]
    try:
        magic, version, size, count = _HEAD.unpack_from(blob)
        listed = json.loads(blob[_HEAD.size : _HEAD.size + size])
    except (struct.error, ValueError) as error:
        raise StoreError(f"particle table is damaged: {error}") from error
    if (magic, version) != (_MAGIC, _VERSION) or listed != wanted:
        raise StoreError(
            f"particle table is {magic!r} version {version}, expected {_MAGIC!r} "
            f"version {_VERSION}; reprocess the frame"
        )
    offset = _HEAD.size + size
    promised = offset + count * sum(np.dtype(kind).itemsize for _, kind in wanted)
    if len(blob) != promised:
        raise StoreError(f"particle table holds {len(blob)} bytes, expected {promised}")
    columns: dict[str, Any] = {}
    for name, kind in wanted:
        columns[name] = np.frombuffer(blob, kind, count, offset)
        offset += columns[name].nbytes
    return columns
