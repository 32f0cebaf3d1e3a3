"""A result becomes rows: its numbers, its frame's state and the event, all or nothing.

A frame that is measured again with the same model replaces its result; whichever model came
last is the one that counts. Every function works inside the caller's transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from emcopilot.calibrate import OPERATOR
from gpu_server.events import announce
from gpu_server.tables import (
    PROCESSED,
    QUEUED,
    SUPERSEDED,
    frames,
    rejections,
    result_blobs,
    results,
    sessions,
)

JsonValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What decoding found out about a frame."""

    height: int
    width: int
    dtype: str
    pixel_size_nm: tuple[float, float] | None
    """(y, x); None: unknown, sizes are then in px."""
    pixel_size_source: str | None
    modality: str | None = None
    time_s: float | None = None
    notes: tuple[str, ...] = ()
    detector: str | None = None
    sample: str | None = None


@dataclass(frozen=True, slots=True)
class SavedResult:
    """What one model found in one frame."""

    frame_id: int
    model_id: str
    facts: FrameFacts
    summary: Mapping[str, JsonValue]
    """At least `particles` and `counted` (int) and `unit` ("nm" or "px")."""
    diameters: bytes
    """Little-endian float32, one a label: equivalent diameter in `unit`, NaN if not counted."""
    particles: bytes
    """`ParticleTable.to_bytes()`."""
    labels: bytes
    """Deflated TIFF of the instances, native size."""
    timings: Mapping[str, float]
    """Unix times: stored, leased, decoded, inferred, measured, published."""


def save(connection: sa.Connection, result: SavedResult, *, at: float) -> int:
    """Commit a result, its frame's state and the event together; return the event's id."""
    frame = connection.execute(_FRAME, {"frame": result.frame_id}).one()
    state = _state_of(result, frame)
    counts = state == PROCESSED
    _drop_measured_otherwise(connection, result)
    result_id = _upsert(connection, result, frame.session_id, counts=counts, at=at)
    _replace_blobs(connection, result_id, result)
    _record_facts(connection, result, state=state, at=at)
    connection.execute(
        sessions.update().where(sessions.c.id == frame.session_id).values(updated_at=at)
    )
    told = {
        **result.summary,
        "frame_id": result.frame_id,
        "number": frame.number,
        "state": state,
        "model_id": result.model_id,
    }
    return announce(connection, "frame", told, at=at, session_id=frame.session_id)


def save_beside(connection: sa.Connection, result: SavedResult, *, at: float) -> bool:
    """Keep what one more model found in a frame, without letting it count.

    Returns
    -------
    bool
        False where that model has a result already, which stays, or where the frame was
        measured anew with another pixel size meanwhile.
    """
    frame = connection.execute(_FRAME, {"frame": result.frame_id}).one()
    measured_anew = sa.select(frames.c.id).where(
        frames.c.id == result.frame_id, _has_other_size(result.facts)
    )
    if connection.execute(measured_anew).first():
        return False
    values = {
        "frame_id": result.frame_id,
        "session_id": frame.session_id,
        "model_id": result.model_id,
        "counts": False,
        **_figures(result, at=at),
    }
    result_id = connection.execute(
        insert(results)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["frame_id", "model_id"])
        .returning(results.c.id)
    ).scalar()
    if result_id is not None:
        _replace_blobs(connection, result_id, result)
    return result_id is not None


_FRAME = (
    sa.select(
        frames.c.session_id,
        frames.c.state,
        frames.c.number,
        sessions.c.pixel_size_y_nm,
    )
    .join(sessions, sessions.c.id == frames.c.session_id)
    .where(frames.c.id == sa.bindparam("frame"))
)


def _state_of(result: SavedResult, frame: sa.Row) -> str:
    """Return the state of a frame once its result is in."""
    if frame.state == SUPERSEDED:
        return SUPERSEDED
    is_withdrawn = frame.pixel_size_y_nm is None
    if result.facts.pixel_size_source == OPERATOR and is_withdrawn:
        return QUEUED  # the operator took the size back while the frame was under way
    return PROCESSED


def _has_other_size(facts: FrameFacts) -> sa.ColumnElement[bool]:
    size_y_nm, size_x_nm = facts.pixel_size_nm or (None, None)
    return sa.or_(
        frames.c.pixel_size_y_nm.is_distinct_from(size_y_nm),
        frames.c.pixel_size_x_nm.is_distinct_from(size_x_nm),
    )


def _drop_measured_otherwise(connection: sa.Connection, result: SavedResult) -> None:
    """Drop what other models measured with another pixel size than now holds for the frame.

    A frame has one size that its results are read with: theirs would come out scaled, as wrong
    nanometres. They can be computed again.
    """
    stale = (
        sa.select(results.c.id)
        .join(frames, frames.c.id == results.c.frame_id)
        .where(
            results.c.frame_id == result.frame_id,
            results.c.model_id != result.model_id,
            _has_other_size(result.facts),
        )
    )
    ids = list(connection.scalars(stale))
    if not ids:
        return
    for table in (rejections, result_blobs):
        connection.execute(table.delete().where(table.c.result_id.in_(ids)))
    connection.execute(results.delete().where(results.c.id.in_(ids)))


def _upsert(
    connection: sa.Connection,
    result: SavedResult,
    session_id: int,
    *,
    counts: bool,
    at: float,
) -> int:
    connection.execute(
        results.update()
        .where(results.c.frame_id == result.frame_id, results.c.counts)
        .values(counts=False)
    )
    values = {
        "session_id": session_id,
        "counts": counts,
        **_figures(result, at=at),
    }
    return connection.execute(
        insert(results)
        .values(frame_id=result.frame_id, model_id=result.model_id, **values)
        .on_conflict_do_update(index_elements=["frame_id", "model_id"], set_=values)
        .returning(results.c.id)
    ).scalar_one()


def _figures(result: SavedResult, *, at: float) -> dict[str, object]:
    return {
        "saved_at": at,
        "particle_count": result.summary["particles"],
        "counted_count": result.summary["counted"],
        "unit": result.summary["unit"],
        "summary": dict(result.summary),
        "timings": dict(result.timings),
        "diameters": result.diameters,
    }


def _replace_blobs(
    connection: sa.Connection, result_id: int, result: SavedResult
) -> None:
    before = connection.execute(
        sa.select(result_blobs.c.labels).where(result_blobs.c.result_id == result_id)
    ).scalar()
    if before is not None and before != result.labels:
        # Other labels number other particles: a rejection would now hit a stranger.
        connection.execute(
            rejections.delete().where(rejections.c.result_id == result_id)
        )
    blobs = {"particles": result.particles, "labels": result.labels}
    connection.execute(
        insert(result_blobs)
        .values(result_id=result_id, **blobs)
        .on_conflict_do_update(index_elements=["result_id"], set_=blobs)
    )


def _record_facts(
    connection: sa.Connection, result: SavedResult, *, state: str, at: float
) -> None:
    facts = result.facts
    size_y_nm, size_x_nm = facts.pixel_size_nm or (None, None)
    connection.execute(
        frames.update()
        .where(frames.c.id == result.frame_id)
        .values(
            state=state,
            lease_until=None,
            reason=None,
            processed_at=at,
            height=facts.height,
            width=facts.width,
            dtype=facts.dtype,
            pixel_size_y_nm=size_y_nm,
            pixel_size_x_nm=size_x_nm,
            pixel_size_source=facts.pixel_size_source,
            modality=facts.modality,
            detector=facts.detector,
            sample=facts.sample,
            time_s=facts.time_s,
            notes=list(facts.notes),
        )
    )
