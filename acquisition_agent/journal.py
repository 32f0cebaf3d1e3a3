"""The agent's memory: which files were seen, sealed, stored, or lost, by name.

One row per file, in SQLite on a local disk, and every change is committed with
synchronous=FULL before anyone acts on it, so that a killed agent continues where it
was. Which files are in flight is kept in memory only: after a crash nothing is.
"""

import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from acquisition_agent import ledger
from acquisition_agent.files import (
    Counts,
    GoneFile,
    Item,
    Known,
    Place,
    Problem,
    SealedFile,
)
from acquisition_agent.schema import claim, connect, prepare
from acquisition_agent.settle import Look
from acquisition_agent.windows import identity
from emcopilot.errors import ConfigError, StoreError

__all__ = ["Counts", "GoneFile", "Item", "Journal", "Problem", "SealedFile"]

log = logging.getLogger(__name__)

_OLDEST_EVERY = 5
"""Every fifth offer is the oldest: after an outage the newest frames go first for the
live view, while the past drains all the same."""
_KNOWN = "seq, state, rev, size, mtime_ns"


class Journal:
    """SQLite journal with one connection, shared by the agent's threads.

    Every method but `mark_stored` may raise StoreError when the journal's disk is full
    or fails; nothing of the failed call remains, and it may be called again.

    Parameters
    ----------
    path : Path
        Database file on a local disk; made with its folder when it is not there.
    read_only : bool, optional
        Only look, beside a running agent.

    Raises
    ------
    ConfigError
        If the file is damaged, made by a newer agent, or held by another agent.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._in_flight: set[Item] = set()
        self._doubtful: set[Item] = set()
        self._stored_unwritten: set[Item] = set()
        self._slot = 0
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._guard = None if read_only else claim(path)
            self._db = connect(path, read_only=read_only)
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
            if self._guard:
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

    # For the watcher -----------------------------------------------------------------

    def set_roots(self, roots: Mapping[str, Path]) -> None:
        """Remember where each watched folder lies, by its label."""
        rows = [(label, os.fsencode(path)) for label, path in roots.items()]
        with self._write() as db:
            db.executemany(
                "INSERT INTO roots (label, path) VALUES (?, ?)"
                " ON CONFLICT (label) DO UPDATE SET path = excluded.path, trouble = NULL",
                rows,
            )

    def folder_id(self, root: str) -> str | None:
        """Return the device and inode that the watched folder had, None at first."""
        rows = self._read("SELECT folder_id FROM roots WHERE label = ?", (root,))
        return rows[0][0] if rows else None

    def set_folder_id(self, root: str, folder_id: str) -> None:
        """Remember by which number the watched folder is known to be itself."""
        with self._write() as db:
            db.execute(
                "UPDATE roots SET folder_id = ? WHERE label = ?", (folder_id, root)
            )

    def set_trouble(self, root: str, trouble: str | None) -> None:
        """Write down what is wrong with a whole watched folder, or that it is well."""
        with self._write() as db:
            db.execute("UPDATE roots SET trouble = ? WHERE label = ?", (trouble, root))

    def folder(self, root: str, folder: str) -> dict[str, Known]:
        """Return what is known of one folder, by the compared form of the names."""
        rows = self._read(
            f"SELECT name, {_KNOWN} FROM files WHERE root = ? AND folder = ?",
            (root, os.fsencode(identity(folder))),
        )
        return {os.fsdecode(name): Known(*rest) for name, *rest in rows}

    def known(self, place: Place) -> Known | None:
        """Return what is known of one name."""
        rows = self._read(
            f"SELECT {_KNOWN} FROM files WHERE root = ? AND folder = ? AND name = ?",
            ledger.columns(place)[:3],
        )
        return Known(*rows[0]) if rows else None

    def where(self, seq: int) -> tuple[Place, Path, Known]:
        """Return where a file lies and what is known of it."""
        ((root, relative, path, *rest),) = self._read(
            f"SELECT root, relative, path, {_KNOWN} FROM files"
            " JOIN roots ON label = root WHERE seq = ?",
            (seq,),
        )
        place = Place(root, os.fsdecode(relative))
        return place, Path(os.fsdecode(path), place.relative), Known(*rest)

    def same_file(self, look: Look) -> int | None:
        """Find the file that carries this id, size and time, under whatever name."""
        if look.file_id is None:
            return None
        rows = self._read(
            "SELECT seq FROM files WHERE file_id = ? AND size = ? AND mtime_ns = ?"
            " ORDER BY seq DESC LIMIT 1",
            (look.file_id, look.size, look.mtime_ns),
        )
        return rows[0][0] if rows else None

    def unfinished(self, root: str) -> dict[int, Place]:
        """Return every file below a root that the server does not have yet."""
        rows = self._read(
            "SELECT seq, relative FROM files"
            " WHERE state IN ('seen', 'sealed') AND root = ?",
            (root,),
        )
        return {seq: Place(root, os.fsdecode(relative)) for seq, relative in rows}

    def discover(self, sightings: Sequence[tuple[Place, Look]]) -> list[int]:
        """Enter new files, all or none; return their numbers in order."""
        with self._write() as db:
            return [ledger.discover(db, place, look) for place, look in sightings]

    def rename(self, seq: int, place: Place) -> None:
        """Follow a file to its new name: the same file, counted once."""
        with self._write() as db:
            ledger.rename(db, seq, place)

    def reopen(self, seqs: Iterable[int]) -> None:
        """Wait anew for files whose bytes moved, or that came back."""
        rows = [(seq,) for seq in seqs]
        with self._write() as db:
            db.executemany("UPDATE files SET state = 'seen' WHERE seq = ?", rows)

    def seal(self, files: Sequence[tuple[int, Look, str]]) -> None:
        """Make complete files (seq, look, sha256) ready to send, all or none."""
        with self._write() as db:
            for seq, look, sha256 in files:
                ledger.seal(db, seq, look, sha256)
        self._release({seq for seq, _, _ in files})

    def note(self, seq: int, text: str | None) -> None:
        """Write down why a file is waiting, or that it no longer is."""
        with self._write() as db:
            db.execute(
                "UPDATE files SET note = ? WHERE seq = ? AND note IS NOT ?",
                (text, seq, text),
            )

    def lose(self, seqs: Iterable[int]) -> None:
        """Give up files that vanished before the server had them."""
        seqs = set(seqs)
        with self._write() as db:
            for seq in seqs:
                ledger.lose(db, seq)
        self._release(seqs)

    def take_doubtful(self) -> list[int]:
        """Hand over, once, the files that the sender could not read as sealed.

        They are not offered before they were sealed anew or lost.
        """
        with self._lock:
            taken, self._doubtful = self._doubtful, set()
            self._in_flight |= taken
            return sorted({seq for seq, _ in taken})

    # For the sender ------------------------------------------------------------------

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
            chosen: dict[int, SealedFile] = {}
            while len(chosen) < len(newest):
                self._slot += 1
                queue = newest if self._slot % _OLDEST_EVERY else oldest
                file = next(file for file in queue if file.seq not in chosen)
                chosen[file.seq] = file
            return list(chosen.values())

    def mark_offered(self, items: Iterable[Item]) -> None:
        """Hold these back from `next_to_offer` until stored, gone or reset."""
        with self._lock:
            self._in_flight.update(items)

    def renew(self) -> str:
        """Go on under a new id, for the server knows other files by this one's numbers.

        What is stored stays so, what is not is offered under the new id. Losses are told
        again: the server may have taken one for a file that it has.
        """
        journal_id = str(uuid.uuid4())
        with self._write() as db:
            db.execute(
                "UPDATE meta SET value = ? WHERE name = 'journal_id'", (journal_id,)
            )
            db.execute("UPDATE gone SET told = 0")
        self.journal_id = journal_id
        return journal_id

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
                        ledger.store(db, item)
            except StoreError as error:
                log.warning("journal write postponed error=%s", error)
                return
            self._in_flight -= self._stored_unwritten
            self._doubtful -= self._stored_unwritten
            self._stored_unwritten.clear()

    def mark_gone(self, seq: int, rev: int, reason: str) -> None:
        """Give up one revision: vanished, changed, unreadable or rejected.

        It is told to the server until `mark_told`. A revision that is stored already
        stays stored. Unless it was rejected, the watcher looks whether the file is
        still there, perhaps under another name.
        """
        with self._write() as db:
            ledger.give_up(db, (seq, rev), reason)
        self._release({seq})
        if reason != "rejected":
            self.look_again(seq, rev)

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
        rows = list(items)
        with self._write() as db:
            db.executemany("UPDATE gone SET told = 1 WHERE seq = ? AND rev = ?", rows)

    # For people ----------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return the accounts, every state counted on its own."""
        accounts = dict(self._read("SELECT state, files FROM accounts"))
        ((pending_bytes, since),) = self._read(
            "SELECT ifnull(sum(size), 0), min(sealed_at) FILTER (WHERE state = 'sealed')"
            " FROM files WHERE state IN ('seen', 'sealed')"
        )
        return Counts(
            discovered=accounts["discovered"],
            stored=accounts["stored"],
            pending=accounts["seen"] + accounts["sealed"],
            vanished=accounts["vanished"] + accounts["unreadable"],
            rejected=accounts["rejected"],
            pending_bytes=pending_bytes,
            oldest_unsent_s=max(0.0, time.time() - since) if since else 0.0,
        )

    def problems(self, limit: int = 100) -> list[Problem]:
        """Return folders that are unwell, then files that wait or were given up."""
        rows = self._read("SELECT label, trouble FROM roots WHERE trouble IS NOT NULL")
        rows += self._read(
            "SELECT source_key, CASE state WHEN 'seen' THEN note WHEN 'rejected'"
            " THEN 'rejected' || ifnull(': ' || note, '') ELSE state END"
            " FROM files WHERE state IN ('vanished', 'unreadable', 'rejected')"
            " OR (state = 'seen' AND note IS NOT NULL) ORDER BY seq DESC LIMIT ?",
            (limit,),
        )
        return [Problem(key, text) for key, text in rows]

    def _sealed(self, order: str, limit: int, barred: set[Item]) -> list[SealedFile]:
        rows = self._read(
            "SELECT path, relative, seq, rev, source_key, size, sha256, mtime_ns,"
            " sealed_at FROM files JOIN roots ON label = root WHERE state = 'sealed'"
            f" ORDER BY turn {order} LIMIT ?",
            (limit + len(barred),),
        )
        files = [
            SealedFile(seq, rev, key, Path(os.fsdecode(root), os.fsdecode(name)), *rest)
            for root, name, seq, rev, key, *rest in rows
        ]
        return [file for file in files if (file.seq, file.rev) not in barred][:limit]

    def _release(self, seqs: set[int]) -> None:
        """Let files be offered again, under whatever revision they have now."""
        with self._lock:
            self._in_flight = {item for item in self._in_flight if item[0] not in seqs}
            self._doubtful = {item for item in self._doubtful if item[0] not in seqs}

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._refusal(error) from error

    @contextmanager
    def _write(self) -> Generator[sqlite3.Connection]:
        """Run one transaction; on any error nothing of it remains."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._refusal(error) from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _refusal(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"the journal {self.path} cannot be used: {error}; is its disk full? "
            "Acquired files are safe where they lie"
        )
