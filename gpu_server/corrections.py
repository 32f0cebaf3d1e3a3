"""What the operator says better than the machine: pixel sizes, and what is not a particle.

Nothing is deleted: a rejection is a row that can be taken back, and every change leaves a line
in the audit and an event. Every function works inside the caller's transaction.
"""

import math
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from emcopilot.calibrate import OPERATOR
from emcopilot.errors import CalibrationError
from gpu_server.events import announce, note
from gpu_server.tables import (
    PROCESSED,
    QUARANTINED,
    QUEUED,
    audit,
    frames,
    rejections,
    results,
    sessions,
)

REJECT, RESTORE = "reject particles", "restore particles"
REJECT_FRAME, RESTORE_FRAME = "reject frame", "restore frame"
UNDO = "undo"
_UNDO_DEPTH = 1000
"""Lines of the audit that an undo looks back over."""


def calibrate_session(
    connection: sa.Connection,
    session_id: int,
    pixel_size_nm: tuple[float, float] | None,
    who: str,
    *,
    at: float,
) -> int:
    """Set a session's pixel size, or None for the frames' own.

    Reading applies the operator's size to what was measured (`gpu_server.queries`), so statistics
    change at once. Only frames that were measured with a size that is now taken back are queued
    again: their own size is known to their files alone.

    Returns
    -------
    int
        Id of the event.

    Raises
    ------
    CalibrationError
        If an edge is not positive and finite.
    LookupError
        If there is no such session.
    """
    size_y_nm, size_x_nm = pixel_size_nm or (None, None)
    for edge_nm in (size_y_nm, size_x_nm):
        if edge_nm is not None and not (math.isfinite(edge_nm) and edge_nm > 0):
            raise CalibrationError(f"pixel size must be positive, got {edge_nm} nm")
    changed = connection.execute(
        sessions.update()
        .where(sessions.c.id == session_id)
        .values(pixel_size_y_nm=size_y_nm, pixel_size_x_nm=size_x_nm, updated_at=at)
    )
    if not changed.rowcount:
        raise LookupError(f"there is no session {session_id}")
    queued = 0
    if pixel_size_nm is None:
        of_operator = frames.c.pixel_size_source == OPERATOR
        which = sa.and_(frames.c.session_id == session_id, of_operator)
        queued = _requeue(connection, which, (PROCESSED,))
    size = list(pixel_size_nm) if pixel_size_nm else None
    detail = {"pixel_size_nm": size, "frames_queued": queued}
    note(connection, who, "calibrate", f"session {session_id}", at=at, detail=detail)
    told = {"session_id": session_id, "change": "calibrated", **detail}
    return announce(connection, "session", told, at=at, session_id=session_id)


def reprocess_session(
    connection: sa.Connection, session_id: int, who: str, *, at: float
) -> int:
    """Queue every frame of a session again, quarantined ones too; return the event's id.

    Raises
    ------
    LookupError
        If there is no such session.
    """
    known = sa.select(sessions.c.id).where(sessions.c.id == session_id)
    if connection.execute(known).first() is None:
        raise LookupError(f"there is no session {session_id}")
    again = (PROCESSED, QUARANTINED)
    detail = {
        "frames_queued": _requeue(connection, frames.c.session_id == session_id, again)
    }
    note(connection, who, "reprocess", f"session {session_id}", at=at, detail=detail)
    told = {"session_id": session_id, "change": "reprocess", **detail}
    return announce(connection, "session", told, at=at, session_id=session_id)


def reprocess_frame(
    connection: sa.Connection, frame_id: int, who: str, *, at: float
) -> int:
    """Queue one frame again, the remedy for a quarantined one; return the event's id.

    Raises
    ------
    LookupError
        If there is no such frame, or it is not processed or quarantined.
    """
    if not _requeue(connection, frames.c.id == frame_id, (PROCESSED, QUARANTINED)):
        raise LookupError(f"frame {frame_id} is unknown, waiting already or superseded")
    return _tell(connection, frame_id, who, "reprocess", at=at)


def set_frame_rejected(
    connection: sa.Connection, frame_id: int, who: str, *, rejected: bool, at: float
) -> int:
    """Take a whole frame out of the statistics or back in; return the event's id.

    Raises
    ------
    LookupError
        If there is no such frame.
    """
    changed = connection.execute(
        frames.update()
        .where(frames.c.id == frame_id)
        .values(
            rejected_at=at if rejected else None, rejected_by=who if rejected else None
        )
    )
    if not changed.rowcount:
        raise LookupError(f"there is no frame {frame_id}")
    action = REJECT_FRAME if rejected else RESTORE_FRAME
    return _tell(connection, frame_id, who, action, at=at)


def reject_particles(
    connection: sa.Connection,
    frame_id: int,
    particles: Collection[int],
    who: str,
    *,
    at: float,
) -> int:
    """Take particles of the frame's counted result out of the statistics.

    Parameters
    ----------
    particles : collection of int
        Their labels; one that is rejected already stays so.

    Returns
    -------
    int
        Id of the event.

    Raises
    ------
    LookupError
        If the frame has no counted result, or the result no such particle.
    """
    result_id = _counted_result(connection, frame_id, particles)
    changed = sorted(set(particles) - _rejected(connection, result_id))
    rows = [
        {
            "result_id": result_id,
            "particle": label,
            "rejected_at": at,
            "rejected_by": who,
        }
        for label in changed
    ]
    if rows:
        connection.execute(insert(rejections).on_conflict_do_nothing(), rows)
    detail = {"particles": changed, **_measured(connection, result_id)}
    return _tell(connection, frame_id, who, REJECT, at=at, detail=detail)


