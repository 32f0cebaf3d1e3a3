"""The button over REST: estimate, adapt, watch, cancel, resume, turn down, discard.

Promotion is `/models/{id}/promote`.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import JsonValue

from emcopilot.errors import AdaptationError
from emcopilot.job_messages import (
    Curve,
    EstimateAnswer,
    JobAnswer,
    JobDetail,
    JobRequest,
    Preset,
)
from emcopilot.messages import Problem
from gpu_server import job_rows, job_view
from gpu_server.api.corrections import Operator
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.results import Id
from gpu_server.api.services import Services, ServicesDep
from gpu_server.job_clearing import WorkLeftError, folder_bytes
from gpu_server.job_desk import JobDesk, NoSpaceError, TooFewFramesError
from gpu_server.job_rows import Job
from gpu_server.jobs import JobConflictError
from gpu_server.tables import STAGES

router = APIRouter(prefix="/api/v1", tags=["jobs"], responses=PROBLEM_RESPONSES)

Frames = Annotated[int | None, Query(ge=1, le=5000)]


@router.get("/domains/{domain_id}/estimate")
def estimate(
    services: ServicesDep,
    domain_id: Id,
    preset: Preset | None = None,
    frames: Frames = None,
) -> EstimateAnswer:
    """Say how long a job would take, stage by stage."""
    desk = _desk(services)
    chosen = preset or desk.usual_preset()
    try:
        found = desk.estimate(domain_id, chosen, frames)
    except AdaptationError as error:
        raise _problem(error) from error
    return EstimateAnswer(
        preset=chosen, stages=found.stages, total_s=found.total_s, source=found.source
    )


@router.post("/domains/{domain_id}/adapt", status_code=202)
async def adapt(
    services: ServicesDep, who: Operator, domain_id: Id, request: JobRequest
) -> JobAnswer:
    """Queue a job that learns a domain; it ends with a candidate, and nothing goes live."""
    desk = _desk(services)

    def order() -> Job:
        return desk.order(
            domain_id,
            who.name,
            preset=request.preset or desk.usual_preset(),
            model=request.model,
            wanted=request.frames,
            seed=request.seed,
        )

    return await _change(services, order)


@router.get("/jobs")
def job_list(
    services: ServicesDep,
    domain: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[JobAnswer]:
    """List jobs, the newest first."""
    with services.store.read() as connection:
        found = job_rows.job_list(connection, domain, limit)
        ahead = [job_rows.ahead_of(connection, job) for job in found]
    return [
        JobAnswer.model_validate(_told(job, count))
        for job, count in zip(found, ahead, strict=True)
    ]


@router.get("/jobs/{job_id}")
def one_job(services: ServicesDep, job_id: Id) -> JobDetail:
    """Describe one job: how far it is, its curves, its pictures, and what room it takes."""
    job, ahead = _known(services, job_id)
    folder = _desk(services).folder(job_id)
    course = [
        Curve(stage=one.stage, figure=one.figure, step=one.step, value=one.value)
        for one in job_view.curves(folder)
    ]
    return JobDetail.model_validate(
        _told(job, ahead)
        | {
            "stages": list(STAGES),
            "curves": course,
            "pictures": job_view.pictures(folder),
            "folder": folder.relative_to(services.store.data_dir).as_posix(),
            "bytes": folder_bytes(folder),
        }
    )


@router.get("/jobs/{job_id}/pictures")
def job_pictures(services: ServicesDep, job_id: Id) -> list[str]:
    """List a job's sample pictures; there are more as it goes on."""
    _known(services, job_id)
    return job_view.pictures(_desk(services).folder(job_id))


@router.get("/jobs/{job_id}/pictures/{name}.png", response_class=Response)
def job_picture(services: ServicesDep, job_id: Id, name: str) -> Response:
    """Return one sample picture: frames with outlines, as the stage left them."""
    _known(services, job_id)
    data = job_view.picture(_desk(services).folder(job_id), name)
    return Response(data, media_type="image/png")


@router.get("/jobs/{job_id}/report")
def job_report(services: ServicesDep, job_id: Id) -> dict[str, JsonValue]:
    """Return the report on the candidate: its figures, the verdict, and why."""
    _known(services, job_id)
    return job_view.report(_desk(services).folder(job_id))


@router.post("/jobs/{job_id}/cancel")
async def cancel(services: ServicesDep, who: Operator, job_id: Id) -> JobAnswer:
    """Stop a job; it saves where it is, and can go on later."""
    desk = _desk(services)
    return await _change(services, lambda: desk.cancel(job_id, who.name))


@router.post("/jobs/{job_id}/resume")
async def resume(services: ServicesDep, who: Operator, job_id: Id) -> JobAnswer:
    """Let a cancelled or failed job go on where it was."""
    desk = _desk(services)
    return await _change(services, lambda: desk.resume(job_id, who.name))


@router.post("/jobs/{job_id}/reject")
async def reject(services: ServicesDep, who: Operator, job_id: Id) -> JobAnswer:
    """Turn a candidate down; it stays in the registry until it is deleted."""
    desk = _desk(services)
    return await _change(services, lambda: desk.reject(job_id, who.name))


@router.post("/jobs/{job_id}/discard")
async def discard(services: ServicesDep, who: Operator, job_id: Id) -> JobAnswer:
    """Give up a cancelled, failed or rejected job: its work goes, its report and pictures stay."""
    desk = _desk(services)
    return await _change(services, lambda: desk.discard(job_id, who.name))


async def _change(services: Services, change: Callable[[], Job]) -> JobAnswer:
    try:
        job = await asyncio.to_thread(change)
    except AdaptationError as error:
        services.ring_jobs()  # a discarded job's row changed, whatever its files do
        raise _problem(error) from error
    services.ring_jobs()
    _, ahead = await asyncio.to_thread(_known, services, job.id)
    return JobAnswer.model_validate(_told(job, ahead))


def _desk(services: Services) -> JobDesk:
    if services.jobs is None:
        raise ProblemError.not_found("this server runs no adaptation jobs")
    return services.jobs


def _known(services: Services, job_id: int) -> tuple[Job, int]:
    with services.store.read() as connection:
        job = job_rows.find(connection, job_id)
        return job, job_rows.ahead_of(connection, job)


def _told(job: Job, ahead: int) -> dict[str, object]:
    return {
        "id": job.id,
        "domain_id": job.domain_id,
        "state": job.state,
        "preset": job.preset,
        "model": job.start_model,
        "frames": job.frame_count,
        "seed": job.seed,
        "who": job.who,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "ahead": ahead,
        "step": job.step,
        "steps": job.steps,
        "eta_s": job.eta_s,
        "seconds": job.seconds,
        "is_cancelling": job.cancel_wanted and job.is_open,
        "candidate": job.candidate,
        "reason": job.reason,
        "is_discarded": job.is_discarded,
    }


_PROBLEMS: tuple[tuple[type[AdaptationError], int, str, str], ...] = (
    (JobConflictError, 409, "Not in this state", "see GET /api/v1/jobs"),
    (TooFewFramesError, 422, "Too few frames", "acquire some more of this domain"),
    (NoSpaceError, 507, "The disk is too full", "free some room on the data disk"),
    (
        WorkLeftError,
        500,
        "Its files are still there",
        "see to the disk, then discard it again",
    ),
)


def _problem(error: AdaptationError) -> ProblemError:
    for kind, status, title, remedy in _PROBLEMS:
        if isinstance(error, kind):
            return ProblemError(
                Problem(title=title, status=status, detail=str(error), do=remedy)
            )
    return ProblemError(
        Problem(title="No job", status=422, detail=str(error), do="see the detail")
    )
