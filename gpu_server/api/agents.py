"""Agents, the queue, and everything that has no result: the page's lights over REST."""

import time
from typing import Literal

import sqlalchemy as sa
from fastapi import APIRouter

from emcopilot.messages import AgentAnswer, ProblemFile, Stats
from gpu_server.accounts import (
    agent_rows,
    file_account,
    last_event,
    problem_files,
    queue_account,
)
from gpu_server.api.problems import PROBLEM_RESPONSES
from gpu_server.api.services import ServicesDep
from gpu_server.tables import LEASED, PROCESSED, QUARANTINED, QUEUED, SUPERSEDED

router = APIRouter(prefix="/api/v1", tags=["accounts"], responses=PROBLEM_RESPONSES)

_SILENT_S = 15.0
"""Agents ping every few seconds; one that missed several is not just slow."""


@router.get("/agents")
def agents(services: ServicesDep) -> list[AgentAnswer]:
    """List the acquisition agents and their own account of their files."""
    now = time.time()
    with services.store.read() as connection:
        return [_agent_answer(row, now) for row in agent_rows(connection)]


@router.get("/problems")
def problems(services: ServicesDep) -> list[ProblemFile]:
    """List files and frames without a result, by name and with the reason."""
    with services.store.read() as connection:
        return problem_files(connection)


@router.get("/stats")
def stats(services: ServicesDep) -> Stats:
    """Tell what waits, what is done, and whether the accounts balance."""
    publisher = services.publisher
    with services.store.read() as connection:
        queue = queue_account(connection)
        told = file_account(connection)
        event = last_event(connection)
    waiting_since = queue.oldest_queued_at
    median_s, high_s = queue.latencies_s or (None, None)
    return Stats(
        queued=queue.states[QUEUED],
        leased=queue.states[LEASED],
        processed=queue.states[PROCESSED],
        quarantined=queue.states[QUARANTINED],
        superseded=queue.states[SUPERSEDED],
        lag_s=max(0.0, time.time() - waiting_since) if waiting_since else 0.0,
        latency_p50_s=median_s,
        latency_p95_s=high_s,
        viewers=publisher.viewers,
        skipped=publisher.skipped,
        discovered=told.discovered,
        stored=told.stored,
        pending=told.pending,
        vanished=told.vanished,
        rejected=told.rejected,
        balanced=told.is_balanced,
        last_event=event,
    )


def _agent_answer(row: sa.Row, now: float) -> AgentAnswer:
    silent_s = None if row.seen_at is None else max(0.0, now - row.seen_at)
    return AgentAnswer(
        id=row.id,
        name=row.name,
        host=row.host or None,
        version=row.version or None,
        enrolled=row.revoked_at is None,
        last_seen_s=silent_s,
        light=_light(row, silent_s),
        discovered=row.discovered,
        stored=row.stored,
        pending=row.pending,
        vanished=row.vanished,
        rejected=row.rejected,
        pending_bytes=row.pending_bytes,
        oldest_unsent_s=row.oldest_unsent_s,
        problems=row.problems,
    )


def _light(row: sa.Row, silent_s: float | None) -> Literal["green", "yellow", "red"]:
    if row.revoked_at is not None or silent_s is None or silent_s > _SILENT_S:
        return "red"
    return "yellow" if row.problems or row.vanished else "green"
