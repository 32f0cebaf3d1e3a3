"""The outbox: what happened, written in the transaction that made it happen.

Viewers read it by id and resume after the last one they saw; nothing is announced that was
not committed, and nothing committed goes unannounced.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from gpu_server.tables import audit, events

KEPT = 100_000
"""Events that a viewer can resume over; older ones are dropped."""

_PRUNE_EVERY = 1_000


def announce(
    connection: sa.Connection,
    kind: str,
    data: Mapping[str, object],
    *,
    at: float,
    session_id: int | None = None,
) -> int:
    """Add one event and return its id; `kind` is one of `tables.EVENT_KINDS`."""
    event_id = connection.execute(
        events.insert().values(kind=kind, data=dict(data), at=at, session_id=session_id)
    ).inserted_primary_key[0]  # pyright: ignore[reportOptionalSubscript]
    if event_id % _PRUNE_EVERY == 0:
        # How a session stands to the live model is told once and holds for days: those events, a
        # handful a session, stay (`gpu_server.shift_rows`).
        connection.execute(
            events.delete().where(
                events.c.id <= event_id - KEPT, events.c.kind != "domain"
            )
        )
    return event_id


def note(
    connection: sa.Connection,
    who: str,
    action: str,
    subject: str,
    *,
    at: float,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Add one line to the audit: who did what to which thing."""
    connection.execute(
        audit.insert().values(
            at=at, who=who, action=action, subject=subject, detail=dict(detail or {})
        )
    )
