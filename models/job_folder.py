"""The folder of an adaptation job: whose it is, what is done, and that only one works in it."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emcopilot.errors import AdaptationError, ConfigError
from models.adapt_settings import AdaptSettings
from models.checkpoint import CARD_FILE, write_atomically
from models.datasets import LabelledFrame
from models.frame_sets import load_frames, save_frames

IDENTITY_FILE, LOCK_FILE = "job.json", "job.lock"


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
    """
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / LOCK_FILE).open("w") as lock:
        try:
            # The kernel lets go of it however the process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AdaptationError(
                f"another job is working in {job.out}; wait for it, or choose another --out"
            ) from error
        _require_same(job.out, identity(job, files))
        yield job.out


def identity(job: AdaptSettings, files: Sequence[Path]) -> dict[str, object]:
    """Return what makes a job this job: its lasting settings and its frames' bytes."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {"settings": job.lasting(), "frames_sha256": digest.hexdigest()}


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
    if theirs == json.loads(text):
        return
    settings, wanted = theirs.get("settings", {}), json.loads(text)["settings"]
    others = [key for key in wanted if settings.get(key) != wanted[key]]
    what = f"other settings ({', '.join(others)})" if others else "other frames"
    raise ConfigError(
        f"{folder} holds a job with {what}; choose another --out, or give what it began with"
    )


def kept(
    path: Path, make: Callable[[], Sequence[LabelledFrame]]
) -> list[LabelledFrame]:
    """Return the set in `path`, or make it and keep it there."""
    if not path.exists():
        save_frames(path, make())
    return load_frames(path)
