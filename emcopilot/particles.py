"""Labels -> one row of sizes and shapes per particle.

Sizes come from pixel counts: the area of an outline's polygon is a third low for a disc
of 5 px. Everything is summed over runs of pixels or over hull corners of all particles at
once; no Python loop visits a particle.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import CalibrationError, StoreError
from emcopilot.hulls import FloatArray, hulls_of
from emcopilot.labels import IntArray, Labels, Moments, Runs, moments_of, runs_of

BoolArray = NDArray[np.bool_]

_MAGIC = b"EMPT"
_VERSION = 1
_HEAD = struct.Struct("<4sHHI")
"""Magic, version, bytes of the JSON list of columns, particles."""
_DTYPES = {"label": "<i4", "area_px": "<i4", "touches_border": "|b1"}
_FLOAT = "<f8"
_CROFTON_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


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
    """Mean particle probability, 0..1; NaN where no probability was given."""

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


def edge_weights(
    boxes_px: tuple[FloatArray, FloatArray], shape: tuple[int, int]
) -> FloatArray:
    """Weigh whole particles for those of their size that the frame's edge cut.

    Parameters
    ----------
    boxes_px : pair of float64 arrays, shape (P,)
        Height and width of each particle's bounding box, or twice its diameter.
    shape : pair of int
        Height and width of the frame in px.

    Returns
    -------
    float64 array, shape (P,)
        At least 1: the frame's area over that in which the particle's box is whole.

    Notes
    -----
    Source: Miles-Lantuejoul correction; J. Serra, Image Analysis and Mathematical
    Morphology, 1982, ch. VIII.
    """
    height, width = shape
    free_y = np.maximum(height - boxes_px[0], 1.0)
    free_x = np.maximum(width - boxes_px[1], 1.0)
    return height * width / (free_y * free_x)


def measure_particles(
    labels: Labels,
    pixels: NDArray[np.generic],
    *,
    pixel_size_nm: tuple[float, float] | None = None,
    probability: NDArray[np.uint8] | None = None,
) -> ParticleTable:
    """Measure every particle of one frame.

    Parameters
    ----------
    labels : int32 array, shape (H, W)
        0 is background; 1..P number the particles without gaps.
    pixels : real array, shape (H, W)
        Detector counts, for the mean intensity.
    pixel_size_nm : pair of float, optional
        Pixel edges (y, x) on the specimen, in nm; None leaves the nm columns NaN.
    probability : uint8 array, shape (H, W), optional
        Particle probability 0..255, for the confidence.

    Raises
    ------
    CalibrationError
        If a pixel size is not positive and finite.
    ValueError
        If shapes differ or a label between 1 and the largest has no pixel.
    """
    _check(labels, pixels, pixel_size_nm, probability)
    runs = runs_of(labels)
    count = int(runs.label.max(initial=0))
    moments = moments_of(runs, count)
    if not moments.area.all():
        missing = int(np.argmin(moments.area)) + 1
        raise ValueError(
            f"labels must be 1..{count} without gaps; {missing} is missing"
        )
    return _table(labels, pixels, pixel_size_nm, probability, runs, moments)


def _check(
    labels: Labels,
    pixels: NDArray[np.generic],
    pixel_size_nm: tuple[float, float] | None,
    probability: NDArray[np.uint8] | None,
) -> None:
    others = (
        [pixels.shape] if probability is None else [pixels.shape, probability.shape]
    )
    if labels.ndim != 2 or any(shape != labels.shape for shape in others):
        raise ValueError(f"labels {labels.shape} and frame {others} differ in shape")
    if pixel_size_nm is None:
        return
    if not all(math.isfinite(edge) and edge > 0 for edge in pixel_size_nm):
        raise CalibrationError(
            f"pixel size must be positive and finite, got {pixel_size_nm} nm; "
            "give None if it is unknown"
        )


def _table(
    labels: Labels,
    pixels: NDArray[np.generic],
    pixel_size_nm: tuple[float, float] | None,
    probability: NDArray[np.uint8] | None,
    runs: Runs,
    moments: Moments,
) -> ParticleTable:
    count = len(moments.area)
    # Shapes are measured on the specimen's grid; without a scale, pixels are square.
    pitch = pixel_size_nm or (1.0, 1.0)
    in_nm = 1.0 if pixel_size_nm else math.nan
    area = moments.area * pitch[0] * pitch[1]
    hulls = hulls_of(runs, count).scaled(pitch)
    feret_max, feret_min = hulls.feret_diameters()
    perimeter = _perimeters(labels, count, pitch)
    major, minor = _axes(moments, pitch)
    position = _positions(runs, labels.shape[1])
    return ParticleTable(
        label=np.arange(1, count + 1, dtype=np.int32),
        centroid_y_px=moments.y,
        centroid_x_px=moments.x,
        area_px=moments.area.astype(np.int32),
        area_nm2=area * in_nm,
        equivalent_diameter_px=np.sqrt(4.0 * moments.area / np.pi),
        equivalent_diameter_nm=np.sqrt(4.0 * area / np.pi) * in_nm,
        feret_diameter_max_nm=feret_max * in_nm,
        feret_diameter_min_nm=feret_min * in_nm,
        perimeter_nm=perimeter * in_nm,
        eccentricity=np.sqrt(1.0 - (minor / major) ** 2),
        solidity=np.minimum(area / hulls.areas(), 1.0),
        circularity=np.minimum(4.0 * np.pi * area / perimeter**2, 1.0),
        aspect_ratio=major / minor,
        mean_intensity=_means(runs, moments, pixels, position),
        touches_border=_touching(runs, count, labels.shape),
        confidence=(
            np.full(count, np.nan)
            if probability is None
            else _means(runs, moments, probability, position) / 255.0
        ),
    )


def _perimeters(labels: Labels, count: int, pitch: tuple[float, float]) -> FloatArray:
    """Count where lines in four directions cross each outline.

    Notes
    -----
    Crofton: length = pi / 2 * mean over directions of (crossings * line spacing), each
    direction weighted by the angle it stands for, so non-square pixels are right too.
    Source: G. Lehmann, D. Legland, Efficient N-dimensional surface estimation using
    Crofton formula and run-length encoding, Insight Journal 2012.
    """
    fenced = np.pad(labels, 1)
    rows, columns = fenced.shape
    steps = np.array(_CROFTON_STEPS) * pitch
    angle = np.mod(np.arctan2(steps[:, 0], steps[:, 1]), np.pi)
    spacing = pitch[0] * pitch[1] / np.hypot(steps[:, 0], steps[:, 1])
    order = np.argsort(angle)
    share = np.empty(len(steps))
    turned = np.concatenate(
        (angle[order][-1:] - np.pi, angle[order], angle[order][:1] + np.pi)
    )
    share[order] = (turned[2:] - turned[:-2]) / 2.0
    length = np.zeros(count + 1)
    for (dy, dx), weight in zip(_CROFTON_STEPS, share * spacing / 2.0, strict=True):
        here = fenced[: rows - dy, max(0, -dx) : columns - max(0, dx)]
        there = fenced[dy:, max(0, dx) : columns + min(0, dx)]
        differs = here != there
        for side in (here[differs], there[differs]):
            length += weight * np.bincount(side, minlength=count + 1)
    return length[1:]


def _axes(
    moments: Moments, pitch: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Give standard deviations along the major and the minor axis, on the specimen."""
    sy, sx = pitch
    yy, xx, xy = moments.yy * sy**2, moments.xx * sx**2, moments.xy * sy * sx
    middle, spread = (yy + xx) / 2.0, np.hypot((yy - xx) / 2.0, xy)
    # A line of pixels is still one pixel wide: its variance across is 1/12 px².
    floor = min(sy, sx) ** 2 / 12.0
    minor = np.maximum(middle - spread, floor)
    return np.sqrt(np.maximum(middle + spread, minor)), np.sqrt(minor)


