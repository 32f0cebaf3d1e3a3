"""What the agents delivered: each file once, revisions instead of copies, losses by name.

Every function works inside the caller's transaction; `store.Store` opens it.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePosixPath

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from emcopilot.errors import StoreError
from gpu_server.deliveries import GoneItem, ReceivedFile, StoredRange
from gpu_server.events import announce
from gpu_server.revisions import adopt, may_replace, settle
from gpu_server.tables import (
    QUEUED,
    UPLOAD,
    agents,
    files,
    frames,
    gone,
    sessions,
)


class NumberTakenError(StoreError):
    """The journal's number for these bytes stands for other bytes already."""


def record_file(
    connection: sa.Connection, file: ReceivedFile, *, at: float
) -> int | None:
    """Add a file with its first frame, queued; return its id, or None for a repeat.

    Raises
    ------
    NumberTakenError
        If other bytes came under this number; nothing is recorded.
    """
    kin = connection.execute(_KIN, asdict(file)).all()
    if is_repeat(file, kin):
        return None
    rivals = [
        row for row in kin if row.superseded_by is None and may_replace(file, row)
    ]
    for rival in rivals:
        is_renumbered = (rival.journal, rival.seq) != (file.journal, file.seq)
        if is_renumbered and rival.sha256 == file.sha256:
            adopt(connection, rival.id, file)
            connection.execute(_NOT_GONE, asdict(file))
            return None
    session_id = _session(connection, file, at=at)
    file_id = _insert_file(connection, file, session_id, at=at)
    add_frames(connection, file_id, session_id, [0])
    connection.execute(_NOT_GONE, asdict(file))
    settle(connection, file, file_id, rivals, at=at)
    return file_id


def is_repeat(file: ReceivedFile, kin: Iterable[sa.Row]) -> bool:
    """Whether this very delivery was committed before.

    A journal that was restored from a backup, or that a cloned computer carries on as well,
    numbers new files like old ones. Taken for repeats, they would be lost.

    Raises
    ------
    NumberTakenError
        If other bytes came under this number.
    """
    delivery = (file.journal, file.seq, file.rev)
    before = next((k for k in kin if (k.journal, k.seq, k.rev) == delivery), None)
    if before is not None and before.sha256 != file.sha256:
        raise NumberTakenError(
            f"number {file.seq} revision {file.rev} of journal {file.journal} is stored with "
            f"sha256 {before.sha256[:12]}.., now {file.sha256[:12]}.. came: the journal was "
            "restored from a backup or copied to another computer and needs a new id"
        )
    return before is not None


def add_frames(
    connection: sa.Connection, file_id: int, session_id: int, pages: Iterable[int]
) -> None:
    """Queue pages of a file as the session's next frames."""
    last = connection.execute(_LAST_NUMBER, {"session": session_id}).scalar() or 0
    rows = [
        {
            "file_id": file_id,
            "session_id": session_id,
            "page": page,
            "number": number,
            "state": QUEUED,
            "notes": [],
        }
        for number, page in enumerate(pages, start=last + 1)
    ]
    if rows:
        connection.execute(_NEW_FRAME, rows)


def next_upload(connection: sa.Connection, *, at: float) -> tuple[int, int]:
    """Return the uploads' agent id and their next free `seq`."""
    agent_id = connection.execute(
        sa.select(agents.c.id).where(
            agents.c.public_key.is_(None), agents.c.name == UPLOAD
        )
    ).scalar()
    if agent_id is None:
        added = agents.insert().values(name=UPLOAD, enrolled_at=at, problems=[])
        agent_id = connection.execute(added.returning(agents.c.id)).scalar_one()
    last = sa.select(sa.func.max(files.c.seq)).where(files.c.agent_id == agent_id)
    return agent_id, (connection.execute(last).scalar() or 0) + 1


