"""What happens to a file's row: each function is one step inside a transaction.

discover ─> seen ──seal──> sealed ──store──> stored
              ^               │                 │
              └─── reopen ────┴── bytes moved ──┘    give_up ─> vanished | unreadable |
                                                                rejected
"""

import os
import sqlite3
import time

from acquisition_agent.files import Item, Place
from acquisition_agent.settle import Look
from acquisition_agent.windows import identity, source_key


def discover(db: sqlite3.Connection, place: Place, look: Look) -> int:
    """Enter a new file; return its number."""
    key = _free_key(db, place)
    rows = db.execute(
        "INSERT INTO files (root, folder, name, relative, source_key, size, mtime_ns,"
        " file_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        # Two names that compare alike on this platform are one file.
        " ON CONFLICT (root, folder, name) DO UPDATE SET state = 'seen' RETURNING seq",
        (*columns(place), key, *look),
    ).fetchall()
    return rows[0][0]


def rename(db: sqlite3.Connection, seq: int, place: Place) -> None:
    """Follow a file to its new name; one that was given up comes back.

    A file that the server has keeps the name it was stored under.
    """
    key = _free_key(db, place, seq)
    db.execute(
        "UPDATE files SET root = ?, folder = ?, name = ?, relative = ?,"
        " source_key = CASE WHEN stored_rev > 0 THEN source_key ELSE ? END, state = CASE"
        " WHEN state IN ('vanished', 'unreadable') THEN 'seen' ELSE state END"
        " WHERE seq = ?",
        (*columns(place), key, seq),
    )


def seal(db: sqlite3.Connection, seq: int, look: Look, sha256: str) -> None:
    """Make a complete file ready to send, as a new revision if its bytes are new.

    The same bytes as before (a touched file) go back to where they were. New bytes over
    a revision that the server may have been offered make that one gone as "changed".
    """
    rev, stored_rev, before = db.execute(
        "SELECT rev, stored_rev, sha256 FROM files WHERE seq = ?", (seq,)
    ).fetchone()
    is_given_up = (
        db.execute(
            "SELECT 1 FROM gone WHERE seq = ? AND rev = ?", (seq, rev)
        ).fetchone()
        is not None
    )
    is_new = sha256 != before or is_given_up
    if is_new and rev > stored_rev and not is_given_up:
        give_up(db, (seq, rev), "changed")
    state = "stored" if not is_new and stored_rev == rev else "sealed"
    db.execute(
        "UPDATE files SET rev = rev + ?, state = ?, note = NULL, sha256 = ?, size = ?,"
        " mtime_ns = ?, file_id = ?, sealed_at = ?,"
        " turn = (SELECT ifnull(max(turn), 0) + 1 FROM files) WHERE seq = ?",
        (int(is_new), state, sha256, *look, time.time(), seq),
    )


def give_up(db: sqlite3.Connection, item: Item, reason: str) -> None:
    """Give up one revision, unless the server has it or a newer one is on its way."""
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


def lose(db: sqlite3.Connection, seq: int) -> None:
    """Give a file up as vanished, whether or not it had been sealed."""
    rev, stored_rev, state = db.execute(
        "SELECT rev, stored_rev, state FROM files WHERE seq = ?", (seq,)
    ).fetchone()
    if state == "seen" and rev in (0, stored_rev):
        rev += 1  # bytes that never got a number: they are the next revision
    db.execute("UPDATE files SET note = NULL WHERE seq = ?", (seq,))
    give_up(db, (seq, rev), "vanished")


def store(db: sqlite3.Connection, item: Item) -> None:
    """Note that the server has a revision; this fact wins over having given it up."""
    seq, rev = item
    db.execute("DELETE FROM gone WHERE seq = ? AND rev = ?", item)
    db.execute(
        "UPDATE files SET stored_rev = max(stored_rev, ?), state ="
        " CASE WHEN rev = ? AND state <> 'seen' THEN 'stored' ELSE state END"
        " WHERE seq = ? AND rev >= ?",
        (rev, rev, seq, rev),
    )


def columns(place: Place) -> tuple[str, bytes, bytes, bytes]:
    """Return root, folder, name (both in compared form) and path as on disk."""
    return (
        place.root,
        os.fsencode(identity(place.folder)),
        os.fsencode(identity(place.name)),
        os.fsencode(place.relative),
    )


def _free_key(db: sqlite3.Connection, place: Place, seq: int = 0) -> str:
    """Return the file's name on the wire.

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
