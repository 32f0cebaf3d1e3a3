"""The journal's tables, and how its file is opened, claimed and checked."""

import logging
import sqlite3
import uuid
from pathlib import Path

from emcopilot.errors import ConfigError

log = logging.getLogger(__name__)

_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE roots (label TEXT PRIMARY KEY, path BLOB NOT NULL, folder_id TEXT, trouble TEXT)
    WITHOUT ROWID;

-- Names on disk are bytes: on Linux a file name need not be text.
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,      -- never reused: it names the file on the wire
    rev INTEGER NOT NULL DEFAULT 0,             -- newest revision that got a number
    stored_rev INTEGER NOT NULL DEFAULT 0,      -- newest revision that the server has
    state TEXT NOT NULL DEFAULT 'seen',
    root TEXT NOT NULL,
    folder BLOB NOT NULL,                       -- compared form (folded on Windows)
    name BLOB NOT NULL,
    relative BLOB NOT NULL,                     -- as on disk
    source_key TEXT NOT NULL UNIQUE,
    file_id TEXT,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 TEXT,
    turn INTEGER,                               -- order of sealing, free of any clock
    sealed_at REAL,
    note TEXT,                                  -- why it waits, for the operator
    UNIQUE (root, folder, name)
);
CREATE INDEX files_by_id ON files (file_id, size, mtime_ns);
CREATE INDEX files_by_turn ON files (turn);
CREATE INDEX files_sealed ON files (turn) WHERE state = 'sealed';
CREATE INDEX files_unfinished ON files (size, sealed_at, state)
    WHERE state IN ('seen', 'sealed');
CREATE INDEX files_waiting ON files (seq) WHERE state = 'seen' AND note IS NOT NULL;
CREATE INDEX files_given_up ON files (seq)
    WHERE state IN ('vanished', 'unreadable', 'rejected');

CREATE TABLE gone (
    seq INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    reason TEXT NOT NULL,
    told INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (seq, rev)
) WITHOUT ROWID;
CREATE INDEX gone_untold ON gone (seq) WHERE told = 0;

-- Counting a million rows for every status line would cost more than sending frames.
CREATE TABLE accounts (state TEXT PRIMARY KEY, files INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO accounts VALUES ('discovered', 0), ('seen', 0), ('sealed', 0),
    ('stored', 0), ('vanished', 0), ('unreadable', 0), ('rejected', 0);
CREATE TRIGGER file_discovered AFTER INSERT ON files BEGIN
    UPDATE accounts SET files = files + 1 WHERE state IN ('discovered', NEW.state);
END;
CREATE TRIGGER file_moved AFTER UPDATE OF state ON files
WHEN OLD.state <> NEW.state BEGIN
    UPDATE accounts SET files = files - 1 WHERE state = OLD.state;
    UPDATE accounts SET files = files + 1 WHERE state = NEW.state;
END;
"""


def claim(path: Path) -> sqlite3.Connection:
    """Hold the journal for this process alone, until it ends in whatever way.

    A lock on an empty database beside it, because that works on every platform and
    the operating system lets go of it even after kill -9; the journal itself stays
    readable for `emcopilot agent --status`.

    Raises
    ------
    ConfigError
        If another agent holds it.
    """
    guard = sqlite3.connect(
        path.with_name(path.name + ".lock"),
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        guard.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        guard.close()
        if "locked" not in str(error):
            raise
        raise ConfigError(
            f"another agent is using the journal {path}; stop it, or give this one "
            "its own with --journal FILE"
        ) from error
    return guard


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the database; every commit is on the disk before it returns."""
    if read_only:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


def prepare(db: sqlite3.Connection, path: Path) -> str:
    """Make or check the tables; return the journal's own id.

    Raises
    ------
    ConfigError
        If the file is damaged or was written by a newer agent.
    """
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    if version == 0:
        _create(db)
    elif version > _VERSION:
        raise ConfigError(
            f"journal {path} has version {version}, this agent knows {_VERSION}; "
            "install the newer agent again"
        )
    ((verdict,), *_) = db.execute("PRAGMA quick_check(1)").fetchall()
    if verdict != "ok":
        raise ConfigError(
            f"journal {path} is damaged ({verdict}); move it away and start again: "
            "the files are then offered anew and the server knows their bytes"
        )
    ((journal_id,),) = db.execute(
        "SELECT value FROM meta WHERE name = 'journal_id'"
    ).fetchall()
    return journal_id


def _create(db: sqlite3.Connection) -> None:
    """Make all tables in one transaction, so that a kill leaves none or all."""
    db.executescript(
        f"BEGIN IMMEDIATE; {_SCHEMA}"
        f"INSERT INTO meta VALUES ('journal_id', '{uuid.uuid4()}');"
        f"PRAGMA user_version = {_VERSION}; COMMIT;"
    )
