"""Every database is brought to this release's schema, or refused with the reason."""

import re
import sqlite3
from importlib.resources import files
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from emcopilot.errors import ConfigError
from gpu_server.database import Database
from gpu_server.tables import metadata


def test_the_migrations_build_exactly_the_tables_of_this_release(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path)
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
        migrated = _definitions(connection)
    database.close()
    fresh = sa.create_engine("sqlite://")
    with fresh.begin() as connection:
        metadata.create_all(connection)
        assert _definitions(connection) == migrated  # checks and autoincrement as well
    fresh.dispose()
    assert differences == []


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database(tmp_path)
        with database.read() as connection:
            before = connection.exec_driver_sql("PRAGMA schema_version").scalar()
        database.close()
    database = Database(tmp_path)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA schema_version").scalar() == before
    database.close()


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    Database(tmp_path).close()
    with _raw(tmp_path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer EMcopilot wrote it"):
        Database(tmp_path)


def test_a_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path,
) -> None:
    with _raw(tmp_path) as raw:
        raw.execute("CREATE TABLE holidays (day TEXT)")
    with pytest.raises(ConfigError, match="not an EMcopilot database"):
        Database(tmp_path)
    with _raw(tmp_path) as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


def _raw(data_dir: Path) -> "_Raw":
    return _Raw(data_dir / "emcopilot.db")


class _Raw:
    """A plain connection that commits and closes."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.commit()
        self._connection.close()


def _definitions(connection: sa.Connection) -> set[tuple[str, str]]:
    """Return the schema as SQLite keeps it, without layout, quotes and order of constraints."""
    rows = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        " AND name NOT IN ('alembic_version', 'sqlite_sequence')"
    )
    return {
        (name, " ".join(sorted(re.sub(r'[,"()]', " ", sql).split())))
        for name, sql in rows
    }


def test_the_first_release_s_events_keep_their_ids_and_go_on_counting(
    tmp_path: Path,
) -> None:
    insert = "INSERT INTO events (at, kind, data) VALUES (1, 'model', '{}')"
    old = sa.create_engine(f"sqlite:///{tmp_path / 'emcopilot.db'}")
    with old.begin() as connection:
        _upgrade(connection, "0001")
        for _ in range(3):
            connection.exec_driver_sql(insert)
        connection.exec_driver_sql("DELETE FROM events WHERE id = 2")
    old.dispose()
    database = Database(tmp_path)
    with database.write() as connection:
        connection.exec_driver_sql(insert.replace("model", "job"))
        ids = (
            connection.exec_driver_sql("SELECT id FROM events ORDER BY id")
            .scalars()
            .all()
        )
    database.close()
    assert ids == [1, 3, 4]


def test_frames_and_domains_of_an_earlier_release_say_no_detector_nor_sample(
    tmp_path: Path,
) -> None:
    old = sa.create_engine(f"sqlite:///{tmp_path / 'emcopilot.db'}")
    with old.begin() as connection:
        _upgrade(connection, "0003")
        connection.exec_driver_sql(
            "INSERT INTO domains (name, created_at, seen_at, features, look)"
            " VALUES ('HAADF', 1, 2, 'net', x'00')"
        )
    old.dispose()
    database = Database(tmp_path)
    with database.read() as connection:
        kept = connection.exec_driver_sql("SELECT name, detector, sample FROM domains")
        assert kept.all() == [("HAADF", None, None)]
        assert not connection.exec_driver_sql(
            "SELECT detector, sample FROM frames"
        ).all()
    database.close()


def _upgrade(connection: sa.Connection, revision: str) -> None:
    config = Config()
    folder = Path(str(files("gpu_server"))) / "migrations"
    config.set_main_option("script_location", str(folder))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
