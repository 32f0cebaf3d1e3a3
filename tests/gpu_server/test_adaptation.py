"""Jobs that go wrong: each ends with its reason, and the next gets its turn."""

import asyncio
import os
import re
import shutil
import signal
import time
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from emcopilot.decode import open_frames
from gpu_server import job_rows, jobs
from gpu_server.adaptation import MOST_STARTS, Adaptation
from gpu_server.config import AdaptationSettings
from gpu_server.domains import domain, rename
from gpu_server.job_rows import Job
from gpu_server.registry import InUseError
from gpu_server.traffic import Traffic
from gpu_server.trainer import JOB_FILE

PATIENCE_S = 100.0
SETTINGS = AdaptationSettings(
    device="cpu", priority="normal", memory_bytes=0, cancel_grace_s=0.5
)


class Decoder:
    """Decodes in process: the frames are our own."""

    async def decode(self, path, name, page):
        with open_frames(path, name) as file:
            return file.read(page)


@asynccontextmanager
async def running(job_lab, traffic: Traffic | None = None):
    """Run the task of jobs as the server does."""
    adaptation = Adaptation(
        job_lab.store,
        job_lab.registry,
        job_lab.desk,
        Decoder(),
        SETTINGS,
        traffic=traffic or Traffic(3),
    )
    task = asyncio.create_task(adaptation.run())
    try:
        yield adaptation
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def find(job_lab, job_id: int) -> Job:
    with job_lab.store.read() as connection:
        return job_rows.find(connection, job_id)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.05)


def trainers() -> list[int]:
    """Return the ids of the processes of jobs that this process started."""
    found = []
    for child in psutil.Process().children():
        try:
            if "models.adapt" in child.cmdline():
                found.append(child.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def order(job_lab, modality: str = "HAADF", model: str | None = None) -> Job:
    domain_id = job_lab.add_domain(8, modality)
    return job_lab.desk.order(domain_id, "ada", preset="quick", model=model)


def run(scene: Awaitable[None]) -> None:
    async def bounded() -> None:
        await scene

    asyncio.run(bounded())


def test_a_base_model_that_is_gone_fails_the_job_and_the_next_has_its_turn(
    job_lab, papers
) -> None:
    job_lab.registry.add(papers["b"], "imported", "test")
    job_lab.registry.add(papers["c"], "imported", "test")
    first = order(job_lab, "HAADF", model="b")
    second = order(job_lab, "BF", model="c")
    # The registry refuses to delete what an open job starts from; a hand does not.
    for name in "bc":
        with pytest.raises(InUseError, match="starts from it"):
            job_lab.registry.delete(name, "ada")
        shutil.rmtree(job_lab.registry.root / name)

    async def scene() -> None:
        async with running(job_lab):
            await until(lambda: find(job_lab, second.id).state == "failed")

    run(scene())
    assert find(job_lab, first.id).state == "failed"
    for job, name in ((first, "b"), (second, "c")):
        assert f"no model in {name}" in (find(job_lab, job.id).reason or "")


def test_a_job_is_cancelled_while_its_frames_wait_for_live_ones(job_lab) -> None:
    job = order(job_lab)

    async def scene() -> None:
        traffic = Traffic(3)
        with traffic.frame():
            async with running(job_lab, traffic) as adaptation:
                await until(lambda: find(job_lab, job.id).state == "rough_masks")
                await asyncio.to_thread(job_lab.desk.cancel, job.id, "ada")
                adaptation.ring()
                await until(lambda: find(job_lab, job.id).state == "cancelled")

    run(scene())
    assert not (job_lab.desk.folder(job.id) / JOB_FILE).exists()


def test_a_process_that_keeps_dying_is_given_up_with_its_reason(job_lab) -> None:
    job = order(job_lab)
    killed: set[int] = set()

    def kill() -> bool:
        for pid in set(trainers()) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return find(job_lab, job.id).state == "failed"

    async def scene() -> None:
        async with running(job_lab):
            await until(kill)

    run(scene())
    assert len(killed) == MOST_STARTS
    reason = find(job_lab, job.id).reason or ""
    assert "died 4 times without coming further" in reason
    assert "signal 9" in reason


def test_a_server_that_stops_takes_the_process_along_and_the_job_stays_open(
    job_lab,
) -> None:
    job = order(job_lab)

    async def scene() -> None:
        async with running(job_lab):
            await until(lambda: bool(trainers()))

    run(scene())
    assert not trainers()
    found = find(job_lab, job.id)
    assert (found.state, found.attempts) == ("rough_masks", 0)


def test_what_the_process_says_is_the_reason_and_a_cancelled_job_ends(job_lab) -> None:
    first, second = order(job_lab), order(job_lab, "BF")

    async def scene() -> None:
        async with running(job_lab) as adaptation:
            await until(lambda: find(job_lab, first.id).state == "failed")
            await until(lambda: bool(trainers()))
            await asyncio.to_thread(job_lab.desk.cancel, second.id, "ada")
            adaptation.ring()
            began = time.monotonic()
            await until(lambda: find(job_lab, second.id).state == "cancelled")
            assert time.monotonic() - began < 20

    run(scene())
    # The live model is made of paper, and no network at all.
    assert "unreadable model card" in (find(job_lab, first.id).reason or "")
    assert not trainers()


def test_a_start_clears_what_a_kill_left_of_a_discarded_job(job_lab) -> None:
    job = order(job_lab)
    job_lab.desk.cancel(job.id, "ada")
    frames = job_lab.desk.folder(job.id) / "frames"
    frames.mkdir(parents=True)
    with job_lab.store.database.write() as connection:
        jobs.discard(connection, job.id, "ada", at=time.time())

    async def scene() -> None:
        async with running(job_lab):
            await until(lambda: not frames.exists())

    run(scene())


def test_a_job_tells_its_domain_from_another_of_its_name(job_lab) -> None:
    job, other_id = order(job_lab), job_lab.add_domain(3, "BF")
    with job_lab.store.database.write() as connection:
        for domain_id in (job.domain_id, other_id):
            rename(connection, domain_id, "gold", "ada", at=9.0)
        other = domain(connection, other_id)
    file = job_lab.desk.folder(job.id) / JOB_FILE

    async def scene() -> None:
        async with running(job_lab):
            await until(file.exists)

    run(scene())
    said = tomllib.loads(file.read_text())
    assert said["domain"] == other.name == "gold"
    assert said["domain_key"] == f"domain {job.domain_id} of 5.000"
    assert other.key == f"domain {other_id} of 5.000"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("frames = 'frames'\nout = 'out'\npreset = 'quik'\n", "preset: .*'quik'"),
        ("frames = 'frames'\nout = 'out'\nseed = 'x'\n", "seed: .*'x'"),
        ("frames = 'frames'\nout = 'out'\nsead = 1\n", "sead: .*'seed'"),
        (None, "cannot read .*job.toml"),
    ],
)
def test_a_job_file_that_somebody_edited_harms_its_job_alone(
    job_lab, text: str | None, why: str
) -> None:
    job = order(job_lab)
    folder = job_lab.desk.folder(job.id)
    folder.mkdir(parents=True)
    if text is None:
        (folder / JOB_FILE).mkdir()
    else:
        (folder / JOB_FILE).write_text(text)

    async def scene() -> None:
        async with running(job_lab):
            await until(lambda: find(job_lab, job.id).state == "failed")

    run(scene())
    assert re.search(why, find(job_lab, job.id).reason or "")
