"""What the alarm said of each session, as events of kind "domain", and what it says it from."""

from dataclasses import asdict, dataclass
from typing import Literal

import sqlalchemy as sa

from gpu_server import promotion_rows
from gpu_server.domains import SETTLED
from gpu_server.events import announce
from gpu_server.tables import (
    domains,
    events,
    frames,
    looks,
    models,
    sessions,
)

ShiftState = Literal["ok", "shifted", "returned"]
SHIFT = "shift"
"""The `change` of the alarm's events."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the operator could do about it."""

    action: Literal["adapt", "promote"]
    domain_id: int | None
    """None: fewer than three frames agree on one yet."""
    model_id: str | None = None
    """Which to promote."""
    selects: bool = False
    """Whether the server turns to it without being asked."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How a session stands to the live model."""

    state: ShiftState
    reason: str
    """In words; empty where nothing is wrong."""
    model_id: str
    """That was live."""
    domain_id: int | None = None
    """The domain that the session is in."""
    proposal: Proposal | None = None
    since_frame_id: int | None = None

    def is_like(self, other: "Shift") -> bool:
        """Say whether there is no news between the two."""
        mine, theirs = (
            (s.state, s.model_id if s.state != "ok" else None, s.proposal)
            for s in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True, slots=True)
class SessionShift:
    """The last that is known of a session."""

    session_id: int
    session: str
    at: float
    shift: Shift


def tell(connection: sa.Connection, session_id: int, shift: Shift, *, at: float) -> int:
    """Announce how a session stands; return the event's id."""
    told = {"change": SHIFT, "session_id": session_id, **asdict(shift)}
    return announce(connection, "domain", told, at=at, session_id=session_id)


def last_shift(connection: sa.Connection, session_id: int) -> Shift | None:
    """Return what was last said of a session, None if nothing ever was."""
    row = connection.execute(
        _SHIFTS.where(events.c.session_id == session_id)
        .order_by(events.c.id.desc())
        .limit(1)
    ).first()
    return _read(row.data) if row else None


def shifts(connection: sa.Connection, limit: int = 50) -> list[SessionShift]:
    """Return how the sessions stand of which anything was said, the last first.

    What was said under another model than the live one holds no more: such sessions are "ok"
    until their next frames say otherwise.
    """
    newest = (
        sa.select(sa.func.max(events.c.id))
        .where(events.c.kind == "domain", events.c.data["change"].as_string() == SHIFT)
        .group_by(events.c.session_id)
    )
    found = connection.execute(
        sa.select(events.c.at, events.c.data, sessions.c.id, sessions.c.name)
        .join(sessions, sessions.c.id == events.c.session_id)
        .where(events.c.id.in_(newest))
        .order_by(events.c.id.desc())
        .limit(limit)
    )
    last = promotion_rows.last(connection)
    live = last.model_id if last else None
    return [
        SessionShift(row.id, row.name, row.at, _under(live, _read(row.data)))
        for row in found
    ]


def last_undone(connection: sa.Connection) -> str | None:
    """Return the model that a roll back took back; None if the last change was none."""
    last = promotion_rows.last(connection)
    return last.replaced if last and last.undoes is not None else None


def last_domain(connection: sa.Connection, session_id: int) -> int | None:
    """Return the settled domain that frames of a session joined last; None: none did."""
    return connection.execute(
        sa.select(looks.c.domain_id)
        .join(frames, frames.c.id == looks.c.frame_id)
        .join(domains, domains.c.id == looks.c.domain_id)
        .where(frames.c.session_id == session_id, domains.c.frame_count >= SETTLED)
        .order_by(frames.c.id.desc())
        .limit(1)
    ).scalar()


def model_of(
    connection: sa.Connection, domain_id: int | None
) -> tuple[str | None, bool]:
    """Return the model that a domain remembers and whether it is selected unasked.

    A model that was deleted is proposed to nobody.
    """
    if domain_id is None:
        return None, False
    row = connection.execute(
        sa.select(domains.c.model_id, domains.c.selects_model)
        .join(models, models.c.model_id == domains.c.model_id)
        .where(domains.c.id == domain_id, models.c.deleted_at.is_(None))
    ).first()
    return (row.model_id, row.selects_model) if row else (None, False)


def _under(live: str | None, shift: Shift) -> Shift:
    if live is None or live == shift.model_id or shift.state == "ok":
        return shift
    return Shift("ok", "", live, shift.domain_id)


def _read(data: dict[str, object]) -> Shift:
    told = {key: value for key, value in data.items() if key in Shift.__slots__}
    proposal = told.pop("proposal", None)
    known = Proposal(**proposal) if isinstance(proposal, dict) else None
    return Shift(**told, proposal=known)  # type: ignore[arg-type]


_SHIFTS = sa.select(events.c.data).where(
    events.c.kind == "domain", events.c.data["change"].as_string() == SHIFT
)
