import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acquisition_agent.__main__ import main
from acquisition_agent.agent import Agent
from acquisition_agent.config import AgentSettings
from acquisition_agent.events import FileEvents
from acquisition_agent.identity import Identity, new_key_pair, save_identity
from acquisition_agent.journal import Journal
from emcopilot.config import load_settings
from emcopilot.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]


class Recorder:
    """Stands where the stream stands, and counts how often it was woken."""

    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "acq"
    path.mkdir()
    return path


def until(is_true: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for other threads; generous, for the machine may be busy."""
    end = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


@contextmanager
def running(
    tmp_path: Path, folders: list[Path], **options: object
) -> Iterator[tuple[Agent, Journal, Recorder]]:
    overrides = {"watch": [{"path": path} for path in folders], **options}
    settings = load_settings(AgentSettings, None, overrides)
    recorder = Recorder()
    with Journal(tmp_path / "journal.db") as journal:
        agent = Agent(settings, journal, recorder)
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            until(lambda: agent.status().is_ready)
            yield agent, journal, recorder
        finally:
            agent.stop()
            thread.join()


@pytest.mark.parametrize("events", ["native", "off"])
def test_a_file_is_sealed_and_the_sender_woken(
    tmp_path: Path, folder: Path, events: str
) -> None:
    with running(tmp_path, [folder], events=events) as (_, journal, recorder):
        (folder / "run").mkdir()
        (folder / "run" / "a.png").write_bytes(b"anything")
        until(lambda: len(journal.next_to_offer(5)) == 1)
        until(lambda: recorder.wakes == 1)


def test_two_folders_are_watched_side_by_side(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for path in folders:
        path.mkdir()
    with running(tmp_path, folders) as (_, journal, _recorder):
        for path in folders:
            (path / "a.tif").write_bytes(b"x")
        until(lambda: len(journal.next_to_offer(5)) == 2)
        keys = {file.source_key for file in journal.next_to_offer(5)}
        assert keys == {"one/a.tif", "two/a.tif"}


def test_a_file_the_sender_doubts_is_looked_at(tmp_path: Path, folder: Path) -> None:
    with running(tmp_path, [folder]) as (_, journal, _recorder):
        path = folder / "a.tif"
        path.write_bytes(b"x")
        until(lambda: len(journal.next_to_offer(5)) == 1)
        path.unlink()
        (folder / "b.tif").write_bytes(b"x")
        journal.mark_offered([(1, 1)])
        journal.look_again(1, 1)
        until(lambda: journal.counts().vanished == 1)


def test_a_full_journal_disk_is_said_and_recovers(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, [folder]) as (agent, journal, _recorder):
        journal._db.execute("PRAGMA query_only = 1")  # refuses writes as a full disk
        (folder / "a.tif").write_bytes(b"x")
        until(lambda: bool(agent.status().troubles))
        assert "journal" in agent.status().troubles[0]
        journal._db.execute("PRAGMA query_only = 0")
        until(lambda: len(journal.next_to_offer(5)) == 1)
        until(lambda: not agent.status().troubles)
    assert caplog.text.count("nothing can be sealed") == 1  # said once, not each second


def test_a_fault_in_one_scan_starts_that_folder_over(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(tmp_path, [folder]) as (agent, journal, _recorder):
        (watch,) = agent._watches.values()

        def fail() -> float:
            raise ZeroDivisionError

        monkeypatch.setattr(watch, "tick", fail)
        (folder / "a.tif").write_bytes(b"x")
        until(lambda: len(journal.next_to_offer(5)) == 1)
    assert "starting over" in caplog.text


def test_events_hint_at_new_files_and_survive_an_absent_folder(tmp_path: Path) -> None:
    awake = threading.Event()
    events = FileEvents([tmp_path], awake.set)
    (tmp_path / "a.tif").write_bytes(b"x")
    assert awake.wait(30)
    until(lambda: str(tmp_path / "a.tif") in events.take() or not awake.is_set())
    events.stop()
    silent = FileEvents([tmp_path / "absent"], awake.set)
    assert silent.take() == set()
    silent.stop()


# The command


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.json"
    public, secret = new_key_pair()
    server, _ = new_key_pair()
    save_identity(
        Identity(
            agent="test",
            server_url="tcp://127.0.0.1:9",  # nobody answers there
            server_key=server,
            public_key=public,
            secret_key=secret,
        ),
        path,
    )
    return path


def test_no_folder_to_watch_is_said() -> None:
    with pytest.raises(ConfigError, match="--watch DIR"):
        main([])


def test_an_agent_that_is_not_enrolled_says_how(tmp_path: Path, folder: Path) -> None:
    arguments = ["--watch", str(folder), "--journal", str(tmp_path / "j" / "j.db")]
    with pytest.raises(ConfigError, match="enrol"):
        main([*arguments, "--identity", str(tmp_path / "absent.json")])


def test_a_misspelt_folder_stops_the_agent_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there"):
        main(["--watch", str(tmp_path / "acquisitoins")])


def test_a_label_for_two_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--label"):
        main(["--watch", "a", "--watch", "b", "--label", "c"])


def test_status_prints_accounts_that_add_up(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, [folder]) as (_, journal, _recorder):
        (folder / "a.tif").write_bytes(b"x")
        until(lambda: len(journal.next_to_offer(5)) == 1)
        arguments = ["--status", "--journal", str(tmp_path / "journal.db")]
        assert main(arguments) == 0  # beside the running agent
        assert "1 files discovered = 0 stored + 1 pending" in capsys.readouterr().out
        assert main([*arguments, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["discovered"], report["pending"]) == (1, 1)


def test_status_without_a_journal_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--status", "--journal", str(tmp_path / "absent.db")]) == 1
    assert "no agent has run here" in capsys.readouterr().err


def agent_process(
    tmp_path: Path, folder: Path, identity: Path
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "acquisition_agent", "--watch", str(folder)]
    command += ["--journal", str(tmp_path / "agent" / "journal.db")]
    command += ["--identity", str(identity)]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process there")
def test_without_a_server_it_seals_says_so_once_and_stops_cleanly(
    tmp_path: Path, folder: Path, identity: Path
) -> None:
    process = agent_process(tmp_path, folder, identity)
    assert process.stdout is not None
    for line in process.stdout:
        if "files discovered=0" in line:
            break
    (folder / "a.tif").write_bytes(b"x")
    lines = [next(process.stdout)]
    while "file sealed" not in lines[-1]:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "1 files discovered = 0 stored + 1 pending" in output
    assert sum("no server answers" in line for line in lines) <= 1
    assert not [p for p in folder.iterdir() if p.name != "a.tif"]  # nothing written


@pytest.mark.skipif(sys.platform == "win32", reason="kills with POSIX signals")
def test_kills_while_files_arrive_lose_none_and_count_none_twice(
    tmp_path: Path, folder: Path, identity: Path
) -> None:
    expected: set[str] = set()
    for round_ in range(3):
        process = agent_process(tmp_path, folder, identity)
        assert process.stdout is not None
        next(line for line in process.stdout if "files discovered=" in line)
        for number in range(25):
            path = folder / f"{round_}_{number}.png"
            path.write_bytes(b"first half of the file")
            with path.open("ab") as file:
                file.write(b" and the second")
            expected.add(f"acq/{path.name}")
            time.sleep(0.02)
        if round_ == 1:
            time.sleep(1.2)  # this time in the middle of sealing
        process.kill()
        process.communicate(timeout=30)
    with running(tmp_path / "agent", [folder]) as (agent, journal, _recorder):
        until(lambda: len(journal.next_to_offer(200)) == len(expected))
        # The status is as of the last round of the scan: the journal may be ahead of it.
        until(lambda: agent.status().waiting == 0)
        files = journal.next_to_offer(200)
        assert {file.source_key for file in files} == expected
        assert {file.size for file in files} == {37}
        assert journal.counts().discovered == len(expected)