def restore_particles(
    connection: sa.Connection,
    frame_id: int,
    particles: Collection[int],
    who: str,
    *,
    at: float,
) -> int:
    """Take rejections back; return the event's id.

    Raises
    ------
    LookupError
        If the frame has no counted result, or the result no such particle.
    """
    result_id = _counted_result(connection, frame_id, particles)
    changed = sorted(set(particles) & _rejected(connection, result_id))
    connection.execute(
        rejections.delete().where(
            rejections.c.result_id == result_id, rejections.c.particle.in_(changed)
        )
    )
    detail = {"particles": changed, **_measured(connection, result_id)}
    return _tell(connection, frame_id, who, RESTORE, at=at, detail=detail)


def undo(connection: sa.Connection, who: str, *, at: float) -> tuple[int, int, str]:
    """Take back the last rejection or restoring by `who` that is not taken back yet.

    Returns
    -------
    event, frame_id : int
    action : str
        What was taken back.

    Raises
    ------
    LookupError
        If there is nothing to take back. What was done to particles of a frame that was
        measured anew since is left alone: their numbers stand for others now.
    """
    last = _last_change(connection, who)
    if last is None:
        raise LookupError(f"{who} has changed nothing that could be taken back")
    frame_id, action = int(last.subject.removeprefix("frame ")), last.action
    particles = last.detail.get("particles", [])
    match action:
        case "reject particles":
            event = restore_particles(connection, frame_id, particles, who, at=at)
        case "restore particles":
            event = reject_particles(connection, frame_id, particles, who, at=at)
        case _:
            rejected = action == RESTORE_FRAME
            event = set_frame_rejected(
                connection, frame_id, who, rejected=rejected, at=at
            )
    # Its own line says that neither the change nor its undoing is to be undone next.
    newest = sa.select(sa.func.max(audit.c.id)).where(audit.c.who == who)
    undoing = connection.execute(newest).scalar_one()
    note(connection, who, UNDO, last.subject, at=at, detail={"of": [last.id, undoing]})
    return event, frame_id, action


def _last_change(connection: sa.Connection, who: str) -> sa.Row | None:
    chosen = (
        sa.select(audit)
        .where(
            audit.c.who == who,
            audit.c.action.in_((REJECT, RESTORE, REJECT_FRAME, RESTORE_FRAME, UNDO)),
        )
        .order_by(audit.c.id.desc())
        .limit(_UNDO_DEPTH)
    )
    undone: set[int] = set()
    for row in connection.execute(chosen):
        if row.action == UNDO:
            undone.update(row.detail["of"])
        elif row.id not in undone and _still_stands(connection, row):
            return row
    return None


def _still_stands(connection: sa.Connection, change: sa.Row) -> bool:
    """Whether the particles of a change have the numbers that they had."""
    if change.action not in (REJECT, RESTORE):
        return True
    frame_id = int(change.subject.removeprefix("frame "))
    chosen = sa.select(results.c.id, results.c.saved_at).where(
        results.c.frame_id == frame_id, results.c.counts
    )
    now = connection.execute(chosen).first()
    then = (change.detail.get("result_id"), change.detail.get("saved_at"))
    return now is not None and tuple(now) == then


def _rejected(connection: sa.Connection, result_id: int) -> set[int]:
    chosen = sa.select(rejections.c.particle).where(rejections.c.result_id == result_id)
    return set(connection.scalars(chosen))


def _measured(connection: sa.Connection, result_id: int) -> dict[str, object]:
    """Return what tells one measurement of a frame from the next."""
    chosen = sa.select(results.c.saved_at).where(results.c.id == result_id)
    saved_at = connection.execute(chosen).scalar_one()
    return {"result_id": result_id, "saved_at": saved_at}


def _requeue(
    connection: sa.Connection, which: sa.ColumnElement[bool], states: tuple[str, ...]
) -> int:
    # Until its new result is in, a frame's old one counts no more: two calibrations must never
    # meet in one distribution.
    chosen = sa.select(frames.c.id).where(which, frames.c.state.in_(states))
    connection.execute(
        results.update().where(results.c.frame_id.in_(chosen)).values(counts=False)
    )
    return connection.execute(
        frames.update()
        .where(which, frames.c.state.in_(states))
        .values(state=QUEUED, attempts=0, crashes=0, reason=None)
    ).rowcount


def _counted_result(
    connection: sa.Connection, frame_id: int, particles: Collection[int]
) -> int:
    row = connection.execute(
        sa.select(results.c.id, results.c.particle_count).where(
            results.c.frame_id == frame_id, results.c.counts
        )
    ).first()
    if row is None:
        raise LookupError(f"frame {frame_id} has no result")
    unknown = sorted(
        label for label in particles if not 1 <= label <= row.particle_count
    )
    if unknown:
        raise LookupError(
            f"frame {frame_id} has particles 1 to {row.particle_count}, not {unknown[0]}"
        )
    return row.id


def _tell(
    connection: sa.Connection,
    frame_id: int,
    who: str,
    action: str,
    *,
    at: float,
    detail: Mapping[str, object] | None = None,
) -> int:
    note(connection, who, action, f"frame {frame_id}", at=at, detail=detail)
    of_session = sa.select(frames.c.session_id).where(frames.c.id == frame_id)
    session_id = connection.execute(of_session).scalar_one()
    told = {"frame_id": frame_id, "change": action, **(detail or {})}
    return announce(connection, "frame", told, at=at, session_id=session_id)
