"""Sessions, frames, particles and distributions: what was found."""

import asyncio
import time
from typing import Annotated, Literal

import numpy as np
import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from emcopilot.messages import (
    Convergence,
    FrameAnswer,
    FramePage,
    ParticlesAnswer,
    PsdAnswer,
    SessionAnswer,
    TimelineAnswer,
)
from emcopilot.psd import Psd
from gpu_server.accounts import agent_names, last_event
from gpu_server.api.problems import PROBLEM_RESPONSES, ProblemError
from gpu_server.api.services import (
    Services,
    ServicesDep,
    frame_with_result,
    known_frame,
    known_session,
)
from gpu_server.distribution import measured, session_time_s, timeline
from gpu_server.particle_rows import (
    Columns,
    as_csv,
    as_parquet,
    as_rows,
    contract_columns,
    is_rejected,
    origin_of,
    read_particles,
)
from gpu_server.queries import (
    StoredFrame,
    StoredResult,
    StoredSession,
    counted_frames,
    frame_page,
    session_list,
    session_start,
)
from gpu_server.tables import FRAME_STATES, LEASED, PROCESSED, QUARANTINED, QUEUED

router = APIRouter(prefix="/api/v1", tags=["results"], responses=PROBLEM_RESPONSES)

Id = Annotated[int, Path(ge=1, le=2**62)]
Format = Literal["json", "csv", "parquet"]
_MEDIA: dict[str, Format] = {
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
}


@router.get("/sessions")
def sessions(services: ServicesDep) -> list[SessionAnswer]:
    """List all sessions, the most recently active first."""
    with services.store.read() as connection:
        names = agent_names(connection)
        return [_session_answer(found, names) for found in session_list(connection)]


@router.get("/sessions/{session_id}")
def session(services: ServicesDep, session_id: Id) -> SessionAnswer:
    """Describe one session and how its frames stand."""
    with services.store.read() as connection:
        found = known_session(connection, session_id)
        return _session_answer(found, agent_names(connection))


@router.get("/sessions/{session_id}/frames")
def session_frames(
    services: ServicesDep,
    session_id: Id,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    state: Literal[*FRAME_STATES] | None = None,  # pyright: ignore
) -> FramePage:
    """List a session's frames, the newest first; `before=next_before` gives the next page."""
    with services.store.read() as connection:
        known = known_session(connection, session_id)
        found = frame_page(
            connection, session_id, before=before, limit=limit, state=state
        )
        start = session_start(connection, session_id)
    total = known.states.get(state, 0) if state else sum(known.states.values())
    return FramePage(
        total=total,
        frames=[_frame_answer(one, start) for one in found],
        next_before=found[-1].id if len(found) == limit else None,
    )


@router.get("/frames/{frame_id}")
def one_frame(services: ServicesDep, frame_id: Id) -> FrameAnswer:
    """Describe one frame: where it comes from and what was found on it."""
    with services.store.read() as connection:
        found = known_frame(connection, frame_id)
        return _frame_answer(found, session_start(connection, found.session_id))


@router.get(
    "/frames/{frame_id}/particles",
    response_model=ParticlesAnswer,
    responses={200: {"content": {media: {} for media in _MEDIA}}},
)
def frame_particles(
    services: ServicesDep,
    request: Request,
    frame_id: Id,
    format: Format | None = None,
) -> Response:
    """Return the particle table; `format` goes before the Accept header."""
    with services.store.read() as connection:
        columns = _frame_columns(connection, frame_id)
    chosen = format or _accepted(request.headers.get("accept", ""))
    if chosen == "json":
        answer = ParticlesAnswer(particles=as_rows(columns))
        return Response(answer.model_dump_json(), media_type="application/json")
    name = f"frame_{frame_id}.particles.{chosen}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if chosen == "csv":
        return Response(as_csv(columns), headers=headers, media_type="text/csv")
    media = "application/vnd.apache.parquet"
    return Response(as_parquet(columns), headers=headers, media_type=media)


@router.get("/frames/{frame_id}/psd")
def frame_psd(services: ServicesDep, frame_id: Id) -> PsdAnswer:
    """Return the size distribution of one frame, rejections taken out."""
    with services.store.read() as connection:
        found = frame_with_result(connection, frame_id)
        return measured([found], last_event(connection))[0]


@router.get("/sessions/{session_id}/psd")
def session_psd(
    services: ServicesDep,
    session_id: Id,
    last_s: Annotated[float | None, Query(gt=0, le=1e9)] = None,
) -> PsdAnswer:
    """Return a session's size distribution: all of it, or results of the last seconds."""
    if last_s is None:
        return distribution_of(services, session_id)[0]
    with services.store.read() as connection:
        known_session(connection, session_id)
        recent = counted_frames(connection, session_id, since=time.time() - last_s)
        return measured(recent, last_event(connection))[0]


@router.get("/sessions/{session_id}/timeline")
def session_timeline(
    services: ServicesDep,
    session_id: Id,
    points: Annotated[int | None, Query(ge=8, le=100_000)] = None,
) -> TimelineAnswer:
    """Return mean diameter, count, dispersion and latency of every counted frame.

    With `points` it has no more entries than that, chosen so that no spike is lost.
    """
    with services.store.read() as connection:
        known_session(connection, session_id)
        return timeline(connection, session_id, points)


