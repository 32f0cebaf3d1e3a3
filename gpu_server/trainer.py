"""The process that learns: started, heard, asked to stop, and ended when it does not.

    async with Trainer(folder, settings) as trainer:
        ...
        answer = await trainer.ended()

It is `python -m models.adapt job.toml --background`, the very command that runs the job's folder
on another machine. What it says of itself lies in the folder: progress in `out/progress.jsonl`,
its answer in `answer.json`, everything else in `trainer.log`.
"""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emcopilot.errors import AdaptationError
from emcopilot.job_progress import CANCEL_FILE, PROGRESS_FILE, JobReport, reports_of
from gpu_server.config import AdaptationSettings

log = logging.getLogger(__name__)

JOB_FILE, OUT, ANSWER_FILE, LOG_FILE = "job.toml", "out", "answer.json", "trainer.log"
_LOG_BYTES = 2**20
_LAST_WORDS_BYTES, _LAST_WORDS_LINES = 4096, 6
_TERMINATE_S = 5.0


class Answer(BaseModel):
    """How a job's process ended."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    state: Literal["done", "cancelled", "failed", "died"]
    reason: str = Field(default="", max_length=4000)
    model_id: str | None = None
    verdict: Literal["promote", "doubtful", "reject"] | None = None


class Trainer:
    """One run of a job's process; leaving the context ends it.

    Parameters
    ----------
    folder : Path
        The job's, with `job.toml` in it.
    settings : AdaptationSettings
    """

    def __init__(self, folder: Path, settings: AdaptationSettings) -> None:
        self._folder, self._settings = folder, settings
        self._process: Process | None = None
        self._end: asyncio.Task[int] | None = None
        self._cancelling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the process.

        Raises
        ------
        AdaptationError
            If the system does not start it.
        """
        out = self._folder / OUT
        try:
            out.mkdir(exist_ok=True)
            (out / CANCEL_FILE).unlink(missing_ok=True)
            with (
                (self._folder / ANSWER_FILE).open("wb") as answer,
                _log_file(self._folder / LOG_FILE).open("ab") as words,
            ):
                self._process = await asyncio.create_subprocess_exec(
                    *self._command(),
                    cwd=self._folder,
                    stdin=DEVNULL,
                    stdout=answer,
                    stderr=words,
                    # A group of its own: it is stopped and continued whole, and Ctrl-C at the
                    # server's terminal is not meant for it.
                    start_new_session=True,
                )
        except OSError as error:
            raise AdaptationError(
                f"the job's process does not start: {error}; is the disk full, or out changed?"
            ) from error
        self._end = asyncio.create_task(_see_out(self._process))
        log.info("trainer started pid=%d folder=%s", self._process.pid, self._folder)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._cancelling:
            self._cancelling.cancel()
        self._signal(signal.SIGKILL)
        if self._end:
            await asyncio.shield(self._end)

    def _command(self) -> list[str]:
        # Isolated: what somebody put into the job's folder is never imported.
        python = (sys.executable, "-I", "-m")
        return [
            *(*python, "emcopilot.leash", str(os.getpid())),
            *(*python, "models.adapt", JOB_FILE, "--background"),
            *("--memory-bytes", str(self._settings.memory_bytes)),
            *("--gpu-share", str(self._settings.gpu_share)),
            *("--priority", self._settings.priority),
            *("--threads", str(self._settings.threads)),
        ]

    @property
    def group(self) -> int:
        """Process group, for signals."""
        assert self._process is not None, "the context is entered"
        return self._process.pid

    async def ended(self, timeout_s: float | None = None) -> Answer | None:
        """Wait for the end; returns how it was, or None if time is up before."""
        assert self._end is not None, "the context is entered"
        try:
            async with asyncio.timeout(timeout_s):
                # Shielded: who no longer waits must not end the watch over the process.
                status = await asyncio.shield(self._end)
        except TimeoutError:
            return None
        return _answer(self._folder, status)

    def cancel(self, grace_s: float) -> None:
        """Ask the process to save and stop; end it if it does not within the grace."""
        if self._cancelling is None:
            self._cancelling = asyncio.create_task(self._cancel(grace_s))

    async def _cancel(self, grace_s: float) -> None:
        with suppress(OSError):  # a full disk: then without the saving
            (self._folder / OUT / CANCEL_FILE).touch()
        await asyncio.sleep(grace_s)
        self._signal(signal.SIGTERM)
        # A stopped process hears nothing but this.
        self._signal(signal.SIGCONT)
        await asyncio.sleep(_TERMINATE_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


async def _see_out(process: Process) -> int:
    """Wait for a job's process and end what it leaves in its group; returns its status.

    Workers die with it where the system sees to that, but one that only just started may not
    know yet, and one that is stopped never will.
    """
    status = await process.wait()
    # At once, not when the context is left: as long as anything is left in the group its number is
    # not given to another, and an empty one's not before all others had their turn.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return status


class ProgressTail:
    """Reads what a job's process reports, each line once.

    Parameters
    ----------
    folder : Path
        The job's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / OUT / PROGRESS_FILE
        self._place = 0

    def new(self) -> list[JobReport]:
        """Return the reports since the last call; a line that is not whole yet waits."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        return reports_of(whole.splitlines())


def _log_file(path: Path) -> Path:
    """Return the log, begun anew where it has grown long; the one before is kept."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return path


def _answer(folder: Path, status: int) -> Answer:
    """Return what the process answered, or how it died."""
    with suppress(OSError, ValidationError, IndexError):
        last = (folder / ANSWER_FILE).read_bytes().splitlines()[-1]
        return Answer.model_validate_json(last)
    how = f"signal {-status}" if status < 0 else f"status {status}"
    words = "; ".join(_last_words(folder / LOG_FILE))
    return Answer(
        state="died", reason=f"ended with {how}; its last words: {words}"[:4000]
    )


def _last_words(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_WORDS_BYTES))
            return (
                file.read().decode(errors="replace").splitlines()[-_LAST_WORDS_LINES:]
            )
    except OSError:
        return []
