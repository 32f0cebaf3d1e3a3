"""How many frames each model computed, and whose results a session's statistics are made of.

Every function works inside the caller's transaction.
"""

import sqlalchemy as sa

from gpu_server.events import announce, note
from gpu_server.tables import PROCESSED, frames, results, sessions


def count_by(
    connection: sa.Connection, session_id: int, model_id: str, who: str, *, at: float
) -> tuple[int, int, int]:
    """Let a model's results be those that a session's statistics count.

    Returns
    -------
    (int, int, int)
        Id of the event; frames counted by it; processed frames that it has no result for, which
        count as before.

    Raises
    ------
    LookupError
        If there is no such session, or the model has no result in it.
    """
    require_session(connection, session_id)
    processed = sa.select(frames.c.id).where(
        frames.c.session_id == session_id, frames.c.state == PROCESSED
    )
    of_model = sa.select(results.c.frame_id).where(
        results.c.model_id == model_id, results.c.frame_id.in_(processed)
    )
    chosen = list(connection.scalars(of_model))
    if not chosen:
        raise LookupError(
            f"model {model_id} has no result in session {session_id}; reprocess it by that model"
        )
    # First off, then on: the database refuses two that count, even for a moment.
    connection.execute(
        results.update()
        .where(results.c.counts, results.c.frame_id.in_(of_model))
        .values(counts=False)
    )
    connection.execute(
        results.update()
        .where(results.c.model_id == model_id, results.c.frame_id.in_(processed))
        .values(counts=True)
    )
    connection.execute(
        sessions.update().where(sessions.c.id == session_id).values(updated_at=at)
    )
    total = connection.scalar(
        sa.select(sa.func.count()).select_from(processed.subquery())
    )
    detail = {"model_id": model_id, "frames": len(chosen)}
    note(
        connection, who, "count by model", f"session {session_id}", at=at, detail=detail
    )
    told = {"session_id": session_id, "change": "counted", **detail}
    event = announce(connection, "session", told, at=at, session_id=session_id)
    return event, len(chosen), (total or 0) - len(chosen)


def frames_by_model(
    connection: sa.Connection, model_id: str | None = None
) -> dict[str, int]:
    """Return of how many frames each model, or one, has results; one without any is left out."""
    counts = sa.select(results.c.model_id, sa.func.count()).group_by(results.c.model_id)
    if model_id is not None:
        counts = counts.where(results.c.model_id == model_id)
    return {row[0]: row[1] for row in connection.execute(counts)}


def require_session(connection: sa.Connection, session_id: int) -> None:
    """Raise LookupError if there is no such session."""
    known = sa.select(sessions.c.id).where(sessions.c.id == session_id)
    if connection.execute(known).first() is None:
        raise LookupError(f"there is no session {session_id}")
