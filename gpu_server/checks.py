"""What speaks against a store: each check is a claim, what it examined, and the faults.

Nothing is taken on trust: rows are counted afresh, duplicates are looked for although the
database refuses them, and every stored byte is read again.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from emcopilot.errors import StoreError
from emcopilot.particle_table import ParticleTable
from gpu_server.store import blob_path
from gpu_server.tables import (
    FRAME_STATES,
    PROCESSED,
    QUARANTINED,
    SUPERSEDED,
    agents,
    files,
    frames,
    gone,
    result_blobs,
    results,
)

Progress = Callable[[int, int], None]
KeyT = TypeVar("KeyT", bound=Hashable)

_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about the store, and what speaks against it."""

    claim: str
    examined: int
    faults: tuple[str, ...]


def files_of(connection: sa.Connection, session_id: int | None) -> list[sa.Row]:
    """Return the files of a session, or all, in the order of storing."""
    query = sa.select(files).order_by(files.c.id)
    if session_id is not None:
        query = query.where(files.c.session_id == session_id)
    return list(connection.execute(query))


def files_once(stored: list[sa.Row]) -> Check:
    """Look for deliveries recorded twice and files counting in two revisions."""
    deliveries = ((f.agent_id, f.journal, f.seq, f.rev) for f in stored)
    revisions = (
        (f.agent_id, f.journal, f.seq) for f in stored if f.superseded_by is None
    )
    faults = [
        *(f"delivery {key} is recorded twice" for key in _repeated(deliveries)),
        *(f"file {key} counts in two revisions" for key in _repeated(revisions)),
    ]
    return Check("every delivered file is recorded once", len(stored), tuple(faults))


def pages(connection: sa.Connection, stored: list[sa.Row]) -> Check:
    """Compare the frames of each file with its pages."""
    present: dict[int, list[int]] = {}
    for file_id, page in connection.execute(sa.select(frames.c.file_id, frames.c.page)):
        present.setdefault(file_id, []).append(page)
    faults = []
    for file in stored:
        pages = sorted(present.get(file.id, []))
        # A file that nobody opened has one frame; a replaced one may lack its later pages.
        expected = list(range(1 if file.pages is None else max(file.pages, 1)))
        if pages != expected and file.superseded_by is None:
            faults.append(
                f"{file.source_key}: frames of pages {pages}, expected {expected}"
            )
    return Check(
        "every page of a counted file is one frame", len(stored), tuple(faults)
    )


def frames_accounted(connection: sa.Connection, session_id: int | None) -> Check:
    """Look for frames whose state does not fit their file or lacks a reason."""
    query = (
        sa.select(frames.c.id, frames.c.state, frames.c.reason, files.c.superseded_by)
        .join(files, files.c.id == frames.c.file_id)
        .where(*_within(frames, session_id))
    )
    faults, examined = [], 0
    for frame in connection.execute(query):
        examined += 1
        if (frame.state == SUPERSEDED) != (frame.superseded_by is not None):
            faults.append(f"frame {frame.id} is {frame.state}, its file says otherwise")
        if frame.state == QUARANTINED and not frame.reason:
            faults.append(f"frame {frame.id} is quarantined without a reason")
    return Check("every frame has one state, and a reason", examined, tuple(faults))


def results_once(connection: sa.Connection, session_id: int | None) -> Check:
    """Look for frames that have, or count, a result twice."""
    query = sa.select(
        results.c.frame_id, results.c.model_id, results.c.counts, results.c.session_id
    ).where(*_within(results, session_id))
    rows = connection.execute(query).all()
    pairs = _repeated((row.frame_id, row.model_id) for row in rows)
    counted = _repeated(row.frame_id for row in rows if row.counts)
    faults = [
        *(f"frame {frame} has two results of {model}" for frame, model in pairs),
        *(f"frame {frame} counts twice" for frame in counted),
    ]
    return Check("every frame counts once", len(rows), tuple(faults))


def results_complete(connection: sa.Connection, session_id: int | None) -> Check:
    """Compare states with results, and results with their tables."""
    counted = sa.and_(results.c.frame_id == frames.c.id, results.c.counts)
    query = (
        sa.select(
            frames.c.id,
            frames.c.state,
            results.c.id.label("result_id"),
            results.c.particle_count,
            results.c.diameters,
            result_blobs.c.particles,
        )
        .join_from(frames, results, counted, isouter=True)
        .join(result_blobs, result_blobs.c.result_id == results.c.id, isouter=True)
        .where(*_within(frames, session_id))
        .execution_options(yield_per=500)
    )
    faults, examined = [], 0
    for row in connection.execute(query):
        examined += 1
        if (row.state == PROCESSED) != (row.result_id is not None):
            faults.append(f"frame {row.id} is {row.state}, result {row.result_id}")
        elif row.result_id is not None and (fault := _table_fault(row)):
            faults.append(f"frame {row.id}: {fault}")
    return Check(
        "processed frames, and no others, have a result", examined, tuple(faults)
    )


