"""The job stands still while live frames are under way, and still gets its share."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_server.traffic import Traffic
from gpu_server.yielding import LEAST_SHARE, LEAST_SHARE_BEHIND, Duty, Yielding


def share_of(is_behind: bool, seconds: float = 600.0, tick_s: float = 0.05) -> float:
    """Return the share of the time that a job runs while frames never pause."""
    duty, ran_s = Duty(), 0.0
    for _ in range(int(seconds / tick_s)):
        runs = duty.is_due
        duty.spend(tick_s, ran=runs, is_behind=is_behind)
        ran_s += tick_s * runs
    return ran_s / seconds


def test_without_a_pause_between_frames_the_job_runs_a_fifth_of_the_time() -> None:
    assert share_of(is_behind=False) == pytest.approx(LEAST_SHARE, abs=0.03)


def test_while_frames_wait_the_job_only_lives() -> None:
    assert share_of(is_behind=True) == pytest.approx(LEAST_SHARE_BEHIND, abs=0.01)


def test_an_hour_of_quiet_buys_nothing_beside_a_frame() -> None:
    duty = Duty()
    duty.spend(3600, ran=True, is_behind=False)
    duty.spend(1.9, ran=False, is_behind=False)
    assert not duty.is_due
    duty.spend(0.2, ran=False, is_behind=False)
    assert duty.is_due


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, start_new_session=True) as process:
        yield process
        process.kill()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_stopped(pid: int, expected: bool) -> bool:
    """Wait until the process is stopped or not; signals take a moment."""
    until = time.monotonic() + 5
    while (state_of(pid) == "T") != expected and time.monotonic() < until:
        time.sleep(0.005)
    return state_of(pid) == "T"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_process_is_stopped_from_the_first_frame_to_the_last(sleeper) -> None:
    async def scene() -> None:
        traffic = Traffic(lanes=3)
        task = asyncio.create_task(Yielding(sleeper.pid, traffic).run())
        await asyncio.sleep(0)
        assert not is_stopped(sleeper.pid, False)
        with traffic.frame(), traffic.frame():
            await asyncio.sleep(0.02)
            assert is_stopped(sleeper.pid, True)
        await asyncio.sleep(0.02)
        assert not is_stopped(sleeper.pid, False)
        with traffic.frame():
            await asyncio.sleep(0.02)
            assert is_stopped(sleeper.pid, True)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not is_stopped(sleeper.pid, False)  # whoever ends it must reach it

    asyncio.run(scene())


def test_a_job_that_is_gone_already_is_no_trouble(sleeper) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    sleeper.wait()

    async def scene() -> None:
        traffic = Traffic(lanes=3)
        task = asyncio.create_task(Yielding(sleeper.pid, traffic).run())
        with traffic.frame():
            await asyncio.sleep(0.02)
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)

    asyncio.run(scene())


def test_quiet_comes_with_the_last_frame_or_when_patience_ends() -> None:
    async def scene() -> float:
        traffic = Traffic(lanes=3)
        await traffic.quiet(5)
        began = time.monotonic()
        with traffic.frame():
            await traffic.quiet(0.05)
        return time.monotonic() - began

    assert 0.04 < asyncio.run(scene()) < 2
