"""The particle table of the contract for one frame: as rows, CSV and Parquet."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.errors import StoreError
from emcopilot.label_image import decode_labels
from emcopilot.messages import PARTICLE_COLUMNS
from emcopilot.particle_table import ParticleTable
from emcopilot.particles import measure_particles
from gpu_server.queries import StoredFrame
from gpu_server.tables import result_blobs

Value = str | int | float | bool | None
Columns = Mapping[str, NDArray[np.generic]]
"""Column name -> array of shape (P,), in the contract's order."""


def read_labels(connection: sa.Connection, frame: StoredFrame) -> bytes:
    """Return the instances of a frame with a result, as TIFF bytes.

    Raises
    ------
    StoreError
        If the result has no labels, which only a damaged database can bring about.
    """
    return _blob(connection, frame, "labels")


def read_particles(connection: sa.Connection, frame: StoredFrame) -> ParticleTable:
    """Return the table of a frame with a result, in the pixel size that holds.

    Raises
    ------
    StoreError
        If the blob is missing or damaged.
    """
    table = read_measured(connection, frame)
    if frame.pixel_size_nm == frame.own_pixel_size_nm:
        return table
    # Calipers and perimeters of non-square pixels do not scale: measure the labels again.
    # What needs the pixels' counts stays as it was measured on them.
    labels = decode_labels(read_labels(connection, frame))
    again = measure_particles(
        labels, np.zeros(labels.shape, np.uint8), pixel_size_nm=frame.pixel_size_nm
    )
    return replace(
        again, mean_intensity=table.mean_intensity, confidence=table.confidence
    )


def read_measured(connection: sa.Connection, frame: StoredFrame) -> ParticleTable:
    """Return the table as it was measured, whatever pixel size holds now.

    Raises
    ------
    StoreError
        If the blob is missing or damaged.
    """
    return ParticleTable.from_bytes(_blob(connection, frame, "particles"))


def is_rejected(frame: StoredFrame, count: int) -> NDArray[np.bool_]:
    """Return which particles the operator took out, shape (count,).

    The whole frame's rejection takes out all of them.
    """
    rejected = np.full(count, frame.is_rejected)
    if frame.result:
        rejected[[label - 1 for label in frame.result.rejected]] = True
    return rejected


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a frame's particles come from: the columns that are the same for all."""

    session: str
    frame: int
    """The frame's id, the one that every path of the API takes."""
    time_s: float | None
    """Since the session's first file was written."""
    model_id: str
    calibration_source: str | None


def origin_of(frame: StoredFrame, time_s: float | None) -> Origin:
    """Return the origin of a stored frame's particles."""
    model_id = frame.result.model_id if frame.result else ""
    return Origin(frame.folder, frame.id, time_s, model_id, frame.pixel_size_source)


def contract_columns(
    table: ParticleTable, origin: Origin, rejected: NDArray[np.bool_]
) -> Columns:
    """Join what was measured with where it comes from; `rejected` has shape (P,)."""
    count = len(table)
    time_s = np.nan if origin.time_s is None else origin.time_s
    joined: dict[str, NDArray[np.generic]] = {
        "session": np.full(count, origin.session),
        "frame": np.full(count, origin.frame),
        "time_s": np.full(count, time_s),
        # A particle keeps its number within its frame until tracking follows it.
        "particle": table.label,
        "rejected": rejected,
        "model_id": np.full(count, origin.model_id),
        "calibration_source": np.full(count, origin.calibration_source or ""),
    }
    joined.update(table.columns())
    return {name: joined[name] for name in PARTICLE_COLUMNS}


def as_rows(columns: Columns) -> list[dict[str, Value]]:
    """Return one dict a particle; what is not a number becomes None."""
    return [
        {name: _plain(value) for name, value in zip(columns, values, strict=True)}
        for values in _records(columns)
    ]


def as_csv(columns: Columns) -> str:
    """Return a header and one line a particle; unknown values stay empty."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(columns)
    for values in _records(columns):
        writer.writerow([_cell(_plain(value)) for value in values])
    return target.getvalue()


def as_parquet(columns: Columns) -> bytes:
    """Return a Parquet file with the same columns, typed."""
    target = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(c) for name, c in columns.items()}), target)
    return target.getvalue()


def _records(columns: Columns) -> Iterator[tuple[Value, ...]]:
    return zip(*(column.tolist() for column in columns.values()), strict=True)


def _plain(value: Value) -> Value:
    if value == "" or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value


def _cell(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value


def _blob(connection: sa.Connection, frame: StoredFrame, name: str) -> bytes:
    result_id = frame.result.id if frame.result else None
    chosen = sa.select(result_blobs.c[name]).where(
        result_blobs.c.result_id == result_id
    )
    blob = connection.execute(chosen).scalar()
    if blob is None:
        raise StoreError(
            f"frame {frame.id}: its result {result_id} has no {name}; "
            "run `emcopilot verify`, then reprocess the frame"
        )
    return blob
