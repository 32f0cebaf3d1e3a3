"""The keys that make everything count once are the database's own, not the code's."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gpu_server.database import Database
from gpu_server.tables import agents, files, frames, results, sessions


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path)
    with database.write() as connection:
        connection.execute(agents.insert().values(id=1, name="scope", enrolled_at=0))
        connection.execute(
            sessions.insert().values(
                id=1, agent_id=1, folder="acq", name="acq", created_at=0, updated_at=0
            )
        )
        connection.execute(files.insert().values(id=1, **a_file()))
        connection.execute(frames.insert().values(id=1, **a_frame()))
        connection.execute(results.insert().values(id=1, **a_result()))
    yield database
    database.close()


def a_file(**changed: object) -> dict[str, object]:
    return {
        "agent_id": 1,
        "session_id": 1,
        "journal": "j",
        "seq": 1,
        "rev": 1,
        "source_key": "acq/a.tif",
        "name": "a.tif",
        "size": 1,
        "sha256": "0" * 64,
        "mtime_ns": 2**62,
        "sealed_at": 0,
        "received_at": 0,
        "stored_at": 0,
        **changed,
    }


def a_frame(**changed: object) -> dict[str, object]:
    row = {"file_id": 1, "session_id": 1, "page": 0, "number": 1, "state": "queued"}
    return {**row, **changed}


def a_result(**changed: object) -> dict[str, object]:
    return {
        "frame_id": 1,
        "session_id": 1,
        "model_id": "base",
        "counts": True,
        "saved_at": 0,
        "particle_count": 0,
        "counted_count": 0,
        "unit": "px",
        "summary": {},
        "timings": {},
        "diameters": b"",
        **changed,
    }


@pytest.mark.parametrize(
    ("table", "row"),
    [
        pytest.param(files, a_file(), id="the same delivery twice"),
        pytest.param(frames, a_frame(number=2), id="the same page twice"),
        pytest.param(frames, a_frame(page=1), id="a number of the session twice"),
        pytest.param(results, a_result(counts=False), id="a model twice on a frame"),
        pytest.param(results, a_result(model_id="other"), id="two counted results"),
        pytest.param(
            frames, a_frame(page=1, number=2, state="lost"), id="unknown state"
        ),
        pytest.param(results, a_result(counts=False, unit="m"), id="unknown unit"),
        pytest.param(frames, a_frame(file_id=9), id="a frame of no file"),
    ],
)
def test_the_database_refuses(
    database: Database, table: sa.Table, row: dict[str, object]
) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(table.insert().values(**row))


def test_a_second_result_that_does_not_count_is_kept(database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            results.insert().values(**a_result(model_id="other", counts=False))
        )
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(results)) == 2


def test_ids_are_never_used_again(database: Database) -> None:
    with database.write() as connection:
        connection.execute(files.insert().values(id=7, **a_file(seq=2)))
        connection.execute(files.delete().where(files.c.id == 7))
        added = connection.execute(files.insert().values(**a_file(seq=3)))
    assert added.inserted_primary_key == (8,)
