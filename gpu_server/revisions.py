"""Which of several deliveries of one file counts: the newest, whatever order they came in.

Every function works inside the caller's transaction; `store.Store` opens it.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from gpu_server.deliveries import ReceivedFile
from gpu_server.events import announce
from gpu_server.tables import SUPERSEDED, UPLOAD, files, frames, results


def may_replace(file: ReceivedFile, row: sa.Row) -> bool:
    """Whether both may be the same frame in two revisions.

    Within one journal that takes the same `seq`: a path may be used again for a new frame
    after the old one was renamed. A new journal counts from 1, there the name has to decide.
    Name and bytes together decide in an agent's journal, too: restored from a backup it
    numbers what it sent since then once more. A repeated upload is meant.
    """
    has_name = row.source_key == file.source_key
    if row.journal != file.journal:
        return has_name
    is_same = has_name and row.sha256 == file.sha256 and file.journal != UPLOAD
    return row.seq == file.seq or is_same


def adopt(connection: sa.Connection, file_id: int, file: ReceivedFile) -> None:
    """Let an agent whose journal was lost or restored find its file under the new number."""
    connection.execute(
        files.update()
        .where(files.c.id == file_id)
        .values(journal=file.journal, seq=file.seq, rev=file.rev)
    )


def settle(
    connection: sa.Connection,
    file: ReceivedFile,
    file_id: int,
    rivals: Iterable[sa.Row],
    *,
    at: float,
) -> None:
    """Leave exactly one revision counting, whichever order they arrived in."""
    for rival in rivals:
        if rival.journal == file.journal and rival.rev > file.rev:
            _supersede(connection, file_id, by=rival.id, at=at)
        else:
            _supersede(connection, rival.id, by=file_id, at=at)


def _supersede(connection: sa.Connection, file_id: int, *, by: int, at: float) -> None:
    connection.execute(
        files.update().where(files.c.id == file_id).values(superseded_by=by)
    )
    replaced = connection.execute(
        frames.update()
        .where(frames.c.file_id == file_id)
        .values(state=SUPERSEDED, lease_until=None)
        .returning(frames.c.id, frames.c.session_id)
    ).all()
    for frame_id, session_id in replaced:
        connection.execute(
            results.update().where(results.c.frame_id == frame_id).values(counts=False)
        )
        told = {"frame_id": frame_id, "state": SUPERSEDED}
        announce(connection, "frame", told, at=at, session_id=session_id)