def _table_fault(row: sa.Row) -> str | None:
    if row.particles is None:
        return "the particle table is missing"
    try:
        particles = len(ParticleTable.from_bytes(row.particles))
    except StoreError as error:
        return str(error)
    if not particles == row.particle_count == len(row.diameters) // 4:
        return f"{row.particle_count} particles counted, {particles} in the table"
    return None


def database_sound(connection: sa.Connection) -> Check:
    """Let SQLite examine the whole file, blobs included."""
    verdicts = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    faults = [
        *(verdict for verdict in verdicts if verdict != "ok"),
        *(f"{row[0]} row {row[1]} refers to nothing in {row[2]}" for row in broken),
    ]
    return Check("the database file is sound", 1, tuple(faults))


def agents_balance(connection: sa.Connection, stored: list[sa.Row]) -> Iterator[Check]:
    """Compare what the agents were told with what is here."""
    told = connection.execute(
        sa.select(agents).where(agents.c.journal.is_not(None))
    ).all()
    faults = []
    for agent in told:
        listed = agent.stored + agent.pending + agent.vanished + agent.rejected
        if agent.discovered != listed:
            faults.append(
                f"agent {agent.id} discovered {agent.discovered}, lists {listed}"
            )
        # In all of its journals: one that had to change its id goes on counting.
        here = {(f.journal, f.seq) for f in stored if f.agent_id == agent.id}
        if agent.stored > len(here):
            faults.append(
                f"agent {agent.id} was told of {agent.stored}, here are {len(here)}"
            )
    yield Check(
        "discovered = stored + pending + vanished + rejected", len(told), tuple(faults)
    )
    lost = connection.execute(sa.select(gone)).all()
    held = {(f.agent_id, f.journal, f.seq, f.rev) for f in stored}
    both = [
        f"{row.source_key} is stored and gone"
        for row in lost
        if (row.agent_id, row.journal, row.seq, row.rev) in held
    ]
    yield Check("files that are gone are listed by name", len(lost), tuple(both))


def frame_account(
    connection: sa.Connection, session_id: int | None, stored: list[sa.Row]
) -> dict[str, int]:
    """Count the frames that should be by the files, and those that are by state."""
    query = (
        sa.select(frames.c.state, sa.func.count())
        .where(*_within(frames, session_id), frames.c.state != SUPERSEDED)
        .group_by(frames.c.state)
    )
    account = {state: 0 for state in FRAME_STATES if state != SUPERSEDED}
    account.update({row[0]: row[1] for row in connection.execute(query)})
    counting = (file for file in stored if file.superseded_by is None)
    return {"expected": sum(max(file.pages or 1, 1) for file in counting), **account}


def frames_balance(account: dict[str, int]) -> Check:
    """Compare the frames that should be with the sum of those that are."""
    expected = account["expected"]
    found = sum(account.values()) - expected
    faults = (
        () if found == expected else (f"{expected} frames expected, {found} found",)
    )
    return Check(
        "expected = processed + queued + leased + quarantined", expected, faults
    )


def bytes_right(data_dir: Path, stored: list[sa.Row], progress: Progress) -> Check:
    """Read every stored file again and compare size and hash."""
    sizes = {file.sha256: file.size for file in stored}
    names = {file.sha256: file.source_key for file in stored}
    faults = []
    for number, (sha256, size) in enumerate(sizes.items(), start=1):
        if fault := _blob_fault(blob_path(data_dir, sha256), sha256, size):
            faults.append(f"{names[sha256]}: {fault}")
        progress(number, len(sizes))
    return Check("every stored byte has its hash", len(sizes), tuple(faults))


def _blob_fault(path: Path, sha256: str, size: int) -> str | None:
    digest = hashlib.sha256()
    read = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
                read += len(chunk)
    except OSError as error:
        return f"its bytes cannot be read ({error.strerror})"
    if read != size:
        return f"it has {read} bytes, {size} were delivered"
    return None if digest.hexdigest() == sha256 else "its bytes are not those delivered"


def _within(
    table: sa.Table, session_id: int | None
) -> tuple[sa.ColumnElement[bool], ...]:
    return () if session_id is None else (table.c.session_id == session_id,)


def _repeated(keys: Iterable[KeyT]) -> list[KeyT]:
    seen: set[KeyT] = set()
    return [key for key in keys if key in seen or seen.add(key)]
