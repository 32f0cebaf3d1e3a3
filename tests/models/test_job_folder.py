"""A job's folder is held by the job alone, and by nobody once the job is dead."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from models import checkpoint
from models.job_folder import LOCK_FILE
from models.npssegnet import Architecture, build

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux only"
)

SMALL = Architecture(encoder="mobilenet_v2")
JOB = """
import sys, time
import numpy as np
from models.adapt_settings import chosen_job
from models.augmentation import Source
from models.datasets import label
from models.job_folder import opened
from models.train_segmenter import tile_batches
from models.train_settings import TrainSettings
from models.npssegnet import Architecture
from models.training import Run

out, model = sys.argv[1:]
small = Architecture(encoder="mobilenet_v2")
settings = TrainSettings(
    architecture=small, steps=9, batch=2, tile_px=32, device="cpu", workers=2
)
mask = np.zeros((64, 64), bool)
mask[16:48, 16:48] = True
frames = [label(f"square{n}", 60.0 * mask + n, mask) for n in range(3)]
job = chosen_job(None, {"frames": out, "out": out, "model": model, "device": "cpu"})
with opened(job, []):
    batches = iter(tile_batches(Run(settings), [Source(frames)]))
    next(batches)
    print("drawing", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder `out`, in a group of its own, with two workers."""
    model = tmp_path / "model"
    checkpoint.save(
        model, build(SMALL), name="small", architecture=SMALL, data={}, training={}
    )
    command = [sys.executable, "-c", JOB, str(tmp_path / "out"), str(model)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline().strip() == "drawing"
        workers = _workers(process)
        assert len(workers) == 2
        yield process
    process.kill()
    process.wait()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def test_workers_do_not_hold_the_folder(
    job: subprocess.Popen[str], tmp_path: Path
) -> None:
    lock = (tmp_path / "out" / LOCK_FILE).resolve()
    assert lock in _open_files(job.pid)
    for worker in _workers(job):
        assert lock not in _open_files(worker.pid)
    assert not _is_free(lock)  # what they closed, the job holds on to


def test_a_job_killed_while_it_is_stopped_leaves_neither_workers_nor_lock(
    job: subprocess.Popen[str], tmp_path: Path
) -> None:
    workers = _workers(job)
    os.killpg(job.pid, signal.SIGSTOP)
    job.kill()
    job.wait()
    until = time.monotonic() + 5.0
    while any(map(_is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_is_alive, workers))
    assert _is_free(tmp_path / "out" / LOCK_FILE)


def _workers(job: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(job.pid).children()


def _open_files(pid: int) -> set[Path]:
    return {link.resolve() for link in Path(f"/proc/{pid}/fd").iterdir()}


def _is_free(lock: Path) -> bool:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
