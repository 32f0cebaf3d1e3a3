"""What happened to a session besides its frames: read back from audit, models and problems."""

import sqlalchemy as sa

from emcopilot.review_messages import Mark, Marks
from gpu_server.queries import session_start
from gpu_server.tables import (
    QUARANTINED,
    audit,
    files,
    frames,
    promotions,
    rejections,
    results,
    sessions,
)

MAX_MARKS = 200
"""More would hide the curves that they are drawn over."""


def session_marks(connection: sa.Connection, session_id: int) -> Marks:
    """Return the newest marks of a session in order of time."""
    start = session_start(connection, session_id)
    if start is None:
        return Marks()
    found = [
        *_calibrations(connection, session_id, start),
        *_rejections(connection, session_id, start),
        *_promotions(connection, session_id, start),
        *_problems(connection, session_id, start),
    ]
    found.sort(key=lambda mark: mark.time_s or 0.0)
    return Marks(marks=found[-MAX_MARKS:])


def _calibrations(
    connection: sa.Connection, session_id: int, start: float
) -> list[Mark]:
    chosen = _newest(sa.select(audit), audit.c.id).where(
        audit.c.action == "calibrate", audit.c.subject == f"session {session_id}"
    )
    return [
        Mark(kind="calibration", text=_size_text(row.detail), time_s=row.at - start)
        for row in connection.execute(chosen)
    ]


def _size_text(detail: dict[str, list[float] | None]) -> str:
    size = detail.get("pixel_size_nm")
    return f"pixel size {size[1]:.4g} nm" if size else "the files' own pixel size"


def _rejections(connection: sa.Connection, session_id: int, start: float) -> list[Mark]:
    """Say what is out now, at the frames' own times and not when somebody looked at them."""
    taken_out = (
        sa.select(results.c.frame_id, sa.func.count().label("particles"))
        .join(rejections, rejections.c.result_id == results.c.id)
        .where(results.c.session_id == session_id, results.c.counts)
        .group_by(results.c.frame_id)
        .subquery()
    )
    chosen = (
        _frame_times()
        .add_columns(taken_out.c.particles, frames.c.rejected_at)
        .outerjoin(taken_out, taken_out.c.frame_id == frames.c.id)
        .where(
            frames.c.session_id == session_id,
            sa.or_(frames.c.rejected_at.is_not(None), taken_out.c.particles > 0),
        )
    )
    return [
        Mark(
            kind="reject",
            text=_rejection_text(row),
            time_s=row.mtime_ns / 1e9 + (row.time_s or 0.0) - start,
            number=row.number,
        )
        for row in connection.execute(_newest(chosen, frames.c.id))
    ]


def _rejection_text(row: sa.Row) -> str:
    if row.rejected_at is not None:
        return "frame rejected"
    one = row.particles == 1
    return "1 particle rejected" if one else f"{row.particles} particles rejected"


def _promotions(connection: sa.Connection, session_id: int, start: float) -> list[Mark]:
    until = sa.select(sessions.c.updated_at).where(sessions.c.id == session_id)
    end = connection.execute(until).scalar_one()
    chosen = _newest(sa.select(promotions), promotions.c.id).where(
        promotions.c.at.between(start, end)
    )
    return [
        Mark(kind="model", text=f"model {row.model_id}", time_s=row.at - start)
        for row in connection.execute(chosen)
    ]


def _problems(connection: sa.Connection, session_id: int, start: float) -> list[Mark]:
    chosen = _newest(_frame_times(), frames.c.id).where(
        frames.c.session_id == session_id, frames.c.state == QUARANTINED
    )
    return [
        Mark(
            kind="problem",
            text=f"no result: {row.name}",
            time_s=row.mtime_ns / 1e9 + (row.time_s or 0.0) - start,
            number=row.number,
        )
        for row in connection.execute(chosen)
    ]


def _frame_times() -> sa.Select:
    return sa.select(
        frames.c.id, frames.c.number, frames.c.time_s, files.c.name, files.c.mtime_ns
    ).join(files, files.c.id == frames.c.file_id)


def _newest(chosen: sa.Select, order: sa.ColumnElement[int]) -> sa.Select:
    return chosen.order_by(order.desc()).limit(MAX_MARKS)
