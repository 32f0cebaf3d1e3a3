"""A training job beside live frames: stopped while any is under way.

Lowest priority alone does not do: what the scheduler gives back within milliseconds, caches and
memory bandwidth do not, and a GPU has no such priority. So the job's processes are stopped
(SIGSTOP) from the lease of a live frame to its result, and continued (SIGCONT) in between.

The bound: where frames follow each other without a gap but none waits, a job that got less than a
fifth of the time since it last owed nothing runs for half a second beside them, and so on. Where
frames wait in a queue it gets a thirtieth: enough to say that it lives, and to hear a cancel.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from gpu_server.traffic import Traffic

LEAST_SHARE, LEAST_SHARE_BEHIND = 0.2, 1 / 30
"""Of the time that a job gets while frames keep coming, and while they wait."""
SLICE_S = 0.5
"""How long a job runs beside live frames, once it is owed so much."""


class Duty:
    """How much running time a job is owed."""

    def __init__(self) -> None:
        self.owed_s = 0.0
        self.is_due = False
        """Whether it must run now, whatever comes."""

    def spend(self, seconds: float, *, ran: bool, is_behind: bool) -> None:
        """Count time that passed, run or stopped."""
        share = LEAST_SHARE_BEHIND if is_behind else LEAST_SHARE
        # Nothing is saved up: an hour of quiet buys no half a second beside a frame.
        self.owed_s = max(0.0, self.owed_s + seconds * (share - 1 if ran else share))
        if self.owed_s >= SLICE_S * (1 - LEAST_SHARE):
            self.is_due = True
        elif self.owed_s == 0:
            self.is_due = False

    def wait_s(self, *, is_behind: bool) -> float:
        """Return how long it may stay as it is, stopped or due, while frames are under way."""
        if self.is_due:
            return self.owed_s / (1 - LEAST_SHARE)
        share = LEAST_SHARE_BEHIND if is_behind else LEAST_SHARE
        return (SLICE_S * (1 - LEAST_SHARE) - self.owed_s) / share


class Yielding:
    """Stops and continues one job's processes; run it as a task for as long as the job runs.

    Parameters
    ----------
    group : int
        Of the processes.
    traffic : Traffic
    clock : callable, optional
        Returns seconds that never run backwards.
    """

    def __init__(
        self,
        group: int,
        traffic: Traffic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group, self._traffic, self._clock = group, traffic, clock
        self._duty = Duty()
        self.is_stopped = False
        self.stopped_s = 0.0
        """Altogether, for the log."""

    async def run(self) -> None:
        """Watch the traffic until cancelled; the processes then run."""
        seen_s = self._clock()
        try:
            while True:
                traffic = self._traffic
                self._set(stopped=traffic.count > 0 and not self._duty.is_due)
                wait_s = None
                if traffic.count:
                    # A little on top: a wait that ends too early would only be repeated.
                    wait_s = self._duty.wait_s(is_behind=traffic.is_behind) + 0.01
                was_behind = traffic.is_behind
                await traffic.changed(wait_s)
                now_s = self._clock()
                passed_s, seen_s = now_s - seen_s, now_s
                self.stopped_s += passed_s if self.is_stopped else 0.0
                self._duty.spend(
                    passed_s, ran=not self.is_stopped, is_behind=was_behind
                )
        finally:
            self._set(stopped=False)

    def _set(self, *, stopped: bool) -> None:
        if stopped == self.is_stopped:
            return
        self.is_stopped = stopped
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, signal.SIGSTOP if stopped else signal.SIGCONT)
