"""Adaptation jobs as their rows say: which there are, which is next, what earlier ones took."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from gpu_server.tables import (
    AWAITING_OPERATOR,
    CANCELLED,
    FAILED,
    OPEN_JOB_STATES,
    PROMOTED,
    QUEUED,
    REJECTED,
    STAGES,
    jobs,
)

Preset = Literal["quick", "standard", "paper"]

DISCARDED = "discarded by "
"""How the reason of a job begins whose work nobody wants any more; its state stays."""
DISCARDABLE = (CANCELLED, FAILED, REJECTED)
"""States of a job that ended without a model for anybody."""


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants learnt."""

    domain_id: int
    preset: Preset
    model: str
    """Id of the model to start from."""
    frames: int
    """How many of the domain's frames at most."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as its row says."""

    id: int
    domain_id: int
    state: str
    preset: Preset
    start_model: str
    frame_count: int
    seed: int
    who: str
    queued_at: float
    started_at: float | None
    ended_at: float | None
    cancel_wanted: bool
    attempts: int
    """Starts of its process since it last came further."""
    step: int
    steps: int
    """Of the stage."""
    eta_s: float | None
    seconds: dict[str, float]
    """Spent by stage."""
    candidate: str | None
    """Model id, once there is one."""
    reason: str | None

    @property
    def is_open(self) -> bool:
        """Whether it goes on by itself."""
        return self.state in OPEN_JOB_STATES

    @property
    def is_discarded(self) -> bool:
        """Whether its work is gone or going, so that it can never go on."""
        says_so = (self.reason or "").startswith(DISCARDED)
        return says_so and self.state in DISCARDABLE

    @property
    def can_resume(self) -> bool:
        """Whether it can go on where it was."""
        return self.state in {CANCELLED, FAILED} and not self.is_discarded


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a running job is."""

    stage: str
    step: int
    steps: int
    eta_s: float | None
    seconds: Mapping[str, float]


def find(connection: sa.Connection, job_id: int) -> Job:
    """Return one job.

    Raises
    ------
    LookupError
        If there is none of that number.
    """
    row = _first(connection, sa.select(jobs).where(jobs.c.id == job_id))
    if row is None:
        raise LookupError(f"there is no job {job_id}")
    return row


def job_list(
    connection: sa.Connection, domain_id: int | None = None, limit: int = 200
) -> list[Job]:
    """Return jobs, the newest first."""
    chosen = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if domain_id is not None:
        chosen = chosen.where(jobs.c.domain_id == domain_id)
    return [Job(**row) for row in connection.execute(chosen).mappings()]


def open_job(connection: sa.Connection, domain_id: int) -> Job | None:
    """Return the domain's job that waits or runs; there is one at most."""
    return _first(
        connection,
        sa.select(jobs).where(
            jobs.c.domain_id == domain_id, jobs.c.state.in_(OPEN_JOB_STATES)
        ),
    )


def next_job(connection: sa.Connection) -> Job | None:
    """Return what is to be done next: what was begun, else what has waited longest."""
    return _first(
        connection,
        sa.select(jobs)
        .where(jobs.c.state.in_(OPEN_JOB_STATES))
        .order_by(jobs.c.state == QUEUED, jobs.c.queued_at, jobs.c.id),
    )


def discarded(connection: sa.Connection) -> list[Job]:
    """Return the jobs whose work nobody wants any more."""
    says_so = sa.func.substr(jobs.c.reason, 1, len(DISCARDED)) == DISCARDED
    chosen = sa.select(jobs).where(jobs.c.state.in_(DISCARDABLE), says_so)
    return [Job(**row) for row in connection.execute(chosen).mappings()]


def ahead_of(connection: sa.Connection, job: Job) -> int:
    """Return how many jobs go before a queued one."""
    if job.state != QUEUED:
        return 0
    waiting = sa.or_(
        jobs.c.state.in_(STAGES),
        sa.and_(
            jobs.c.state == QUEUED,
            sa.tuple_(jobs.c.queued_at, jobs.c.id) < sa.tuple_(job.queued_at, job.id),
        ),
    )
    return connection.execute(
        sa.select(sa.func.count()).select_from(jobs).where(waiting)
    ).scalar_one()


def earlier_seconds(
    connection: sa.Connection, preset: str, limit: int = 5
) -> list[dict[str, float]]:
    """Return what the last jobs of a preset that came to an end spent, by stage."""
    ended = (AWAITING_OPERATOR, PROMOTED, REJECTED)
    found = connection.execute(
        sa.select(jobs.c.seconds)
        .where(jobs.c.preset == preset, jobs.c.state.in_(ended))
        .order_by(jobs.c.id.desc())
        .limit(limit)
    ).scalars()
    return [seconds for seconds in found if seconds]


def _first(connection: sa.Connection, chosen: sa.Select[tuple[object]]) -> Job | None:
    row = connection.execute(chosen).mappings().first()
    return Job(**row) if row else None
