"""One SQLite file: one writer at a time, many readers, and STORED means on disk.

The writer is a single connection behind a lock; each `write()` is one BEGIN IMMEDIATE
transaction with synchronous=FULL, so what was committed survives a power cut. Readers come
from a pool and see one consistent state for as long as their `read()` lasts.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from emcopilot.errors import ConfigError, StoreError, UnstorableError
from gpu_server.tables import result_blobs

log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 10_000
READERS = 8
# Releases before this one can corrupt a WAL file when two connections checkpoint at the same
# instant (sqlite.org/wal.html#walresetbug). One writer keeps us away from it; not quite for ever.
SAFE_SQLITE = (3, 51, 3)

_HOPELESS = (
    DataError,
    ProgrammingError,
    InterfaceError,
    InternalError,
    NotSupportedError,
)
"""What is asked for is at fault. Otherwise it is the disk, a lock or a damaged file: these are
waited for, since no frame can help them and none should be given up for them."""

_REVISIONS = Path(__file__).parent / "migrations"


class Database:
    """The database file under a data directory; opened, checked and up to date.

    Parameters
    ----------
    data_dir : Path
        Folder of `emcopilot.db`; created with owner-only permissions when absent.
    must_exist : bool
        Refuse to make a new database: for commands that only look.

    Raises
    ------
    ConfigError
        If the folder cannot be written, the file is damaged or no database, or its schema
        belongs to a newer release.
    """

    def __init__(self, data_dir: Path, *, must_exist: bool = False) -> None:
        self.data_dir = data_dir
        self.path = data_dir / "emcopilot.db"
        if must_exist and not self.path.is_file():
            raise ConfigError(
                f"no database at {self.path}; is this the right data_dir?"
            )
        prepare(data_dir)
        _warn_of_old_sqlite()
        self._lock = threading.Lock()
        self._write_engine = _engine(self.path, _writer_pragmas, "BEGIN IMMEDIATE")
        self._read_engine = _engine(self.path, _reader_pragmas, "BEGIN")
        try:
            self._writer = self._write_engine.connect()
            _check(self._writer, self.path)
            with self.write() as connection:
                migrate(connection, self.path)
        except (DBAPIError, StoreError) as error:
            self._write_engine.dispose()
            raise ConfigError(
                f"cannot use database {self.path}: {_cause(error)}"
            ) from error
        except ConfigError:
            self._write_engine.dispose()
            raise

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Hold the one writer for one transaction: all of it is committed, or nothing.

        Raises
        ------
        StoreError
            If the disk is full or fails, or another process holds the database for 10 s;
            UnstorableError if trying again would not help.
        """
        with self._lock, _store_errors(self.path), self._writer.begin():
            yield self._writer

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Borrow a read-only connection that sees one consistent state.

        Raises
        ------
        StoreError
            If the database cannot be read.
        """
        with _store_errors(self.path), self._read_engine.begin() as connection:
            yield connection

    def backup(self, target: Path) -> None:
        """Copy the live database, consistently, to a new file.

        Raises
        ------
        StoreError
            If the copy cannot be written.
        """
        try:
            with (
                sqlite3.connect(self.path) as source,
                sqlite3.connect(target) as copy,
            ):
                source.backup(copy)
        except sqlite3.Error as error:
            raise StoreError(f"cannot back up to {target}: {error}") from error

    def close(self) -> None:
        """Close every connection; the last one folds the WAL back into the file."""
        with self._lock:
            self._read_engine.dispose()
            self._writer.close()
            self._write_engine.dispose()


def prepare(data_dir: Path) -> None:
    """Make the folder, for its owner only, or say why it cannot be used.

    Raises
    ------
    ConfigError
        If it cannot be created or written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"cannot create data_dir {data_dir}: {error.strerror}"
        ) from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise ConfigError(
            f"data_dir {data_dir} is not writable; choose another or fix it"
        )


def migrate(connection: sa.Connection, path: Path) -> None:
    """Bring the schema up to this release, in the caller's transaction.

    Raises
    ------
    ConfigError
        If a newer release wrote the database, or it holds tables of something else.
    """
    config = Config()
    config.set_main_option("script_location", str(_REVISIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is None and sa.inspect(connection).get_table_names():
        raise ConfigError(
            f"{path} is not an EMcopilot database; choose another data_dir"
        )
    if current and current not in {
        script.revision for script in scripts.walk_revisions()
    }:
        raise ConfigError(
            f"{path} has schema {current}, this release knows {scripts.get_current_head()}: "
            "a newer EMcopilot wrote it; install that release, going back would lose data"
        )
    command.upgrade(config, "head")
    log.info("database upgraded from=%s path=%s", current or "nothing", path)


@lru_cache(maxsize=1)  # once a process is enough
def _warn_of_old_sqlite() -> None:
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        log.warning(
            "sqlite is old version=%s safe_from=%s: keep one server per data_dir",
            sqlite3.sqlite_version,
            ".".join(map(str, SAFE_SQLITE)),
        )


def _engine(path: Path, pragmas: tuple[str, ...], begin: str) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}",
        poolclass=sa.QueuePool,
        pool_size=READERS,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # sqlite3 would otherwise begin transactions by itself, deferred and only at the first
        # write, where a busy database cannot be waited for.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


_writer_pragmas = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    f"busy_timeout = {BUSY_TIMEOUT_MS}",
)
_reader_pragmas = ("query_only = ON", f"busy_timeout = {BUSY_TIMEOUT_MS}")


def _check(connection: sa.Connection, path: Path) -> None:
    with connection.begin():
        # The blobs are left to `emcopilot verify`: reading gigabytes would delay every start.
        for table in set(sa.inspect(connection).get_table_names()) - {
            result_blobs.name
        }:
            verdict = connection.exec_driver_sql(
                f"PRAGMA quick_check('{table}')"
            ).scalar()
            if verdict != "ok":
                raise ConfigError(
                    f"database {path} is damaged ({verdict}); restore a backup"
                )


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # a key that does not fit is the caller's mistake, not the disk's
    except _HOPELESS as error:
        raise UnstorableError(
            f"database {path}: {_cause(error)}; nothing was saved, nor would it be later"
        ) from error
    except (DBAPIError, PoolTimeout) as error:
        raise StoreError(
            f"database {path}: {_cause(error)}; nothing was saved"
        ) from error


def _cause(error: Exception) -> str:
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)
