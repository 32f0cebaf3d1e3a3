"""One writer, consistent readers, nothing half committed, clear words when it cannot open."""

import logging
import os
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from emcopilot.errors import ConfigError, StoreError, UnstorableError
from gpu_server.database import Database, _warn_of_old_sqlite
from gpu_server.tables import agents


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path)
    yield database
    database.close()


def add_agent(connection: sa.Connection, name: str | None) -> None:
    connection.execute(agents.insert().values(name=name, enrolled_at=0))


def add_agents(connection: sa.Connection, *names: str | None) -> None:
    for name in names:
        add_agent(connection, name)


def count(database: Database) -> int:
    with database.read() as connection:
        return connection.scalars(sa.select(sa.func.count()).select_from(agents)).one()


def test_the_writer_is_durable_and_keeps_foreign_keys(database: Database) -> None:
    with database.write() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert settings == ["wal", 2, 1, 10_000]  # 2 is FULL


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        add_agents(connection, "half", None)
    assert count(database) == 0


def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match="readonly"), database.read() as connection:
        add_agent(connection, "sneaked in")


def test_a_reader_sees_one_state_while_the_writer_goes_on(database: Database) -> None:
    query = sa.select(sa.func.count()).select_from(agents)
    with database.read() as reading:
        before = reading.scalar(query)
        with database.write() as connection:
            add_agent(connection, "new")
        assert reading.scalar(query) == before
    assert count(database) == 1


def test_many_threads_write_one_after_the_other(database: Database) -> None:
    def write(name: str) -> None:
        for _ in range(10):
            with database.write() as connection:
                add_agent(connection, name)

    threads = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database) == 80


def test_a_full_disk_is_a_store_error_and_work_goes_on_after(
    database: Database,
) -> None:
    with database.write() as connection:
        add_agent(connection, "before")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    with database.write() as connection:  # SQLite's own limit acts like a full disk
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"full.*nothing was saved") as refused:
        _write_much(database)
    assert not isinstance(refused.value, UnstorableError)
    assert count(database) == 1
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        add_agent(connection, "after")
    assert count(database) == 2


def _write_much(database: Database) -> None:
    with database.write() as connection:
        add_agents(connection, *(f"{number}" * 1000 for number in range(100)))


def test_a_value_that_never_fits_is_told_from_a_full_disk(database: Database) -> None:
    with pytest.raises(UnstorableError, match="nor would it be later"):
        _write_odd(database)
    with database.write() as connection:
        add_agent(connection, "after")
    assert count(database) == 1


def _write_odd(database: Database) -> None:
    with database.write() as connection:
        add_agent(connection, "before")
        connection.exec_driver_sql("UPDATE agents SET name = ?", (object(),))


def test_a_backup_of_a_live_database_opens(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        add_agent(connection, "kept")
    (tmp_path / "copy").mkdir()
    database.backup(tmp_path / "copy" / "emcopilot.db")
    copy = Database(tmp_path / "copy")
    assert count(copy) == 1
    copy.close()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.write() as connection:
        for number in range(2000):
            add_agent(connection, f"agent {number}")
    database.close()
    content = bytearray(database.path.read_bytes())
    content[-40_000:-20_000] = b"\xff" * 20_000
    database.path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot use database|is damaged"):
        Database(tmp_path)


def test_a_text_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "emcopilot.db").write_text("not a database, " * 100)
    with pytest.raises(ConfigError, match="not a database"):
        Database(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot create data_dir"):
        Database(tmp_path / "file" / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="not writable"):
            Database(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_looking_at_a_database_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database"):
        Database(tmp_path, must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_the_data_of_others_is_not_readable(tmp_path: Path) -> None:
    Database(tmp_path / "data").close()
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_an_old_sqlite_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 40, 1))
    _warn_of_old_sqlite.cache_clear()
    with caplog.at_level(logging.WARNING):
        Database(tmp_path).close()
        Database(tmp_path).close()
    assert [record.message[:13] for record in caplog.records] == ["sqlite is old"]
