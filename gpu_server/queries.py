"""Reads over the tables: what is stored, as values; nothing here changes a row.

Every function takes a connection from `Database.read()`, which sees one consistent state.
Sizes are stored once, as the pipeline measured them; the operator's calibration and
rejections are laid over them here, on reading, so they can always be taken back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.messages import Unit
from gpu_server.tables import (
    PROCESSED,
    SUPERSEDED,
    files,
    frames,
    rejections,
    results,
    sessions,
)

FloatArray = NDArray[np.float64]

_FRAMES_A_SPAN = 2_000


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What the counting model found in one frame."""

    id: int
    model_id: str
    unit: Unit
    """Unit of `diameters`, as measured."""
    saved_at: float
    summary: dict[str, int | float | str | None]
    diameters: FloatArray
    """Shape (P,); NaN where the particle is cut by the border."""
    rejected: frozenset[int]
    """Labels, from 1, that the operator took out."""


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One frame with its file, its session, and its result where it has one."""

    id: int
    number: int
    page: int
    state: str
    reason: str | None
    is_rejected: bool
    height: int | None
    width: int | None
    own_pixel_size_nm: tuple[float, float] | None
    """(y, x) as the frame was measured with."""
    own_source: str | None
    operator_pixel_size_nm: tuple[float, float] | None
    """(y, x) that the operator gave for the session; goes before the frame's own."""
    modality: str | None
    time_s: float | None
    """Since the file's first page."""
    notes: tuple[str, ...]
    session_id: int
    session: str
    folder: str
    source_key: str
    sha256: str
    written_at: float
    """Unix time at which the camera software finished the file."""
    sealed_at: float
    received_at: float
    result: StoredResult | None

    @property
    def pixel_size_nm(self) -> tuple[float, float] | None:
        """The pixel size that holds, (y, x); None while it is unknown."""
        return self.operator_pixel_size_nm or self.own_pixel_size_nm

    @property
    def pixel_size_source(self) -> str | None:
        """Where that pixel size comes from."""
        return "operator" if self.operator_pixel_size_nm else self.own_source

    @property
    def unit(self) -> Unit:
        """The unit that this frame's sizes can be given in."""
        return "nm" if self.pixel_size_nm else "px"

    @property
    def latency_s(self) -> float | None:
        """Seconds from the complete file to the stored result."""
        if self.result is None:
            return None
        latency_s = self.result.saved_at - self.sealed_at
        # The agent's clock may run ahead of ours; then only our own part is known.
        return latency_s if latency_s >= 0 else self.result.saved_at - self.received_at

    def diameters(self, unit: Unit) -> FloatArray:
        """Return equivalent diameters, shape (P,), without what does not count.

        NaN stands where a particle is cut by the border or rejected. An equivalent
        diameter is the root of an area, so it scales with the geometric mean of the
        pixel's edges: exact for non-square pixels too.
        """
        diameters = self.all_diameters(unit)
        if self.result:
            diameters[[label - 1 for label in self.result.rejected]] = np.nan
        return diameters

    def all_diameters(self, unit: Unit) -> FloatArray:
        """Return equivalent diameters, shape (P,), the rejected ones included."""
        if self.result is None:
            return np.empty(0)
        diameters = self.result.diameters.copy()
        if self.result.unit == "nm":
            diameters /= _mean_edge(self.own_pixel_size_nm)
        return diameters * _mean_edge(self.pixel_size_nm) if unit == "nm" else diameters


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One folder of frames from one agent, with how its frames stand."""

    id: int
    agent_id: int
    name: str
    folder: str
    created_at: float
    updated_at: float
    pixel_size_nm: tuple[float, float] | None
    """The operator's, (y, x)."""
    states: dict[str, int]
    """Frames by state."""
    rejected: int


def frame(connection: sa.Connection, frame_id: int) -> StoredFrame | None:
    """Return one frame, or None."""
    found = _read_frames(connection, _frames_select().where(frames.c.id == frame_id))
    return found[0] if found else None


def frame_at(
    connection: sa.Connection, session_id: int, number: int
) -> StoredFrame | None:
    """Return a session's frame with this number, else the nearest that still stands.

    Numbers of superseded frames are left out; the one before goes first.
    """
    of_session = sa.and_(
        frames.c.session_id == session_id, frames.c.state != SUPERSEDED
    )
    nearest = (
        (frames.c.number <= number, frames.c.number.desc()),
        (frames.c.number > number, frames.c.number),
    )
    for side, order in nearest:
        chosen = sa.select(frames.c.id).where(of_session, side).order_by(order).limit(1)
        frame_id = connection.execute(chosen).scalar()
        if frame_id is not None:
            return frame(connection, frame_id)
    return None


