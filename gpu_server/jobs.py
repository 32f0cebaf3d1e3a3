"""Adaptation jobs as rows: who wants which domain learnt, how far it is, what came of it.

A job is queued, goes through its stages, and then waits for the operator. Where a job is open,
whatever stops goes on: the row says from where. Every function works inside the caller's
transaction, and every change of state leaves an event; what a person did, a line in the audit.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from emcopilot.errors import AdaptationError
from gpu_server.events import announce, note
from gpu_server.job_rows import (
    DISCARDABLE,
    DISCARDED,
    Job,
    Order,
    Standing,
    find,
    open_job,
)
from gpu_server.tables import (
    AWAITING_OPERATOR,
    CANCELLED,
    PROMOTED,
    QUEUED,
    REJECTED,
    STAGES,
    domains,
    jobs,
)

_BEFORE = "; before that: "
"""In a discarded job's reason, ahead of why it had stopped."""


class JobConflictError(AdaptationError):
    """The job, or another one of its domain, is not in a state that allows this."""


def add(connection: sa.Connection, order: Order, who: str, *, at: float) -> Job:
    """Queue a job.

    Raises
    ------
    LookupError
        If there is no such domain.
    JobConflictError
        If a job of this domain is open: two presses make one job.
    """
    known = sa.select(domains.c.id).where(domains.c.id == order.domain_id)
    if connection.execute(known).first() is None:
        raise LookupError(f"there is no domain {order.domain_id}")
    _require_none_open(connection, order.domain_id)
    job_id = connection.execute(
        jobs.insert().values(
            domain_id=order.domain_id,
            state=QUEUED,
            preset=order.preset,
            start_model=order.model,
            frame_count=order.frames,
            seed=order.seed,
            who=who,
            queued_at=at,
        )
    ).inserted_primary_key[0]  # pyright: ignore[reportOptionalSubscript]
    detail = {
        "preset": order.preset,
        "model": order.model,
        "frames": order.frames,
        "seed": order.seed,
    }
    note(connection, who, "adapt", f"domain {order.domain_id}", at=at, detail=detail)
    return tell(connection, job_id, at=at)


def begin(connection: sa.Connection, job_id: int, *, at: float) -> Job:
    """Count one start of a job's process; a queued job is then in its first stage.

    One that was stopped since it was found to be the next stays as it is.
    """
    job = find(connection, job_id)
    if not job.is_open:
        return job
    values: dict[str, object] = {"attempts": job.attempts + 1}
    if job.state == QUEUED:
        values |= {"state": STAGES[0], "step": 0, "steps": 0}
    if job.started_at is None:
        values["started_at"] = at
    _set(connection, job_id, values)
    return tell(connection, job_id, at=at)


def put_off(connection: sa.Connection, job_id: int) -> None:
    """Take a start back: the server ended, not the job's process."""
    _set(connection, job_id, {"attempts": sa.func.max(jobs.c.attempts - 1, 0)})


def remark(connection: sa.Connection, job_id: int, reason: str) -> None:
    """Keep why a job's process died, for the case that it does so again."""
    _set(connection, job_id, {"reason": reason})


def advance(
    connection: sa.Connection,
    job_id: int,
    standing: Standing,
    *,
    is_further: bool,
    tells: bool,
    at: float,
) -> None:
    """Write down how far a job is.

    Parameters
    ----------
    connection : Connection
    job_id : int
    standing : Standing
        Of a stage that is not known, nothing is written.
    is_further : bool
        Whether it never was as far: then its starts are counted anew.
    tells : bool
        Whether it is worth an event.
    at : float
    """
    if standing.stage not in STAGES:
        return
    values: dict[str, object] = {
        "state": standing.stage,
        "step": standing.step,
        "steps": standing.steps,
        "eta_s": standing.eta_s,
        "seconds": dict(standing.seconds),
    }
    if is_further:
        values |= {"attempts": 0, "reason": None}
    _set(connection, job_id, values)
    if tells:
        tell(connection, job_id, at=at)


def end(
    connection: sa.Connection,
    job_id: int,
    state: str,
    *,
    at: float,
    reason: str | None = None,
    candidate: str | None = None,
) -> Job:
    """Write down that a job stands still now, and why."""
    values = {"state": state, "ended_at": at, "reason": reason, "eta_s": None}
    if candidate is not None:
        values["candidate"] = candidate
    _set(connection, job_id, values)
    return tell(connection, job_id, at=at)


