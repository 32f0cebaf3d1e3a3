"""What happened to models, domains and jobs, as a list that a person reads."""

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from gpu_server import domains, promotion_rows
from gpu_server.page.learning_wording import STAGE_NAMES
from gpu_server.promotion_rows import Change
from gpu_server.shift_rows import SHIFT
from gpu_server.tables import (
    AWAITING_OPERATOR,
    CANCELLED,
    FAILED,
    PROMOTED,
    QUEUED,
    REJECTED,
    events,
    sessions,
)

Severity = Literal["good", "warn", "bad", "off"]

SHOWN = 100
_SEARCHED = 3000
"""Last events that are looked through: a job tells of every step."""
_DISCARDED = "discarded"
"""No state of a job's: of its events, for what they tell beside its state."""
_JOB_STATES: dict[str, tuple[Severity, str]] = {
    QUEUED: ("off", "queued"),
    AWAITING_OPERATOR: ("warn", "its candidate is ready"),
    PROMOTED: ("good", "its candidate was promoted"),
    REJECTED: ("off", "its candidate was turned down"),
    CANCELLED: ("off", "cancelled"),
    FAILED: ("bad", "failed"),
    _DISCARDED: ("off", "discarded"),
}


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened."""

    at: float
    severity: Severity
    what: str
    more: str = ""
    """Who did it, and why."""


def happenings(connection: sa.Connection) -> list[Happening]:
    """Return what happened lately, the newest first."""
    names = {row.id: row.name for row in domains.domain_list(connection)}
    changes = promotion_rows.history(connection, SHOWN)
    found = [_of_change(change) for change in changes]
    states: dict[int, str] = {}
    for row in _events(connection):
        told = (
            _of_job(row, names, states)
            if row.kind == "job"
            else _of_domain(row.at, row.data, row.name, names)
        )
        if told:
            found.append(told)
    return sorted(found, key=lambda one: -one.at)[:SHOWN]


def _events(connection: sa.Connection) -> list[sa.Row]:
    """Return events of domains and jobs, oldest first."""
    newest = sa.select(sa.func.max(events.c.id)).scalar_subquery()
    chosen = (
        sa.select(events.c.at, events.c.kind, events.c.data, sessions.c.name)
        .outerjoin(sessions, sessions.c.id == events.c.session_id)
        .where(
            events.c.id > newest - _SEARCHED,
            events.c.kind.in_(("domain", "job")),
        )
        .order_by(events.c.id)
    )
    return list(connection.execute(chosen))


def _of_change(change: Change) -> Happening:
    done = "Promoted" if change.undoes is None else "Rolled back to"
    more = f"by {change.who}" + (f": {change.reason}" if change.reason else "")
    return Happening(change.at, "good", f"{done} {change.model_id}", more)


def _of_domain(
    at: float, data: dict[str, object], session: str | None, names: dict[int, str]
) -> Happening | None:
    where = f"session {session}" if session else ""
    if data.get("change") == SHIFT:
        reason = str(data.get("reason") or "")
        match data.get("state"):
            case "shifted":
                return Happening(at, "warn", f"The image changed: {reason}", where)
            case "returned":
                what = f"Back in domain {_name(data, names)}"
                return Happening(at, "warn", what, where)
            case _:
                return Happening(at, "good", "The live model knows the frames", where)
    if data.get("change") == "renamed":
        return Happening(at, "off", f"A domain is called {data.get('name')}")
    return None


def _of_job(
    row: sa.Row, names: dict[int, str], states: dict[int, str]
) -> Happening | None:
    """Tell of a job's event if its state is another one than before."""
    job_id, state = row.data.get("job_id"), str(row.data.get("state"))
    if row.data.get("is_discarded"):
        state = _DISCARDED
    if not isinstance(job_id, int) or states.get(job_id) == state:
        return None
    states[job_id] = state
    severity, word = _JOB_STATES.get(
        state, ("off", STAGE_NAMES.get(state, state).lower())
    )
    about = f"adapting to {_name(row.data, names)}"
    reason = row.data.get("reason") if state in {FAILED, _DISCARDED} else None
    return Happening(
        row.at,
        severity,
        f"Job {job_id}: {word}",
        f"{about}. {reason}" if reason else about,
    )


def _name(data: dict[str, object], names: dict[int, str]) -> str:
    place = data.get("domain_id")
    return names.get(place, str(place)) if isinstance(place, int) else "a new domain"