def latest_frame(connection: sa.Connection) -> StoredFrame | None:
    """Return the frame whose result was saved last, of any session."""
    newest = (
        sa.select(results.c.frame_id)
        .where(results.c.counts)
        .order_by(results.c.id.desc())
        .limit(1)
    )
    frame_id = connection.execute(newest).scalar()
    return None if frame_id is None else frame(connection, frame_id)


def last_number(connection: sa.Connection, session_id: int) -> int:
    """Return the number of a session's newest frame; 0 without any."""
    newest = sa.select(sa.func.max(frames.c.number)).where(
        frames.c.session_id == session_id
    )
    return connection.execute(newest).scalar() or 0


def frame_page(
    connection: sa.Connection,
    session_id: int,
    *,
    before: int | None = None,
    limit: int = 50,
    state: str | None = None,
) -> list[StoredFrame]:
    """Return up to `limit` frames of a session, the newest first."""
    chosen = _frames_select().where(frames.c.session_id == session_id)
    if before is not None:
        chosen = chosen.where(frames.c.id < before)
    if state is not None:
        chosen = chosen.where(frames.c.state == state)
    return _read_frames(connection, chosen.order_by(frames.c.id.desc()).limit(limit))


def counted_frames(
    connection: sa.Connection, session_id: int, *, since: float | None = None
) -> list[StoredFrame]:
    """Return the frames that a session's statistics count, in order of acquisition.

    Parameters
    ----------
    since : float, optional
        Only results saved at or after this Unix time.
    """
    chosen = _frames_select().where(
        frames.c.session_id == session_id,
        frames.c.state == PROCESSED,
        frames.c.rejected_at.is_(None),
        results.c.id.is_not(None),
    )
    if since is not None:
        chosen = chosen.where(results.c.saved_at >= since)
    order = (files.c.mtime_ns, files.c.id, frames.c.page)
    return _read_frames(connection, chosen.order_by(*order))


def written_frames(
    connection: sa.Connection, until: StoredFrame, span_s: float
) -> list[StoredFrame]:
    """Return the counted frames that were written in the `span_s` up to a frame, in order."""
    end_ns = int((until.written_at + 1e-3) * 1e9)
    chosen = _frames_select().where(
        frames.c.session_id == until.session_id,
        # Numbers have an index, times have not; and a camera has its limits.
        frames.c.number.between(until.number - _FRAMES_A_SPAN, until.number),
        files.c.mtime_ns.between(end_ns - int(span_s * 1e9), end_ns),
        frames.c.state == PROCESSED,
        frames.c.rejected_at.is_(None),
        results.c.id.is_not(None),
    )
    order = (files.c.mtime_ns, files.c.id, frames.c.page)
    return _read_frames(connection, chosen.order_by(*order))


def model_frames(
    connection: sa.Connection, model_id: str, frame_ids: Sequence[int]
) -> list[StoredFrame]:
    """Return processed frames with the result of one model, whether it counts or not, in order.

    Frames without one have no `result`; rejected frames are left out.
    """
    chosen = _frames_select(results.c.model_id == model_id).where(
        frames.c.id.in_(frame_ids),
        frames.c.state == PROCESSED,
        frames.c.rejected_at.is_(None),
    )
    return _read_frames(connection, chosen.order_by(frames.c.id))


def session_start(connection: sa.Connection, session_id: int) -> float | None:
    """Return when the session's first file was written, Unix time: its time zero."""
    first = sa.select(sa.func.min(files.c.mtime_ns)).where(
        files.c.session_id == session_id, files.c.superseded_by.is_(None)
    )
    written_ns = connection.execute(first).scalar()
    return None if written_ns is None else written_ns / 1e9


def session_list(
    connection: sa.Connection, session_id: int | None = None
) -> list[StoredSession]:
    """Return every session, or the one asked for, the most recently active first."""
    chosen = sa.select(sessions).order_by(sessions.c.updated_at.desc())
    counts = sa.select(
        frames.c.session_id,
        frames.c.state,
        sa.func.count().label("total"),
        sa.func.count(frames.c.rejected_at).label("rejected"),
    ).group_by(frames.c.session_id, frames.c.state)
    if session_id is not None:
        chosen = chosen.where(sessions.c.id == session_id)
        counts = counts.where(frames.c.session_id == session_id)
    by_session: dict[int, dict[str, tuple[int, int]]] = {}
    for row in connection.execute(counts):
        by_session.setdefault(row.session_id, {})[row.state] = row.total, row.rejected
    return [
        _session(row, by_session.get(row.id, {})) for row in connection.execute(chosen)
    ]


