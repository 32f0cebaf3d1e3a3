"""How a long stage talks to whoever runs it: it reports, and asks whether it should stop."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from emcopilot.errors import AdaptationError

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
