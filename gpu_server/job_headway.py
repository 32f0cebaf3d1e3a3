"""How far a job ever was, and when viewers were told of it last."""

import time

from emcopilot.job_progress import JobReport
from gpu_server.tables import STAGES

Mark = tuple[int, int, int]
"""Round, stage and step."""

_EVENT_S = 3.0
"""Between two events of one stage."""


class Headway:
    """Takes a job's reports as they come.

    Parameters
    ----------
    earlier : list of JobReport
        Of the runs before this one.
    """

    def __init__(self, earlier: list[JobReport]) -> None:
        self._furthest = max(map(_mark, earlier), default=(0, 0, 0))
        self._stage = ""
        self._told_s = 0.0

    def take(self, reports: list[JobReport]) -> tuple[bool, bool]:
        """Say whether some reports go beyond all earlier ones, and whether to tell of them."""
        furthest = max(map(_mark, reports))
        is_further = furthest > self._furthest
        self._furthest = max(furthest, self._furthest)
        now_s, stage = time.monotonic(), reports[-1].stage
        tells = stage != self._stage or now_s - self._told_s >= _EVENT_S
        if tells:
            self._stage, self._told_s = stage, now_s
        return is_further, tells


def _mark(report: JobReport) -> Mark:
    known = report.stage in STAGES
    return report.round, STAGES.index(report.stage) if known else 0, report.step
