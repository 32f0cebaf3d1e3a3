"""How a long stage talks to whoever runs it: it reports, and asks whether it should stop."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from emcopilot.errors import AdaptationError
from emcopilot.job_progress import (
    CANCEL_FILE,
    PROGRESS_FILE,
    JobReport,
    reports_of,
)
from models.job_clock import JobClock

log = logging.getLogger(__name__)


class Cancelled(AdaptationError):  # noqa: N818 - somebody's wish, not a fault
    """Somebody stopped the job on purpose; it goes on from its saved state if started again."""


class Watch(Protocol):
    """Who a stage reports to."""

    def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
        """Say that `step` of `steps` is done, and what was measured on the way."""
        ...

    def is_cancelled(self) -> bool:
        """Say whether the stage should stop; asked at every step, so it must be quick."""
        ...


class LogWatch:
    """Writes reports to the log, with the time that is left; never cancels.

    Parameters
    ----------
    clock : callable, optional
        Returns seconds that never run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._first_step = 0
        self._began_s = 0.0

    def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
        """Log one line; the first of a stage has no rate yet and gives no ETA."""
        now_s = self._clock()
        if stage != self._stage:
            # A resumed stage begins late: only the steps seen here tell its rate.
            self._stage, self._first_step, self._began_s = stage, step, now_s
        seen = step - self._first_step
        eta = f"{(now_s - self._began_s) / seen * (steps - step):.0f}" if seen else "?"
        said = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
        log.info("%s step=%d steps=%d eta_s=%s %s", stage, step, steps, eta, said)

    def is_cancelled(self) -> bool:
        """Return False: nobody is there to cancel."""
        return False


class FileWatch:
    """Runs a job for somebody else: reports go to a file, another file cancels.

    Parameters
    ----------
    folder : Path
        Receives `progress.jsonl`, one line a report; a file `cancel` in it stops the job. Seconds
        that earlier runs of the job spent are taken from the last line.
    clock : JobClock
        Tells how much is left.
    monotonic, wall : callable, optional
        Clocks in seconds.
    """

    def __init__(
        self,
        folder: Path,
        clock: JobClock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._progress = folder / PROGRESS_FILE
        self._cancel = folder / CANCEL_FILE
        self._clock = clock
        self._monotonic, self._wall = monotonic, wall
        self._round = 1
        self._stage = ""
        folder.mkdir(parents=True, exist_ok=True)
        self._take_up()
        self._seen_s = monotonic()

    def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
        """Add one line; a disk that is full costs the line, not the job."""
        now_s = self._monotonic()
        # What passed since the last report went into the stage that gave it.
        self._clock.spend(self._stage or stage, now_s - self._seen_s)
        self._stage, self._seen_s = stage, now_s
        self._round = int(figures.pop("round", self._round))
        left_s = self._clock.left_s(stage, step, steps, self._round)
        line = JobReport(
            stage=stage,
            step=step,
            steps=steps,
            round=self._round,
            eta_s=None if left_s is None else round(left_s, 1),
            seconds=self._clock.seconds,
            figures={name: float(f"{value:.6g}") for name, value in figures.items()},
            at=self._wall(),
        )
        try:
            with self._progress.open("ab") as file:
                file.write(line.model_dump_json().encode() + b"\n")
        except OSError as error:
            log.warning("report not written reason=%s", error)

    def is_cancelled(self) -> bool:
        """Say whether somebody put the file there."""
        return self._cancel.exists()

    def _take_up(self) -> None:
        """Go on from what earlier runs of the job said."""
        try:
            content = self._progress.read_bytes()
        except OSError:
            return
        if content and not content.endswith(b"\n"):  # cut by a kill
            with self._progress.open("ab") as file:
                file.write(b"\n")
        if said := reports_of(content.splitlines()):
            self._round = said[-1].round
            self._clock.seconds.update(said[-1].seconds)