def _positions(runs: Runs, width: int) -> IntArray:
    """Give the flat index of every particle pixel, run after run."""
    length = runs.length
    skip = runs.row * width + runs.first - (np.cumsum(length) - length)
    return np.repeat(skip, length) + np.arange(int(length.sum()))


def _means(
    runs: Runs, moments: Moments, values: NDArray[np.generic], position: IntArray
) -> FloatArray:
    inside = values.ravel()[position].astype(np.float64)
    owner = np.repeat(runs.label, runs.length)
    total = np.bincount(owner, inside, minlength=len(moments.area) + 1)[1:]
    return total / moments.area


def _touching(runs: Runs, count: int, shape: tuple[int, ...]) -> BoolArray:
    height, width = shape
    edge = (runs.row == 0) | (runs.row == height - 1)
    edge |= (runs.first == 0) | (runs.last == width - 1)
    touching = np.zeros(count + 1, np.bool_)
    touching[runs.label[edge]] = True
    return touching[1:]


def _packed(name: str, column: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(column, dtype=_DTYPES.get(name, _FLOAT))


def _unpacked(blob: bytes) -> dict[str, NDArray[np.generic]]:
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
    columns: dict[str, NDArray[np.generic]] = {}
    for name, kind in wanted:
        columns[name] = np.frombuffer(blob, kind, count, offset)
        offset += columns[name].nbytes
    return columns
