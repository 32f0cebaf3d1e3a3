"""Reads that account for every file and frame: agents, queue, problems, events."""

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from emcopilot.messages import Event, ProblemFile
from gpu_server.tables import (
    FRAME_STATES,
    QUARANTINED,
    QUEUED,
    agents,
    events,
    files,
    frames,
    gone,
    results,
)

_LATENCY_FRAMES = 200
"""Latency figures describe now, not last week."""
_NAMES = sa.select(agents.c.id, agents.c.name)
_GONE_KINDS = ("vanished", "changed", "unreadable", "rejected")


@dataclass(frozen=True, slots=True)
class QueueAccount:
    """How the frames of stored files stand."""

    states: dict[str, int]
    """Frames by state; every state is there."""
    oldest_queued_at: float | None
    """Unix time at which the longest-waiting frame's file was stored."""
    latencies_s: tuple[float, float] | None
    """Median and 95th percentile over the last frames, file complete to result."""


@dataclass(frozen=True, slots=True)
class FileAccount:
    """The agents' own account of their files, summed, beside what lies here."""

    discovered: int
    stored: int
    pending: int
    vanished: int
    rejected: int
    here: int
    """Files that this server has stored for those agents."""

    @property
    def is_balanced(self) -> bool:
        """Whether every discovered file is stored, pending or listed by name."""
        listed = self.stored + self.pending + self.vanished + self.rejected
        return self.discovered == listed


def last_event(connection: sa.Connection) -> int:
    """Return the newest event's id: it grows with every change that shows."""
    return connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0


def events_after(
    connection: sa.Connection, after: int, *, limit: int = 256
) -> list[Event]:
    """Return the events that follow `after`, the oldest first."""
    chosen = (
        sa.select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
    )
    return [
        Event(
            id=row.id,
            at=row.at,
            kind=row.kind,
            session_id=row.session_id,
            frame_id=row.data.get("frame_id"),
            body=row.data,
        )
        for row in connection.execute(chosen)
    ]


def agent_rows(connection: sa.Connection) -> list[sa.Row]:
    """Return the agents that are or were enrolled; uploads over REST are none."""
    enrolled = sa.select(agents).where(agents.c.public_key.is_not(None))
    return list(connection.execute(enrolled.order_by(agents.c.id)))


def agent_names(connection: sa.Connection) -> dict[int, str]:
    """Return every agent's name by its id, the uploads' too."""
    return {row.id: row.name for row in connection.execute(_NAMES)}


def queue_account(connection: sa.Connection) -> QueueAccount:
    """Count the frames and how long they take."""
    counted = sa.select(frames.c.state, sa.func.count()).group_by(frames.c.state)
    states: dict[str, int] = dict.fromkeys(FRAME_STATES, 0)
    for state, total in connection.execute(counted):
        states[state] = total
    oldest = (
        sa.select(sa.func.min(files.c.stored_at))
        .join(frames, frames.c.file_id == files.c.id)
        .where(frames.c.state == QUEUED)
    )
    return QueueAccount(
        states, connection.execute(oldest).scalar(), _latencies(connection)
    )


def file_account(connection: sa.Connection) -> FileAccount:
    """Sum what the agents say of their files."""
    told = [
        sa.func.coalesce(sa.func.sum(agents.c[name]), 0)
        for name in ("discovered", "stored", "pending", "vanished", "rejected")
    ]
    sums = connection.execute(sa.select(*told)).one()
    held = sa.select(sa.func.count()).select_from(files).join(agents)
    here = connection.execute(held.where(agents.c.public_key.is_not(None))).scalar_one()
    return FileAccount(*(int(total) for total in sums), here=here)


def problem_files(connection: sa.Connection, *, limit: int = 200) -> list[ProblemFile]:
    """Return what has no result, by name and with the reason, the newest first."""
    lost = sa.select(gone).order_by(gone.c.told_at.desc()).limit(limit)
    listed = [
        ProblemFile(
            name=row.source_key,
            kind=row.reason if row.reason in _GONE_KINDS else "rejected",
            reason=row.reason,
            at=row.told_at,
        )
        for row in connection.execute(lost)
    ]
    listed += _quarantined(connection, limit)
    return sorted(listed, key=lambda problem: problem.at, reverse=True)[:limit]


def _quarantined(connection: sa.Connection, limit: int) -> list[ProblemFile]:
    chosen = (
        sa.select(
            frames.c.id,
            frames.c.session_id,
            frames.c.page,
            frames.c.reason,
            files.c.source_key,
            files.c.stored_at,
        )
        .join(files, files.c.id == frames.c.file_id)
        .where(frames.c.state == QUARANTINED)
        .order_by(frames.c.id.desc())
        .limit(limit)
    )
    return [
        ProblemFile(
            name=row.source_key + (f" page {row.page}" if row.page else ""),
            kind="quarantined",
            reason=row.reason or "no reason was recorded",
            at=row.stored_at,
            frame_id=row.id,
            session_id=row.session_id,
        )
        for row in connection.execute(chosen)
    ]


def _latencies(connection: sa.Connection) -> tuple[float, float] | None:
    latency_s = sa.case(
        # An agent's clock that runs ahead would give a negative latency.
        (
            files.c.sealed_at <= results.c.saved_at,
            results.c.saved_at - files.c.sealed_at,
        ),
        else_=results.c.saved_at - files.c.received_at,
    )
    chosen = (
        sa.select(latency_s)
        .join(frames, frames.c.id == results.c.frame_id)
        .join(files, files.c.id == frames.c.file_id)
        .where(results.c.counts)
        .order_by(results.c.id.desc())
        .limit(_LATENCY_FRAMES)
    )
    latencies_s = connection.scalars(chosen).all()
    if not latencies_s:
        return None
    median_s, high_s = np.percentile(np.asarray(latencies_s, np.float64), (50, 95))
    return float(median_s), float(high_s)
