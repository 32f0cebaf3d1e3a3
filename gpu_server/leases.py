"""The queue of frames: leased newest first, given up after the second crash, saved once.

An attempt is counted before its frame is decoded, so a frame that takes a worker down is known
by name. Frames that were begun before queue behind fresh ones: a bad one holds up nobody.
Every function works inside the caller's transaction; `store.Store` opens it.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from gpu_server.events import announce
from gpu_server.intake import add_frames
from gpu_server.tables import (
    LEASED,
    QUARANTINED,
    QUEUED,
    files,
    frames,
    sessions,
)

CRASHES_ALLOWED = 1
"""The second crash of a decode worker on a frame quarantines it."""

INTERRUPTIONS_ALLOWED = 5
"""Times the whole server may stop while it holds a frame. More than one, because a killed
server says little about the frame; not without end, because the frame may be what kills it."""


@dataclass(frozen=True, slots=True)
class LeasedFrame:
    """One frame to process now, and what is known of it before it is opened."""

    frame_id: int
    file_id: int
    session_id: int
    page: int
    number: int
    attempts: int
    """Including this one."""
    name: str
    source_key: str
    sha256: str
    pages: int | None
    """None: this is the file's first opening, tell `add_pages`."""
    operator_pixel_size_nm: tuple[float, float] | None
    """(y, x) that the operator set for the session; it overrules the file's own."""
    session: str
    mtime_ns: int
    sealed_at: float
    received_at: float
    stored_at: float


def lease(
    connection: sa.Connection, *, now: float, lease_s: float, at: float
) -> LeasedFrame | None:
    """Take the next frame and count the attempt; None when nothing waits.

    `now` is the monotonic clock that leases run by, `at` the wall clock for events.
    """
    _end_expired(connection, now=now, at=at)
    row = connection.execute(_NEXT).first()
    if row is None:
        return None
    connection.execute(
        frames.update()
        .where(frames.c.id == row.frame_id)
        .values(state=LEASED, attempts=row.attempts + 1, lease_until=now + lease_s)
    )
    return _leased(row)


def give_back(connection: sa.Connection, frame_id: int) -> None:
    """Queue a frame that was leased and not begun: the attempt does not count."""
    connection.execute(
        frames.update()
        .where(frames.c.id == frame_id, frames.c.state == LEASED)
        .values(state=QUEUED, attempts=frames.c.attempts - 1, lease_until=None)
    )


def record_crash(
    connection: sa.Connection, frame_id: int, reason: str, *, at: float
) -> bool:
    """Count a worker that died over this frame; say whether the frame gets another try."""
    crashes = connection.execute(
        frames.update()
        .where(frames.c.id == frame_id, frames.c.state == LEASED)
        .values(crashes=frames.c.crashes + 1, state=QUEUED, lease_until=None)
        .returning(frames.c.crashes)
    ).scalar()
    if crashes is not None and crashes > CRASHES_ALLOWED:
        quarantine(connection, frame_id, f"{reason} (crash {crashes})", at=at)
        return False
    return crashes is not None


def recover(connection: sa.Connection, *, at: float) -> None:
    """Queue what an earlier server process had leased when it stopped; attempts stay."""
    connection.execute(
        frames.update()
        .where(frames.c.state == LEASED)
        .values(state=QUEUED, lease_until=None)
    )
    suspects = sa.select(frames.c.id, frames.c.attempts).where(
        frames.c.state == QUEUED,
        frames.c.attempts - frames.c.crashes > INTERRUPTIONS_ALLOWED,
    )
    for frame_id, attempts in connection.execute(suspects).all():
        reason = f"the server stopped {attempts} times while it held this frame"
        quarantine(connection, frame_id, reason, at=at)


def quarantine(
    connection: sa.Connection, frame_id: int, reason: str, *, at: float
) -> None:
    """Set a frame aside, by name and with the reason; the queue goes on."""
    row = connection.execute(
        frames.update()
        .where(frames.c.id == frame_id, frames.c.state.in_((QUEUED, LEASED)))
        .values(state=QUARANTINED, reason=reason, lease_until=None)
        .returning(frames.c.session_id, frames.c.file_id, frames.c.page)
    ).first()
    if row is None:
        return  # superseded meanwhile: a newer revision answers for it
    name = sa.select(files.c.source_key).where(files.c.id == row.file_id)
    problem = {
        "frame_id": frame_id,
        "file": connection.execute(name).scalar_one(),
        "page": row.page,
        "reason": reason,
    }
    announce(connection, "problem", problem, at=at, session_id=row.session_id)


def add_pages(connection: sa.Connection, file_id: int, pages: int) -> None:
    """Queue the pages of a file that was opened; page 0 is there already."""
    file = connection.execute(
        files.update()
        .where(files.c.id == file_id)
        .values(pages=pages)
        .returning(files.c.session_id, files.c.superseded_by)
    ).one()
    if file.superseded_by is not None:
        return
    present = set(
        connection.scalars(sa.select(frames.c.page).where(frames.c.file_id == file_id))
    )
    missing = (page for page in range(pages) if page not in present)
    add_frames(connection, file_id, file.session_id, missing)


_NEXT = (
    sa.select(
        frames.c.id.label("frame_id"),
        frames.c.file_id,
        frames.c.session_id,
        frames.c.page,
        frames.c.number,
        frames.c.attempts,
        files.c.name,
        files.c.source_key,
        files.c.sha256,
        files.c.pages,
        files.c.mtime_ns,
        files.c.sealed_at,
        files.c.received_at,
        files.c.stored_at,
        sessions.c.name.label("session"),
        sessions.c.pixel_size_y_nm,
        sessions.c.pixel_size_x_nm,
    )
    .join_from(frames, files, files.c.id == frames.c.file_id)
    .join(sessions, sessions.c.id == frames.c.session_id)
    .where(frames.c.state == QUEUED)
    .order_by(frames.c.attempts, frames.c.file_id.desc(), frames.c.page)
    .limit(1)
)


def _leased(row: sa.Row) -> LeasedFrame:
    calibrated = row.pixel_size_y_nm is not None
    return LeasedFrame(
        frame_id=row.frame_id,
        file_id=row.file_id,
        session_id=row.session_id,
        page=row.page,
        number=row.number,
        attempts=row.attempts + 1,
        name=row.name,
        source_key=row.source_key,
        sha256=row.sha256,
        pages=row.pages,
        operator_pixel_size_nm=(
            (row.pixel_size_y_nm, row.pixel_size_x_nm) if calibrated else None
        ),
        session=row.session,
        mtime_ns=row.mtime_ns,
        sealed_at=row.sealed_at,
        received_at=row.received_at,
        stored_at=row.stored_at,
    )


def _end_expired(connection: sa.Connection, *, now: float, at: float) -> None:
    expired = sa.select(frames.c.id).where(
        frames.c.state == LEASED, frames.c.lease_until < now
    )
    for frame_id in connection.scalars(expired).all():
        record_crash(connection, frame_id, "processing never ended", at=at)