def record_gone(
    connection: sa.Connection,
    agent_id: int,
    journal: str,
    items: Iterable[GoneItem],
    *,
    at: float,
) -> None:
    """List files that will never come; what is stored already is not gone."""
    for item in items:
        stored = sa.select(files.c.id).where(
            files.c.agent_id == agent_id,
            files.c.journal == journal,
            files.c.seq == item.seq,
            files.c.rev == item.rev,
        )
        if connection.execute(stored).first():
            continue
        added = connection.execute(
            insert(gone)
            .values(
                agent_id=agent_id,
                journal=journal,
                seq=item.seq,
                rev=item.rev,
                source_key=item.source_key,
                reason=item.reason,
                told_at=at,
            )
            .on_conflict_do_nothing()
        )
        if added.rowcount:
            problem = {
                "file": item.source_key,
                "reason": item.reason,
                "agent_id": agent_id,
            }
            announce(connection, "problem", problem, at=at)


def stored_ranges(
    connection: sa.Connection, agent_id: int, journal: str
) -> tuple[StoredRange, ...]:
    """Say what this journal need not send again, in as few ranges as there are gaps."""
    # Numbered by seq within a revision, neighbours keep the same distance to their number.
    numbered = (
        sa.select(
            files.c.rev,
            files.c.seq,
            (
                files.c.seq
                - sa.func.row_number().over(
                    partition_by=files.c.rev, order_by=files.c.seq
                )
            ).label("island"),
        )
        .where(files.c.agent_id == agent_id, files.c.journal == journal)
        .subquery()
    )
    first = sa.func.min(numbered.c.seq)
    rows = connection.execute(
        sa.select(numbered.c.rev, first, sa.func.max(numbered.c.seq))
        .group_by(numbered.c.rev, numbered.c.island)
        .order_by(numbered.c.rev, first)
    )
    return tuple(StoredRange(*row) for row in rows)


# Built once: building a statement costs more than SQLite needs to run it. The parameters are
# the fields of `ReceivedFile`.
_OF_AGENT = files.c.agent_id == sa.bindparam("agent_id")
_KIN = sa.select(
    files.c.id,
    files.c.journal,
    files.c.seq,
    files.c.rev,
    files.c.source_key,
    files.c.sha256,
    files.c.superseded_by,
).where(
    sa.or_(
        sa.and_(
            _OF_AGENT,
            files.c.journal == sa.bindparam("journal"),
            files.c.seq == sa.bindparam("seq"),
        ),
        sa.and_(_OF_AGENT, files.c.source_key == sa.bindparam("source_key")),
    )
)
_NOT_GONE = gone.delete().where(
    *(gone.c[key] == sa.bindparam(key) for key in ("agent_id", "journal", "seq", "rev"))
)
_TOUCH_SESSION = (
    sessions.update()
    .where(sessions.c.agent_id == sa.bindparam("of_agent"))
    .where(sessions.c.folder == sa.bindparam("in_folder"))
    .values(updated_at=sa.bindparam("now"))
    .returning(sessions.c.id)
)
_LAST_NUMBER = sa.select(sa.func.max(frames.c.number)).where(
    frames.c.session_id == sa.bindparam("session")
)
_NEW_FRAME = frames.insert()
_NEW_FILE = files.insert()


def _session(connection: sa.Connection, file: ReceivedFile, *, at: float) -> int:
    folder = str(PurePosixPath(file.source_key).parent)
    found = connection.execute(
        _TOUCH_SESSION, {"of_agent": file.agent_id, "in_folder": folder, "now": at}
    ).scalar()
    if found is not None:
        return found
    name = PurePosixPath(folder).name or folder
    session_id = connection.execute(
        sessions.insert()
        .values(
            agent_id=file.agent_id,
            folder=folder,
            name=name,
            created_at=at,
            updated_at=at,
        )
        .returning(sessions.c.id)
    ).scalar_one()
    told = {"session_id": session_id, "name": name, "agent_id": file.agent_id}
    announce(connection, "session", told, at=at, session_id=session_id)
    return session_id


def _insert_file(
    connection: sa.Connection, file: ReceivedFile, session_id: int, *, at: float
) -> int:
    name = PurePosixPath(file.source_key).name
    row = {**asdict(file), "session_id": session_id, "name": name, "stored_at": at}
    return connection.execute(_NEW_FILE, row).inserted_primary_key[0]  # pyright: ignore[reportOptionalSubscript]
