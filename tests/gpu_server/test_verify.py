"""PASS for a sound store, FAIL with the name of what is wrong for every way to spoil it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emcopilot.cli import main
from emcopilot.particles import measure_particles
from gpu_server.database import Database
from gpu_server.deliveries import GoneItem, ReceivedFile
from gpu_server.saving import FrameFacts, SavedResult
from gpu_server.store import AgentReport, Store
from gpu_server.verify import Verdict, verify


@dataclass
class Bench:
    """A store with 3 processed frames, 1 quarantined, 1 queued and 1 superseded."""

    data_dir: Path

    def verdict(self) -> Verdict:
        database = Database(self.data_dir)
        try:
            return verify(database)
        finally:
            database.close()

    def sql(self, *statements: str) -> None:
        """Spoil rows behind the store's back."""
        database = Database(self.data_dir)
        with database.write() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        database.close()

    def faults(self) -> str:
        verdict = self.verdict()
        assert not verdict.passed
        return "\n".join(fault for check in verdict.checks for fault in check.faults)


@pytest.fixture
def bench(tmp_path: Path, sound: Path) -> Bench:
    shutil.copytree(sound, tmp_path / "data")
    return Bench(tmp_path / "data")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("sound")
    with Store(data_dir) as store:
        store.enrol_agent("k" * 40, "scope", "pc")
        for seq in (1, 2, 3):
            store.record_stored([_delivered(store, seq)])
        store.record_stored([_delivered(store, 1, rev=2)])
        stack = store.lease_frame()
        assert stack is not None
        store.add_pages(stack.file_id, 2)
        for leased in (stack, store.lease_frame(), store.lease_frame()):
            assert leased is not None
            store.save_result(_result(leased.frame_id))
        bad = store.lease_frame()
        assert bad is not None
        store.quarantine(bad.frame_id, "not an image")
        store.record_stored([_delivered(store, 4, folder="acq/other")])
        store.record_gone(1, "j", [GoneItem(5, 1, "acq/film/5.tif", "vanished")])
        store.agent_seen(1, AgentReport("j", "0.1", "pc", 5, 4, 0, 1, 0))
    return data_dir