def cancel(connection: sa.Connection, job_id: int, who: str, *, at: float) -> Job:
    """Wish an open job to stop; one that waits stops at once.

    Raises
    ------
    LookupError
        If there is no such job.
    JobConflictError
        If it stands still already.
    """
    job = find(connection, job_id)
    if not job.is_open:
        raise JobConflictError(
            f"job {job_id} is {job.state}: there is nothing to cancel"
        )
    note(connection, who, "cancel job", f"job {job_id}", at=at)
    _set(connection, job_id, {"cancel_wanted": True})
    if job.state == QUEUED:
        return end(connection, job_id, CANCELLED, at=at, reason=f"cancelled by {who}")
    return tell(connection, job_id, at=at)


def resume(connection: sa.Connection, job_id: int, who: str, *, at: float) -> Job:
    """Queue a cancelled or failed job again; it goes on where it was.

    Raises
    ------
    LookupError
        If there is no such job.
    JobConflictError
        If it is in another state, or discarded, or another job of its domain is open.
    """
    job = find(connection, job_id)
    if job.is_discarded:
        by_whom = (job.reason or "").partition(_BEFORE)[0]
        raise JobConflictError(
            f"job {job_id} was {by_whom}: its work is gone; adapt to its domain anew"
        )
    if not job.can_resume:
        raise JobConflictError(
            f"job {job_id} is {job.state}; only a cancelled or failed one can go on"
        )
    _require_none_open(connection, job.domain_id)
    note(connection, who, "resume job", f"job {job_id}", at=at)
    values = {
        "state": QUEUED,
        "queued_at": at,
        "ended_at": None,
        "cancel_wanted": False,
        "attempts": 0,
        "reason": None,
    }
    _set(connection, job_id, values)
    return tell(connection, job_id, at=at)


def reject(connection: sa.Connection, job_id: int, who: str, *, at: float) -> Job:
    """Say that a job's candidate is not wanted.

    Raises
    ------
    LookupError
        If there is no such job.
    JobConflictError
        If no candidate of it waits for a word.
    """
    job = find(connection, job_id)
    if job.state != AWAITING_OPERATOR:
        raise JobConflictError(
            f"job {job_id} is {job.state}; only a candidate that waits can be rejected"
        )
    note(
        connection,
        who,
        "reject candidate",
        f"job {job_id}",
        at=at,
        detail={"model_id": job.candidate},
    )
    _set(connection, job_id, {"state": REJECTED, "reason": f"rejected by {who}"})
    return tell(connection, job_id, at=at)


def discard(connection: sa.Connection, job_id: int, who: str, *, at: float) -> Job:
    """Say that nobody wants a job's work any more; said again, it changes nothing.

    To be committed before its folder is cleared: a job that may still go on has all of it.

    Raises
    ------
    LookupError
        If there is no such job.
    JobConflictError
        If it goes on, waits for the operator, or its candidate was promoted.
    """
    job = find(connection, job_id)
    if job.is_discarded:
        return job
    if job.state not in DISCARDABLE:
        raise JobConflictError(
            f"job {job_id} is {job.state}, so it cannot be discarded: {_first_do(job)}"
        )
    detail = {"state": job.state, "reason": job.reason}
    note(connection, who, "discard job", f"job {job_id}", at=at, detail=detail)
    before = f"{_BEFORE}{job.reason}" if job.reason else ""
    _set(connection, job_id, {"reason": f"{DISCARDED}{who}{before}"})
    return tell(connection, job_id, at=at)


def _first_do(job: Job) -> str:
    """Say what comes before a job can be discarded."""
    if job.is_open:
        return "cancel it and wait until it has stopped"
    if job.state == PROMOTED:
        return "its work is gone already, only its report and pictures are left"
    return "promote its candidate, or turn it down first"


def tell(connection: sa.Connection, job_id: int, *, at: float) -> Job:
    """Leave an event that says how a job stands; returns the job."""
    job = find(connection, job_id)
    told = {
        "job_id": job.id,
        "domain_id": job.domain_id,
        "state": job.state,
        "step": job.step,
        "steps": job.steps,
        "eta_s": job.eta_s,
        "candidate": job.candidate,
        "reason": job.reason,
        "is_discarded": job.is_discarded,
    }
    announce(connection, "job", told, at=at)
    return job


def open_conflict(other: Job) -> JobConflictError:
    """Return the refusal of a second job of a domain, naming the first."""
    return JobConflictError(
        f"job {other.id} of domain {other.domain_id} is {other.state} already, wanted by "
        f"{other.who}; wait for it, or cancel it first"
    )


def _require_none_open(connection: sa.Connection, domain_id: int) -> None:
    if other := open_job(connection, domain_id):
        raise open_conflict(other)


def _set(connection: sa.Connection, job_id: int, values: Mapping[str, object]) -> None:
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values))