def _session(row: sa.Row, counts: dict[str, tuple[int, int]]) -> StoredSession:
    return StoredSession(
        id=row.id,
        agent_id=row.agent_id,
        name=row.name,
        folder=row.folder,
        created_at=row.created_at,
        updated_at=row.updated_at,
        pixel_size_nm=_pair(row.pixel_size_y_nm, row.pixel_size_x_nm),
        states={state: total for state, (total, _) in counts.items()},
        rejected=sum(rejected for _, rejected in counts.values()),
    )


def _frames_select(which: sa.ColumnElement[bool] | None = None) -> sa.Select:
    """Select frames with one result each: the counting one, or the one that `which` says."""
    chosen = results.c.counts if which is None else which
    counting = sa.and_(results.c.frame_id == frames.c.id, chosen)
    return (
        sa.select(
            frames,
            files.c.source_key,
            files.c.sha256,
            files.c.mtime_ns,
            files.c.sealed_at,
            files.c.received_at,
            sessions.c.name.label("session"),
            sessions.c.folder,
            sessions.c.pixel_size_y_nm.label("operator_y_nm"),
            sessions.c.pixel_size_x_nm.label("operator_x_nm"),
            results.c.id.label("result_id"),
            results.c.model_id,
            results.c.unit,
            results.c.saved_at,
            results.c.summary,
            results.c.diameters,
        )
        .join(files, files.c.id == frames.c.file_id)
        .join(sessions, sessions.c.id == frames.c.session_id)
        .outerjoin(results, counting)
    )


def _read_frames(connection: sa.Connection, chosen: sa.Select) -> list[StoredFrame]:
    rows = connection.execute(chosen).all()
    rejected = _rejected_labels(connection, rows)
    return [
        _stored_frame(row, rejected.get(row.result_id, frozenset())) for row in rows
    ]


def _rejected_labels(
    connection: sa.Connection, rows: Sequence[sa.Row]
) -> dict[int, frozenset[int]]:
    """Return the labels taken out, by result; people reject few, so per session is cheap."""
    chosen = sa.select(rejections.c.result_id, rejections.c.particle)
    if len(rows) == 1:
        chosen = chosen.where(rejections.c.result_id == rows[0].result_id)
    else:
        session_ids = {row.session_id for row in rows}
        chosen = chosen.join(results, results.c.id == rejections.c.result_id).where(
            results.c.session_id.in_(session_ids)
        )
    labels: dict[int, set[int]] = {}
    for result_id, particle in connection.execute(chosen):
        labels.setdefault(result_id, set()).add(particle)
    return {result_id: frozenset(found) for result_id, found in labels.items()}


def _stored_frame(row: sa.Row, rejected: frozenset[int]) -> StoredFrame:
    return StoredFrame(
        id=row.id,
        number=row.number,
        page=row.page,
        state=row.state,
        reason=row.reason,
        is_rejected=row.rejected_at is not None,
        height=row.height,
        width=row.width,
        own_pixel_size_nm=_pair(row.pixel_size_y_nm, row.pixel_size_x_nm),
        own_source=row.pixel_size_source,
        operator_pixel_size_nm=_pair(row.operator_y_nm, row.operator_x_nm),
        modality=row.modality,
        time_s=row.time_s,
        notes=tuple(row.notes),
        session_id=row.session_id,
        session=row.session,
        folder=row.folder,
        source_key=row.source_key,
        sha256=row.sha256,
        written_at=row.mtime_ns / 1e9,
        sealed_at=row.sealed_at,
        received_at=row.received_at,
        result=_stored_result(row, rejected) if row.result_id is not None else None,
    )


def _stored_result(row: sa.Row, rejected: frozenset[int]) -> StoredResult:
    diameters = np.frombuffer(row.diameters, "<f4").astype(np.float64)
    return StoredResult(
        id=row.result_id,
        model_id=row.model_id,
        unit=row.unit,
        saved_at=row.saved_at,
        summary=row.summary,
        diameters=diameters,
        rejected=rejected,
    )


def _pair(y: float | None, x: float | None) -> tuple[float, float] | None:
    return None if y is None or x is None else (y, x)


def _mean_edge(pixel_size_nm: tuple[float, float] | None) -> float:
    if pixel_size_nm is None:
        return math.nan  # a wrong nanometre is worse than none
    return math.sqrt(pixel_size_nm[0] * pixel_size_nm[1])