@router.get("/sessions/{session_id}/convergence")
async def convergence(
    services: ServicesDep,
    request: Request,
    session_id: Id,
    target: Annotated[float, Query(gt=0, lt=1)] = 0.02,
    wait_s: Annotated[float, Query(ge=0, le=600)] = 0.0,
) -> Convergence:
    """Say whether the mean diameter is known to `target`, a fraction of itself.

    With `wait_s` the answer comes as soon as it is known that well, or when time is up:
    what an acquisition script waits for.
    """
    started = time.monotonic()
    while True:
        # Counted before looking: what is announced meanwhile is not missed.
        seen = services.publisher.changes
        _, psd = await asyncio.to_thread(distribution_of, services, session_id)
        waited_s = time.monotonic() - started
        stop = waited_s >= wait_s or services.publisher.closing
        if stop or psd.enough(target) or await request.is_disconnected():
            return convergence_of(psd, target, waited_s)
        await services.publisher.changed(seen, wait_s - waited_s)


def distribution_of(services: Services, session_id: int) -> tuple[PsdAnswer, Psd]:
    """Return a session's distribution, as an answer and as measured."""
    with services.store.read() as connection:
        known_session(connection, session_id)
        return services.distributions.of_session(connection, session_id)


def convergence_of(psd: Psd, target: float, waited_s: float) -> Convergence:
    """Put into words whether a mean diameter is known to `target`."""
    in_all = psd.needed(target)
    return Convergence(
        known=psd.enough(target),
        relative_half_width=psd.relative_half_width,
        mean_diameter=psd.mean_number,
        unit=psd.unit,
        counted=psd.n,
        target=target,
        needed_more=None if in_all is None else max(0, in_all - psd.n),
        waited_s=waited_s,
    )


def _frame_columns(connection: sa.Connection, frame_id: int) -> Columns:
    found = frame_with_result(connection, frame_id)
    table = read_particles(connection, found)
    time_s = session_time_s(found, session_start(connection, found.session_id))
    return contract_columns(
        table, origin_of(found, time_s), is_rejected(found, len(table))
    )


def _accepted(accept: str) -> Format:
    """Choose by the Accept header, in the client's order; JSON unless another is named."""
    named = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for media in named:
        if media in _MEDIA:
            return _MEDIA[media]
        if media in {"application/json", "application/*", "*/*", ""}:
            return "json"
    raise ProblemError.not_acceptable(accept, ("application/json", *_MEDIA))


def _session_answer(found: StoredSession, names: dict[int, str]) -> SessionAnswer:
    states = found.states
    return SessionAnswer(
        id=found.id,
        name=found.name,
        folder=found.folder,
        agent_id=found.agent_id,
        agent=names.get(found.agent_id, ""),
        started_at=found.created_at,
        last_at=found.updated_at,
        frames=states.get(PROCESSED, 0)
        + states.get(QUEUED, 0)
        + states.get(LEASED, 0)
        + states.get(QUARANTINED, 0),
        processed=states.get(PROCESSED, 0),
        queued=states.get(QUEUED, 0) + states.get(LEASED, 0),
        quarantined=states.get(QUARANTINED, 0),
        rejected=found.rejected,
        pixel_size_nm=found.pixel_size_nm,
    )


def _figure(result: StoredResult | None, name: str) -> float | None:
    """Return what a result's summary says; results of earlier versions say less."""
    value = result.summary.get(name) if result else None
    return float(value) if isinstance(value, float | int) else None


def _frame_answer(found: StoredFrame, start: float | None) -> FrameAnswer:
    result = found.result
    sizes = found.diameters(found.unit)
    sizes = sizes[np.isfinite(sizes)]
    mean = float(sizes.mean()) if len(sizes) else None
    spread = float(sizes.std(ddof=1)) if len(sizes) > 1 else None
    border = int(np.isnan(result.diameters).sum()) if result else None
    doubtful = _figure(result, "doubtful")
    return FrameAnswer(
        id=found.id,
        session_id=found.session_id,
        session=found.session,
        name=found.source_key,
        number=found.number,
        page=found.page,
        state=found.state,
        rejected=found.is_rejected,
        reason=found.reason,
        height=found.height,
        width=found.width,
        pixel_size_nm=found.pixel_size_nm,
        pixel_size_source=found.pixel_size_source,
        modality=found.modality,
        time_s=session_time_s(found, start),
        acquired_at=found.written_at,
        model_id=result.model_id if result else None,
        unit=found.unit if result else None,
        particles=len(result.diameters) if result else None,
        counted=len(sizes) if result else None,
        excluded_border=border,
        mean_diameter=mean,
        median_diameter=float(np.median(sizes)) if len(sizes) else None,
        dispersion=spread / mean if spread is not None and mean else None,
        confidence=_figure(result, "confidence"),
        doubtful=None if doubtful is None else int(doubtful),
        doubtful_share=_figure(result, "doubtful_share"),
        infer_s=_figure(result, "infer_s"),
        latency_s=found.latency_s,
        notes=list(found.notes),
    )
