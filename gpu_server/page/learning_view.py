"""What the page knows of models, domains and jobs, read at one moment for all pages."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from emcopilot.frame_look import FrameLook
from emcopilot.look_words import usual_look
from gpu_server import domains, job_rows, promotion_rows, shift_rows
from gpu_server.api.services import Services
from gpu_server.domains import DomainRow
from gpu_server.job_rows import Job
from gpu_server.model_desk import ModelDesk
from gpu_server.objections import judgement, objection
from gpu_server.promotion_rows import Change
from gpu_server.registry import StoredModel
from gpu_server.shift_rows import Shift
from gpu_server.tables import AWAITING_OPERATOR, PROMOTED, REJECTED

_FRESH_S = 0.3
_REST_SHARE = 9.0
_SETTLED = (PROMOTED, REJECTED)
_JOBS_READ = 100
_SESSIONS_KEPT = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that waits for the operator's word."""

    model: StoredModel
    objection: str | None
    """What speaks against promoting it, so that it takes an override; None: nothing."""
    judged_against: str | None = None
    """The model that it was judged against, where another is live by now."""


@dataclass(frozen=True, slots=True)
class Learning:
    """How models, domains and jobs stand."""

    at: float
    """Unix time."""
    live: str | None = None
    """Id of the live model; None where this server has one model for good."""
    live_change: Change | None = None
    """How the live model came to be that."""
    rollback_to: str | None = None
    doing: str | None = None
    """Who is promoting what just now."""
    domain: DomainRow | None = None
    """Of the last frames of the session that is looked at."""
    look: str = ""
    """The domain's, in words."""
    domain_model_works: bool = False
    """Whether the model that the domain remembers can still be promoted."""
    shift: Shift | None = None
    job: Job | None = None
    """The job that concerns the operator most."""
    ahead: int = 0
    """Jobs before that one, while it is queued."""
    candidate: Candidate | None = None
    """That job's, while it waits for the operator."""
    others: list[Job] = field(default_factory=list[Job])
    """Further jobs that run, wait for their turn, or wait for the operator."""
    domain_names: dict[int, str] = field(default_factory=dict[int, str])
    trouble: str | None = None
    """Why no job runs, where that is so."""
    has_models: bool = False
    has_jobs: bool = False


class LearningReader:
    """Reads for every open page; what is the same for all is read once.

    Parameters
    ----------
    services : callable
    """

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services
        self._reading = threading.Lock()
        self._kept: dict[int | None, tuple[Learning, float]] = {}

    def read(self, session_id: int | None, *, anew: bool = False) -> Learning:
        """Return how things stand for a session's viewers; blocks for milliseconds.

        Parameters
        ----------
        session_id : int, optional
        anew : bool
            After a change of one's own, not what was read a moment ago.

        Raises
        ------
        StoreError
            If the database cannot be read just now.
        """
        with self._reading:
            kept = self._kept.get(session_id)
            if kept and not anew and time.monotonic() < kept[1]:
                return kept[0]
            began = time.monotonic()
            found = _read(self._services(), session_id)
            ended = time.monotonic()
            # A long history of events takes long to search: a tenth of the time at most.
            rest_s = max(_FRESH_S, _REST_SHARE * (ended - began))
            if len(self._kept) >= _SESSIONS_KEPT:
                self._kept.clear()
            self._kept[session_id] = found, ended + rest_s
            return found


def _read(services: Services, session_id: int | None) -> Learning:
    desk = services.models
    if desk is None:
        return Learning(time.time())
    probe = services.probes.get("adaptation")
    with services.store.read() as connection:
        known = domains.domain_list(connection)
        domain = _domain(connection, known, session_id)
        jobs = job_rows.job_list(connection, limit=_JOBS_READ)
        job = job_to_tell(jobs, domain.id if domain else None)
        return Learning(
            at=time.time(),
            live=desk.registry.live(connection),
            live_change=promotion_rows.last(connection),
            rollback_to=promotion_rows.model_to_return_to(connection),
            doing=desk.promotion.doing,
            domain=domain,
            look=_look(domain),
            domain_model_works=_remembers(connection, domain),
            shift=_shift(connection, session_id),
            job=job,
            ahead=job_rows.ahead_of(connection, job) if job else 0,
            candidate=_candidate(connection, desk, job),
            others=_others(jobs, job),
            domain_names={row.id: row.name for row in known},
            trouble=probe() if probe else None,
            has_models=True,
            has_jobs=services.jobs is not None,
        )


def job_to_tell(jobs: list[Job], domain_id: int | None) -> Job | None:
    """Return the job that concerns the viewer of a domain most, of jobs the newest first.

    The domain's own last one, unless it is settled or discarded; else one that runs, else one that
    waits for the operator.
    """
    own = next((job for job in jobs if job.domain_id == domain_id), None)
    if own and own.state not in _SETTLED and not own.is_discarded:
        return own
    begun = (job for job in reversed(jobs) if job.is_open)
    waiting = (job for job in jobs if job.state == AWAITING_OPERATOR)
    return next(begun, None) or next(waiting, None)


def _others(jobs: list[Job], told: Job | None) -> list[Job]:
    return [
        job
        for job in reversed(jobs)
        if (job.is_open or job.state == AWAITING_OPERATOR)
        and (told is None or job.id != told.id)
    ]


def _domain(
    connection: sa.Connection, known: list[DomainRow], session_id: int | None
) -> DomainRow | None:
    if session_id is None:
        return None
    place = shift_rows.last_domain(connection, session_id)
    return next((row for row in known if row.id == place), None)


def _look(domain: DomainRow | None) -> str:
    if domain is None:
        return ""
    return usual_look(FrameLook.from_bytes(domain.look).vector[None])


def _remembers(connection: sa.Connection, domain: DomainRow | None) -> bool:
    model_id, _ = shift_rows.model_of(connection, domain.id if domain else None)
    return model_id is not None


def _shift(connection: sa.Connection, session_id: int | None) -> Shift | None:
    found = (
        one.shift
        for one in shift_rows.shifts(connection)
        if one.session_id == session_id
    )
    return next(found, None)


def _candidate(
    connection: sa.Connection, desk: ModelDesk, job: Job | None
) -> Candidate | None:
    if job is None or job.state != AWAITING_OPERATOR or job.candidate is None:
        return None
    try:
        model = desk.registry.find(connection, job.candidate)
    except LookupError:
        return None
    incumbent = judgement(desk.registry, connection, model).incumbent
    is_live = incumbent == desk.registry.live(connection)
    against = objection(desk.registry, connection, model)
    return Candidate(model, against, None if is_live else incumbent)
