"""The folder of an adaptation job: whose it is, what is done, and that only one works in it."""

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import IO

from emcopilot.errors import AdaptationError, ConfigError
from models import checkpoint
from models.adapt_settings import AdaptSettings
from models.checkpoint import CARD_FILE, write_atomically
from models.datasets import LabelledFrame
from models.frame_sets import load_frames, save_frames

log = logging.getLogger(__name__)

IDENTITY_FILE, LOCK_FILE = "job.json", "job.lock"
LOCK_PATIENCE_S = 5.0
_CONTENTS = {
    "frames_sha256": "frames",
    "models": "models",
    "sam": "weights of SAM",
    "inception": "weights of Inception",
}


@contextmanager
def opened(job: AdaptSettings, files: Sequence[Path]) -> Iterator[Path]:
    """Take the job's folder for as long as the job runs.

    Parameters
    ----------
    job : AdaptSettings
    files : sequence of Path
        The frames that it learns from.

    Yields
    ------
    Path
        The folder; what an earlier, interrupted run of the very same job finished lies in it.

    Raises
    ------
    ConfigError
        If the folder holds another job: other settings or other frames.
    AdaptationError
        If the job is running already.
    ModelError
        If there is no such model.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / LOCK_FILE).open("w") as lock:
        # A lock of flock's is held by all who inherit its file: a worker that lives on, stopped
        # perhaps, would keep the folder from the job that is started again.
        register_after_fork(lock, _let_go)
        if not _is_taken(lock):
            raise AdaptationError(
                f"another job is working in {job.out}; wait for it, or choose another --out"
            )
        _require_same(job.out, identity(job, files))
        yield job.out


def _is_taken(lock: IO[str]) -> bool:
    """Take the lock, which the kernel lets go of however a process ends.

    One that was killed takes seconds to give back its memory, and the lock with it.
    """
    last_s = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= last_s:
                return False
            time.sleep(0.2)
        else:
            return True


def _let_go(lock: IO[str]) -> None:
    """Close what a forked process inherited; its parent holds the lock as before."""
    lock.close()


def identity(job: AdaptSettings, files: Sequence[Path]) -> dict[str, object]:
    """Return what makes a job this job: lasting settings, and what lies in the places it names.

    Not the places themselves: a folder that is moved holds the same job.
    """
    return {
        "settings": job.lasting(),
        "frames_sha256": content_of(files),
        "models": {
            name: checkpoint.load(model)[1].model_id
            for name, model in (("model", job.model), ("incumbent", job.incumbent))
            if model is not None
        },
        "sam": content_of(sorted(job.sam.rglob("*"))) if job.sam else None,
        "inception": content_of([job.inception]) if job.inception else None,
    }


def content_of(paths: Sequence[Path]) -> str:
    """Return a sha256, in hex, over the names and bytes of files; others are passed over."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _require_same(folder: Path, ours: dict[str, object]) -> None:
    path = folder / IDENTITY_FILE
    text = json.dumps(ours, indent=1, sort_keys=True, default=str)
    if not path.exists():
        if (folder / CARD_FILE).exists():
            raise ConfigError(
                f"{folder} holds a model that no job made; choose another --out"
            )
        write_atomically(path, text.encode())
        return
    try:
        theirs = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; choose another --out, or remove the folder"
        ) from error
    if other := _difference(theirs, json.loads(text)):
        raise ConfigError(
            f"{folder} holds a job with {other}; choose another --out, or give what it began with"
        )


def _difference(theirs: object, ours: dict[str, object]) -> str:
    """Say in what a job differs from the one that a folder holds; empty if in nothing."""
    before = theirs.get("settings") if isinstance(theirs, dict) else None
    wanted = ours["settings"]
    if not (
        isinstance(theirs, dict)
        and isinstance(before, dict)
        and isinstance(wanted, dict)
    ):
        return f"an {IDENTITY_FILE} that somebody changed"
    if others := [key for key in wanted if before.get(key) != wanted[key]]:
        return f"other settings ({', '.join(others)})"
    for key, what in _CONTENTS.items():
        # A job that an earlier release began says nothing of some.
        if key in theirs and theirs[key] != ours[key]:
            return f"other {what}: got {ours[key]}, expected {theirs[key]}"
    return ""


def kept(
    path: Path, make: Callable[[], Sequence[LabelledFrame]]
) -> list[LabelledFrame]:
    """Return the set in `path`, or make it and keep it there; one that is damaged is made anew."""
    if path.exists():
        try:
            return load_frames(path)
        except AdaptationError as error:
            log.warning("set of frames made anew reason=%s", error)
    save_frames(path, make())
    return load_frames(path)
