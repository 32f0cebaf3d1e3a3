"""The real process of a job: what it answers, and how it ends."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from emcopilot.errors import AdaptationError
from emcopilot.job_progress import CANCEL_FILE
from gpu_server.config import AdaptationSettings
from gpu_server.trainer import Answer, Trainer

SETTINGS = AdaptationSettings(device="cpu", priority="normal", memory_bytes=0)


async def run_to_the_end(folder: Path) -> Answer | None:
    async with Trainer(folder, SETTINGS) as trainer:
        return await trainer.ended(100)


def test_a_job_that_cannot_be_done_says_why_and_a_foreign_module_is_not_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "job.toml").write_text('frames = "frames"\nout = "out"\nrugh = "sam"\n')
    (tmp_path / "models.py").write_text("print('foreign')")
    answer = asyncio.run(run_to_the_end(tmp_path))
    assert answer is not None
    assert answer.state == "failed"
    assert "rugh" in answer.reason
    assert "did you mean 'rough'" in answer.reason


def test_one_that_is_killed_is_dead_with_its_last_words(tmp_path: Path) -> None:
    async def scene() -> Answer | None:
        (tmp_path / "job.toml").write_text('frames = "f"\nout = "out"\n')
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / CANCEL_FILE).touch()  # an old wish: it holds no more
        async with Trainer(tmp_path, SETTINGS) as trainer:
            assert not (tmp_path / "out" / CANCEL_FILE).exists()
            assert await trainer.ended(0.05) is None
            (tmp_path / "trainer.log").write_text("line one\nlast line\n")
            trainer.cancel(0.0)
            began = time.monotonic()
            answer = await trainer.ended(30)
            assert time.monotonic() - began < 20
            assert (tmp_path / "out" / CANCEL_FILE).exists()
            return answer

    answer = asyncio.run(scene())
    assert answer is not None
    assert answer.state == "died"
    assert "signal 15" in answer.reason
    assert "last line" in answer.reason


def test_a_folder_that_somebody_changed_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in the folder's place")
    with pytest.raises(AdaptationError, match="does not start"):
        asyncio.run(run_to_the_end(tmp_path))


def test_leaving_ends_the_process(tmp_path: Path) -> None:
    async def scene() -> int:
        (tmp_path / "job.toml").write_text("")
        async with Trainer(tmp_path, SETTINGS) as trainer:
            return trainer.group

    group = asyncio.run(scene())
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_what_a_killed_process_started_ends_with_it_also_when_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In Python's place, a program that starts another, as the job's starts workers.
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\nsleep 100 &\necho $! > worker.new\nmv worker.new worker\nwait"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    async def scene() -> psutil.Process:
        async with Trainer(tmp_path, SETTINGS) as trainer:
            async with asyncio.timeout(20):
                while not (tmp_path / "worker").exists():
                    await asyncio.sleep(0.02)
            worker = psutil.Process(int((tmp_path / "worker").read_text()))
            os.killpg(trainer.group, signal.SIGSTOP)
            os.kill(trainer.group, signal.SIGKILL)
            answer = await trainer.ended(20)
            assert answer is not None
            assert answer.state == "died"
        return worker

    worker = asyncio.run(scene())
    with suppress(psutil.NoSuchProcess):
        until = time.monotonic() + 5.0
        while worker.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until, worker.status()
            time.sleep(0.05)