def _delivered(
    store: Store, seq: int, *, rev: int = 1, folder: str = "acq/film"
) -> ReceivedFile:
    content = f"bytes of {seq} rev {rev}".encode()
    sha256 = hashlib.sha256(content).hexdigest()
    path = store.blob_path(sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return ReceivedFile(
        1, "j", seq, rev, f"{folder}/{seq}.tif", len(content), sha256, seq, 1.0, 2.0
    )


def _result(frame_id: int) -> SavedResult:
    labels = np.zeros((32, 32), np.int32)
    labels[4:10, 4:10] = 1
    labels[20:28, 20:28] = 2
    table = measure_particles(
        labels, labels.astype(np.uint16), pixel_size_nm=(0.5, 0.5), probability=None
    )
    return SavedResult(
        frame_id=frame_id,
        model_id="base",
        facts=FrameFacts(32, 32, "uint16", (0.5, 0.5), "metadata"),
        summary={"particles": 2, "counted": 2, "unit": "nm"},
        diameters=table.equivalent_diameter_nm.astype("<f4").tobytes(),
        particles=table.to_bytes(),
        labels=b"tiff",
        timings={},
    )


def test_a_sound_store_passes_and_its_sums_balance(bench: Bench) -> None:
    verdict = bench.verdict()
    assert [check.faults for check in verdict.checks if check.faults] == []
    assert verdict.frames == {
        "expected": 5,
        "queued": 1,
        "leased": 0,
        "processed": 3,
        "quarantined": 1,
    }


def test_it_runs_beside_a_working_server(bench: Bench) -> None:
    with Store(bench.data_dir):
        assert bench.verdict().passed


# Each of these is a bug, a crash at the wrong moment or a failing disk.


def _remove_a_blob(bench: Bench) -> None:
    next(_blobs(bench)).unlink()


def _flip_a_bit(bench: Bench) -> None:
    path = next(_blobs(bench))
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def _cut_a_blob(bench: Bench) -> None:
    path = next(_blobs(bench))
    path.write_bytes(path.read_bytes()[:-1])


def _blobs(bench: Bench) -> Iterator[Path]:
    return (
        path for path in sorted(bench.data_dir.rglob("blobs/*/*/*")) if path.is_file()
    )


def _copied(bench: Bench, table: str, changed: dict[str, str]) -> None:
    """Insert a second row like the first into a copy of the table without any key."""
    database = Database(bench.data_dir)
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        columns = [
            row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")
        ]
        connection.exec_driver_sql(f"CREATE TABLE plain AS SELECT * FROM {table}")
        values = ", ".join(changed.get(str(column), str(column)) for column in columns)
        connection.exec_driver_sql(
            f"INSERT INTO plain SELECT {values} FROM plain ORDER BY id DESC LIMIT 1"
        )
        connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO old_{table}")
        connection.exec_driver_sql(f"ALTER TABLE plain RENAME TO {table}")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_remove_a_blob, "cannot be read"),
        (_flip_a_bit, "not those delivered"),
        (_cut_a_blob, "were delivered"),
        (
            lambda b: b.sql("UPDATE frames SET state = 'queued' WHERE id = 4"),
            "is queued",
        ),
        (lambda b: b.sql("UPDATE results SET counts = 0 WHERE id = 1"), "is processed"),
        (
            lambda b: b.sql("UPDATE files SET pages = 3 WHERE pages = 2"),
            "expected [0, 1, 2]",
        ),
        (lambda b: b.sql("UPDATE files SET superseded_by = NULL"), "in two revisions"),
        (lambda b: b.sql("UPDATE frames SET reason = NULL"), "without a reason"),
        (lambda b: b.sql("UPDATE results SET particle_count = 9"), "2 in the table"),
        (lambda b: b.sql("UPDATE result_blobs SET particles = x'00'"), "frame"),
        (lambda b: b.sql("DELETE FROM result_blobs"), "table is missing"),
        (lambda b: b.sql("UPDATE agents SET discovered = 6"), "lists 5"),
        (lambda b: b.sql("UPDATE agents SET stored = 5, pending = -1"), "here are 4"),
        (lambda b: b.sql("UPDATE gone SET seq = 4"), "stored and gone"),
        (lambda b: _copied(b, "files", {"id": "99"}), "recorded twice"),
        (lambda b: _copied(b, "frames", {"id": "99"}), "pages [0, 0"),
        (lambda b: _copied(b, "results", {"id": "99"}), "counts twice"),
    ],
)
def test_what_is_wrong_is_found_and_named(
    bench: Bench, spoil: Callable[[Bench], None], fault: str
) -> None:
    spoil(bench)
    assert fault in bench.faults()


# The command


def _run(
    bench: Bench, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    status = main(["verify", *words, "--data-dir", str(bench.data_dir)])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_the_command_says_pass(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = _run(bench, capsys)
    assert status == 0
    assert told.splitlines()[-2:] == [
        "5 frames expected = 1 queued + 0 leased + 3 processed + 1 quarantined",
        "PASS",
    ]


def test_the_command_says_fail(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    _remove_a_blob(bench)
    status, told = _run(bench, capsys)
    assert (status, told.splitlines()[-1]) == (1, "FAIL")


def test_the_answer_in_json(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = _run(bench, capsys, "--json")
    answer = json.loads(told)
    assert (status, answer["verdict"], answer["frames"]["expected"]) == (0, "PASS", 5)
    assert all(check["passed"] for check in answer["checks"])


@pytest.mark.parametrize("wanted", ["2", "other", "acq/other"])
def test_one_session_can_be_verified_alone(
    bench: Bench, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    bench.sql("UPDATE results SET particle_count = 9")  # in the other session
    status, told = _run(bench, capsys, wanted, "--json")
    assert (status, json.loads(told)["frames"]["expected"]) == (0, 1)


def test_a_session_that_is_not_there_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = _run(bench, capsys, "nowhere")
    assert (status, "no session is called 'nowhere'" in told) == (1, True)


def test_a_wrong_folder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = _run(Bench(tmp_path / "typo"), capsys)
    assert (status, "no database at" in told) == (1, True)
    assert not (tmp_path / "typo").exists()
