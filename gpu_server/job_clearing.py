"""What the folder of a job takes on the disk, and how it is cleared once nobody wants the job."""

import os
from contextlib import suppress
from pathlib import Path

from emcopilot.errors import AdaptationError
from emcopilot.job_progress import PROGRESS_FILE
from gpu_server.trainer import ANSWER_FILE, JOB_FILE, LOG_FILE, OUT

_KEPT = (
    *(JOB_FILE, ANSWER_FILE, LOG_FILE, "trainer.old.log"),
    f"{OUT}/{PROGRESS_FILE}",
    f"{OUT}/samples/*.png",
    *(f"{OUT}/round-[1-9]/report.json", f"{OUT}/round-[1-9]/report.png"),
)
"""What a person still looks at (`gpu_server.job_view`), and what tells why it failed: little."""


class WorkLeftError(AdaptationError):
    """The disk does not let go of a discarded job's files."""


def clear(folder: Path) -> None:
    """Remove a job's work, where there is any; its report, pictures and figures stay.

    What stays is listed rather than what goes: a job that was killed leaves parts of files under
    names of their own.

    Raises
    ------
    WorkLeftError
        If something cannot be removed; what can be is gone, up to there.
    """
    try:
        kept = {path for pattern in _KEPT for path in folder.glob(pattern)}
        holding = {parent for path in kept for parent in path.parents}
        for place, folders, files in os.walk(folder, topdown=False, onerror=_refuse):
            for name in (*files, *folders):
                path = Path(place, name)
                if path.is_dir() and not path.is_symlink():
                    _remove_folder(path, holding)
                elif path.is_symlink() or path not in kept:
                    path.unlink(missing_ok=True)
        _remove_folder(folder, holding)
    except OSError as error:
        raise WorkLeftError(
            f"cannot remove {error.filename}: {error.strerror or error}; it is discarded and will "
            "not go on: see to the disk, then discard it again or restart the server"
        ) from error


def folder_bytes(folder: Path) -> int:
    """Return what a job's files take; of a folder that is gone, nothing."""
    taken = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # a job that runs replaces files
                taken += Path(place, name).lstat().st_size
    return taken


def _remove_folder(path: Path, holding: set[Path]) -> None:
    if path not in holding:
        with suppress(FileNotFoundError):  # two may clear it at a time
            path.rmdir()


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
