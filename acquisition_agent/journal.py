"""The agent's memory: which files were seen, sealed, stored, or lost, by name.

seen ──seal──> sealed ──mark_stored──> stored
  ^              │                        │
  └── reopen ────┴──── the bytes moved ───┘      vanished | unreadable | rejected: gone

One row per file, in SQLite on a local disk, and every change is committed with
synchronous=FULL before anyone acts on it, so that a killed agent continues where it
was. Which files are in flight is kept in memory only: after a crash nothing is.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from acquisition_agent.schema import claim, connect, prepare
from acquisition_agent.settle import Look
from acquisition_agent.windows import identity, source_key
from emcopilot.errors import ConfigError, StoreError

log = logging.getLogger(__name__)

_OLDEST_EVERY = 5
"""Every fifth offer is the oldest: after an outage the newest frames go first for the
live view, while the past drains all the same."""

Item = tuple[int, int]
"""(seq, rev): the name of one sealed revision on the wire."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One complete file revision, ready to be sent."""

    seq: int
    rev: int
    source_key: str
    path: Path
    size: int
    sha256: str
    mtime_ns: int
    sealed_at: float
    """Unix time, for display only: order and waiting never follow the wall clock."""


@dataclass(frozen=True, slots=True)
class GoneFile:
    """One revision that will not arrive, and why."""

    seq: int
    rev: int
    source_key: str
    reason: str
    """vanished | changed | unreadable | rejected"""


@dataclass(frozen=True, slots=True)
class Counts:
    """The agent's accounts: discovered = stored + pending + vanished + rejected."""

    discovered: int
    stored: int
    pending: int
    vanished: int
    """Vanished or unreadable before the server had them."""
    rejected: int
    pending_bytes: int
    oldest_unsent_s: float
    """Age of the oldest sealed file the server does not have; 0 when there is none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that needs a person's eye."""

    source_key: str
    text: str


class Known(NamedTuple):
    """What the journal knows of a name, small enough to hold for every file."""

    seq: int
    state: str
    size: int
    mtime_ns: int


class Place(NamedTuple):
    """Where a file lies: the label of its watched folder and the path below it."""

    root: str
    relative: str
    """As on disk, separated by "/"."""

    @property
    def folder(self) -> str:
        """The part before the last separator; empty for the watched folder itself."""
        return self.relative.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.relative.rpartition("/")[2]


