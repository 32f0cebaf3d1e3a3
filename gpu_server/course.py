"""A session's counted frames as columns: what curves and long distributions are made of.

Strategy: a session may have 100,000 frames with hundreds of particles each, and is asked for
while frames come in. So no object is made for a frame: rows are read in one query, their sizes
joined into one array, and everything about frames is an array operation on that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.messages import Unit
from gpu_server.tables import PROCESSED, files, frames, rejections, results, sessions

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Course:
    """Counted frames in the order of acquisition; arrays of shape (F,) side by side."""

    frame: IntArray
    number: IntArray
    written_at: FloatArray
    """Unix time of the file."""
    page_s: FloatArray
    """Since the file's first page; NaN where the file does not say."""
    latency_s: FloatArray
    border: IntArray
    """Particles cut by the frame's edge."""
    rejected: IntArray
    edge_nm: FloatArray
    """Of a pixel, the geometric mean of both; NaN where unknown."""
    offsets: IntArray
    """Shape (F + 1,); frame i owns sizes[offsets[i]:offsets[i + 1]]."""
    sizes_px: FloatArray
    """Shape (N,), equivalent diameters; NaN where the particle does not count."""

    @property
    def particles(self) -> IntArray:
        """Particles a frame, counted or not."""
        return np.diff(self.offsets)

    @property
    def unit(self) -> Unit:
        """The unit of sizes: nm where every frame with particles has a pixel size, else px."""
        return "px" if self.uncalibrated else "nm"

    @property
    def uncalibrated(self) -> int:
        """Frames with particles whose pixel size is not known."""
        return int(np.count_nonzero(np.isnan(self.edge_nm) & (self.particles > 0)))

    def sizes(self) -> FloatArray:
        """Return the diameters that count, in `unit`."""
        scaled = self.sizes_px
        if self.unit == "nm":
            scaled = scaled * np.repeat(self.edge_nm, self.particles)
        return scaled[np.isfinite(scaled)]

    def moments(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return particles counted, mean in `unit` and sd / mean, each of shape (F,)."""
        owner = np.repeat(np.arange(len(self.frame)), self.particles)
        counts = np.isfinite(self.sizes_px)
        owner, sizes = owner[counts], self.sizes_px[counts]
        frames_in_all = len(self.frame)
        counted = np.bincount(owner, minlength=frames_in_all)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(owner, sizes, frames_in_all) / counted
            off = (sizes - mean[owner]) ** 2
            squares = np.bincount(owner, off, frames_in_all)
            spread = np.sqrt(squares / np.where(counted > 1, counted - 1, np.nan))
            dispersion = spread / mean
        return (
            counted,
            mean * self.edge_nm if self.unit == "nm" else mean,
            dispersion,
        )


def read_course(connection: sa.Connection, session_id: int) -> Course:
    """Read the frames that a session's statistics count."""
    rows = connection.execute(_ROWS, {"session": session_id}).all()
    rejections_of = taken_out(connection, session_id)
    lengths = np.fromiter((len(row.diameters) // 4 for row in rows), np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    joined = b"".join(map(itemgetter(_DIAMETERS), rows))
    sizes = np.frombuffer(joined, "<f4").astype(np.float64)
    border = _count_nan(sizes, offsets)
    rejected = np.zeros(len(rows), np.int64)
    for index, row in enumerate(rows) if rejections_of else ():
        labels = rejections_of.get(row.id, ())
        rejected[index] = len(labels)
        sizes[[offsets[index] + label - 1 for label in labels]] = np.nan
    own = _edges(rows, "own_y", "own_x")
    operator = _edges(rows, "operator_y", "operator_x")
    as_px = np.where([row.unit == "nm" for row in rows], own, 1.0)
    return Course(
        frame=_column(rows, "frame_id", np.int64),
        number=_column(rows, "number", np.int64),
        written_at=_column(rows, "mtime_ns", np.int64) / 1e9,
        page_s=_column(rows, "time_s", np.float64),
        latency_s=_column(rows, "latency_s", np.float64),
        border=border,
        rejected=rejected,
        edge_nm=np.where(np.isnan(operator), own, operator),
        offsets=offsets,
        sizes_px=sizes / np.repeat(as_px, lengths),
    )


def _latency() -> sa.ColumnElement[float]:
    # An agent's clock that runs ahead would give a negative latency.
    return sa.case(
        (
            files.c.sealed_at <= results.c.saved_at,
            results.c.saved_at - files.c.sealed_at,
        ),
        else_=results.c.saved_at - files.c.received_at,
    )


_COLUMNS = (
    results.c.diameters,
    results.c.id,
    results.c.unit,
    frames.c.id.label("frame_id"),
    frames.c.number,
    frames.c.time_s,
    frames.c.pixel_size_y_nm.label("own_y"),
    frames.c.pixel_size_x_nm.label("own_x"),
    sessions.c.pixel_size_y_nm.label("operator_y"),
    sessions.c.pixel_size_x_nm.label("operator_x"),
    files.c.mtime_ns,
    _latency().label("latency_s"),
)
_DIAMETERS = 0
_ROWS = (
    sa.select(*_COLUMNS)
    .join(frames, frames.c.id == results.c.frame_id)
    .join(files, files.c.id == frames.c.file_id)
    .join(sessions, sessions.c.id == frames.c.session_id)
    .where(
        results.c.session_id == sa.bindparam("session"),
        results.c.counts,
        frames.c.state == PROCESSED,
        frames.c.rejected_at.is_(None),
    )
    .order_by(files.c.mtime_ns, files.c.id, frames.c.page)
)


def taken_out(connection: sa.Connection, session_id: int) -> dict[int, list[int]]:
    """Return the labels that the operator took out of a session, by result."""
    chosen = (
        sa.select(rejections.c.result_id, rejections.c.particle)
        .join(results, results.c.id == rejections.c.result_id)
        .where(results.c.session_id == session_id)
    )
    labels: dict[int, list[int]] = {}
    for result_id, particle in connection.execute(chosen):
        labels.setdefault(result_id, []).append(particle)
    return labels


def _count_nan(sizes: FloatArray, offsets: IntArray) -> IntArray:
    so_far = np.concatenate(([0], np.cumsum(np.isnan(sizes))))
    return so_far[offsets[1:]] - so_far[offsets[:-1]]


def _edges(rows: Sequence[sa.Row], y: str, x: str) -> FloatArray:
    return np.sqrt(_column(rows, y, np.float64) * _column(rows, x, np.float64))


def _column(rows: Sequence[sa.Row], name: str, dtype: type) -> NDArray:
    get = itemgetter(_NAMES.index(name))
    if dtype is np.float64:
        values = (math.nan if value is None else value for value in map(get, rows))
        return np.fromiter(values, np.float64, len(rows))
    return np.fromiter(map(get, rows), dtype, len(rows))


_NAMES = [column.key for column in _COLUMNS]