class Journal:
    """SQLite journal with one connection, shared by the agent's threads.

    Parameters
    ----------
    path : Path
        Database file on a local disk; made with its folder when it is not there.

    Raises
    ------
    ConfigError
        If the file is damaged, made by a newer agent, or held by another agent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._in_flight: set[Item] = set()
        self._doubtful: set[Item] = set()
        self._stored_unwritten: set[Item] = set()
        self._slot = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._guard = claim(path)
            self._db = connect(path)
            self.journal_id = prepare(self._db, path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot use the journal {path}: {error}; put it on a local disk with "
                "free space (--journal FILE)"
            ) from error

    def close(self) -> None:
        """Release the file; nothing is lost without it."""
        with self._lock:
            self._db.close()
            self._guard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # For the watcher -------------------------------------------------------------

    def set_roots(self, roots: Mapping[str, Path]) -> None:
        """Remember where each watched folder lies, by its label."""
        with self._write() as db:
            db.executemany(
                "INSERT INTO roots VALUES (?, ?)"
                " ON CONFLICT (label) DO UPDATE SET path = excluded.path",
                [(label, os.fsencode(path)) for label, path in roots.items()],
            )

    def folder(self, root: str, folder: str) -> dict[str, Known]:
        """Return what is known of one folder, by the compared form of the names."""
        rows = self._read(
            "SELECT name, seq, state, size, mtime_ns FROM files"
            " WHERE root = ? AND folder = ?",
            (root, os.fsencode(identity(folder))),
        )
        return {os.fsdecode(name): Known(*rest) for name, *rest in rows}

    def unfinished(self, root: str) -> dict[int, Place]:
        """Return every file below a root that the server does not have yet."""
        rows = self._read(
            "SELECT seq, relative FROM files"
            " WHERE root = ? AND state IN ('seen', 'sealed')",
            (root,),
        )
        return {seq: Place(root, os.fsdecode(relative)) for seq, relative in rows}

    def discover(self, sightings: Sequence[tuple[Place, Look]]) -> list[int]:
        """Enter new files, in one transaction; return their numbers in order."""
        with self._write() as db:
            return [_insert(db, place, look) for place, look in sightings]

    def same_file(self, look: Look) -> tuple[int, Place] | None:
        """Find the file that carries this id, size and time, under whatever name."""
        if look.file_id is None:
            return None
        rows = self._read(
            "SELECT seq, root, relative FROM files"
            " WHERE file_id = ? AND size = ? AND mtime_ns = ? ORDER BY seq DESC",
            (look.file_id, look.size, look.mtime_ns),
        )
        for seq, root, relative in rows:
            return seq, Place(root, os.fsdecode(relative))
        return None

    def rename(self, seq: int, place: Place) -> Known:
        """Follow a file to its new name: the same file, counted once.

        A file that the server has keeps the name it was stored under; one that was
        given up comes back.
        """
        with self._write() as db:
            db.execute(
                "UPDATE files SET root = ?, folder = ?, name = ?, relative = ?,"
                " source_key = CASE WHEN stored_rev > 0 THEN source_key ELSE ? END,"
                " state = CASE WHEN state IN ('vanished', 'unreadable') THEN 'seen'"
                " ELSE state END WHERE seq = ?",
                (*_columns(place), _free_key(db, place, seq), seq),
            )
        ((*known,),) = self._read(
            "SELECT seq, state, size, mtime_ns FROM files WHERE seq = ?", (seq,)
        )
        return Known(*known)

    def reopen(self, seqs: Iterable[int]) -> None:
        """Wait anew for files whose bytes moved, or that came back."""
        with self._write() as db:
            db.executemany(
                "UPDATE files SET state = 'seen' WHERE seq = ?",
                [(seq,) for seq in seqs],
            )

    def seal(self, seq: int, look: Look, sha256: str) -> bool:
        """Make a complete file ready to send; say whether it is a new revision.

        The same bytes as before (a touched file) make none: the file goes back to
        where it was. New bytes over a revision that the server may have been offered
        make that one gone as "changed".
        """
        with self._write() as db:
            ((rev, stored_rev, before),) = db.execute(
                "SELECT rev, stored_rev, sha256 FROM files WHERE seq = ?", (seq,)
            ).fetchall()
            is_given_up = db.execute(
                "SELECT 1 FROM gone WHERE seq = ? AND rev = ?", (seq, rev)
            ).fetchone()
            is_new = sha256 != before or is_given_up is not None
            if is_new and rev > stored_rev and is_given_up is None:
                _give_up(db, (seq, rev), "changed")
            db.execute(
                "UPDATE files SET rev = rev + ?, state = ?, note = NULL, sha256 = ?,"
                " size = ?, mtime_ns = ?, file_id = ?, sealed_at = ?,"
                " turn = (SELECT ifnull(max(turn), 0) + 1 FROM files) WHERE seq = ?",
                (
                    int(is_new),
                    "stored" if not is_new and stored_rev == rev else "sealed",
                    sha256,
                    *look,
                    time.time(),
                    seq,
                ),
            )
        self._release((seq, rev))
        return is_new

    def note(self, seq: int, text: str | None) -> None:
        """Write down why a file is waiting, or that it no longer is."""
        with self._write() as db:
            db.execute(
                "UPDATE files SET note = ? WHERE seq = ? AND note IS NOT ?",
                (text, seq, text),
            )

    def mark_lost(self, seq: int, reason: str) -> None:
        """Give up the revision that a file was waiting to become, or to be sent as."""
        ((rev, stored_rev, state),) = self._read(
            "SELECT rev, stored_rev, state FROM files WHERE seq = ?", (seq,)
        )
        if state == "seen" and rev in (0, stored_rev):
            rev += 1  # its bytes never got a number: they are the next revision
        with self._write() as db:
            _give_up(db, (seq, rev), reason)
        self._release((seq, rev))

    def take_doubtful(self) -> list[int]:
        """Hand the watcher the files that the sender could not read, once each."""
        with self._lock:
            seqs = sorted({seq for seq, _ in self._doubtful})
            self._in_flight |= self._doubtful  # not offered until looked at again
            self._doubtful.clear()
            return seqs

    def release(self, seq: int) -> None:
        """Let a file be offered again: a second look found it as it was sealed."""
        with self._lock:
            self._in_flight = {item for item in self._in_flight if item[0] != seq}

    # For the sender --------------------------------------------------------------

    def next_to_offer(self, limit: int) -> list[SealedFile]:
        """Return sealed files that are not in flight, the newest first.

        Every fifth slot, counted over all calls, goes to the oldest.
        """
        with self._lock:
            if self._stored_unwritten:
                self.mark_stored(())
            barred = self._in_flight | self._doubtful | self._stored_unwritten
            newest = self._sealed("DESC", limit, barred)
            oldest = self._sealed("ASC", limit, barred)
            chosen: dict[Item, SealedFile] = {}
            while len(chosen) < limit and len(chosen) < len(newest):
                self._slot += 1
                queue = newest if self._slot % _OLDEST_EVERY else oldest
                file = next(f for f in queue if (f.seq, f.rev) not in chosen)
                chosen[file.seq, file.rev] = file
            return list(chosen.values())

    def mark_offered(self, items: Iterable[Item]) -> None:
        """Hold these back from `next_to_offer` until stored, gone or reset."""
        with self._lock:
            self._in_flight.update(items)

    def reset_offered(self) -> None:
        """Nothing is in flight any more: the connection is new."""
        with self._lock:
            self._in_flight.clear()

    def look_again(self, seq: int, rev: int) -> None:
        """Ask the watcher to look at a file that could not be read as it was sealed.

        The watcher finds out whether it was renamed, rewritten, is behind a share that
        is away just now, or has vanished; until then it is not offered. This is what a
        failed read or a wrong hash calls for, not `mark_gone`.
        """
        with self._lock:
            self._doubtful.add((seq, rev))
            self._in_flight.discard((seq, rev))

    def mark_stored(self, items: Iterable[Item]) -> None:
        """Take the server's word that it has these on disk.

        Does not fail on a full disk: what could not be written down is remembered and
        tried again, for the server will say STORED only once.
        """
        with self._lock:
            self._stored_unwritten.update(items)
            try:
                with self._write() as db:
                    for item in self._stored_unwritten:
                        _store(db, item)
            except StoreError as error:
                log.warning("journal write postponed error=%s", error)
                return
            self._in_flight -= self._stored_unwritten
            self._doubtful -= self._stored_unwritten
            self._stored_unwritten.clear()

    def mark_gone(self, seq: int, rev: int, reason: str) -> None:
        """Give up one revision: vanished, changed, unreadable or rejected.

        It is told to the server until `mark_told`. A revision that is stored already
        stays stored.
        """
        with self._write() as db:
            _give_up(db, (seq, rev), reason)
        self._release((seq, rev))
        if reason != "rejected":
            self.look_again(seq, rev)  # it may lie there under another name

    def gone_to_tell(self, limit: int) -> list[GoneFile]:
        """Return given-up revisions that the server has not confirmed."""
        rows = self._read(
            "SELECT gone.seq, gone.rev, source_key, reason FROM gone"
            " JOIN files USING (seq) WHERE told = 0 ORDER BY gone.seq LIMIT ?",
            (limit,),
        )
        return [GoneFile(*row) for row in rows]

    def mark_told(self, items: Iterable[Item]) -> None:
        """Note that the server has these given-up revisions in its accounts."""
        with self._write() as db:
            db.executemany(
                "UPDATE gone SET told = 1 WHERE seq = ? AND rev = ?", list(items)
            )

    # For people ------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return the accounts, every state counted on its own."""
        accounts = dict(self._read("SELECT state, files FROM accounts"))
        ((size, since),) = self._read(
            "SELECT ifnull(sum(size), 0), min(sealed_at) FROM files"
            " WHERE state = 'sealed'"
        )
        ((growing,),) = self._read(
            "SELECT ifnull(sum(size), 0) FROM files WHERE state = 'seen'"
        )
        return Counts(
            discovered=accounts["discovered"],
            stored=accounts["stored"],
            pending=accounts["seen"] + accounts["sealed"],
            vanished=accounts["vanished"] + accounts["unreadable"],
            rejected=accounts["rejected"],
            pending_bytes=size + growing,
            oldest_unsent_s=max(0.0, time.time() - since) if since else 0.0,
        )

    def problems(self, limit: int = 100) -> list[Problem]:
        """Return files that wait for a reason or were given up, newest first."""
        rows = self._read(
            "SELECT source_key, CASE WHEN state IN ('seen', 'sealed') THEN note"
            " ELSE state || ifnull(': ' || note, '') END FROM files"
            " WHERE state IN ('vanished', 'unreadable', 'rejected')"
            " OR (state IN ('seen', 'sealed') AND note IS NOT NULL)"
            " ORDER BY seq DESC LIMIT ?",
            (limit,),
        )
        return [Problem(key, text) for key, text in rows]

    def _sealed(self, order: str, limit: int, barred: set[Item]) -> list[SealedFile]:
        rows = self._read(
            "SELECT seq, rev, source_key, path, relative, size, sha256, mtime_ns,"
            " sealed_at FROM files JOIN roots ON label = root WHERE state = 'sealed'"
            f" ORDER BY turn {order} LIMIT ?",
            (limit + len(barred),),
        )
        files = (
            SealedFile(
                seq, rev, key, Path(os.fsdecode(path), os.fsdecode(relative)), *rest
            )
            for seq, rev, key, path, relative, *rest in rows
        )
        return [f for f in files if (f.seq, f.rev) not in barred][:limit]

    def _release(self, item: Item) -> None:
        with self._lock:
            self._in_flight.discard(item)
            self._doubtful.discard(item)

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise _refusal(self.path, error) from error

    @contextmanager
    def _write(self) -> Generator[sqlite3.Connection]:
        """Run one transaction; on any error nothing of it remains."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise _refusal(self.path, error) from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _refusal(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the journal {path} cannot be written: {error}; free some space on that disk "
        "(acquired files are safe where they lie)"
    )


def _columns(place: Place) -> tuple[str, bytes, bytes, bytes]:
    return (
        place.root,
        os.fsencode(identity(place.folder)),
        os.fsencode(identity(place.name)),
        os.fsencode(place.relative),
    )


def _insert(db: sqlite3.Connection, place: Place, look: Look) -> int:
    cursor = db.execute(
        "INSERT INTO files (root, folder, name, relative, source_key, size, mtime_ns,"
        " file_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq",
        (*_columns(place), _free_key(db, place), *look),
    )
    ((seq,),) = cursor.fetchall()
    return seq


def _free_key(db: sqlite3.Connection, place: Place, seq: int = 0) -> str:
    """Return the file's wire name.

    A number tells apart names that differ on disk only by how an accent is composed.
    """
    plain = key = source_key(place.root, place.relative)
    twin = 1
    while db.execute(
        "SELECT 1 FROM files WHERE source_key = ? AND seq <> ?", (key, seq)
    ).fetchone():
        twin += 1
        key = f"{plain}~{twin}"
    return key


def _give_up(db: sqlite3.Connection, item: Item, reason: str) -> None:
    seq, rev = item
    db.execute(
        "INSERT INTO gone (seq, rev, reason) SELECT seq, ?, ? FROM files"
        " WHERE seq = ? AND stored_rev < ? ON CONFLICT (seq, rev) DO UPDATE"
        " SET reason = excluded.reason, told = 0 WHERE reason <> excluded.reason",
        (rev, reason, seq, rev),
    )
    state = "seen" if reason == "changed" else reason
    db.execute(
        "UPDATE files SET state = ?, rev = max(rev, ?)"
        " WHERE seq = ? AND rev <= ? AND stored_rev < ?",
        (state, rev, seq, rev, rev),
    )


def _store(db: sqlite3.Connection, item: Item) -> None:
    """Note that the server has a revision; this fact wins over having given it up."""
    seq, rev = item
    db.execute("DELETE FROM gone WHERE seq = ? AND rev = ?", (seq, rev))
    db.execute(
        "UPDATE files SET stored_rev = max(stored_rev, ?), state ="
        " CASE WHEN rev = ? AND state <> 'seen' THEN 'stored' ELSE state END"
        " WHERE seq = ? AND rev >= ?",
        (rev, rev, seq, rev),
    )
