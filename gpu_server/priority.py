"""How a process gives way on the CPU, and comes forward again where the system lets it.

To give way is free to everybody; to come forward takes CAP_SYS_NICE or a limit (RLIMIT_NICE,
`LimitNICE=` of systemd) that allows for it. Who could not come back does not give way: live frames
behind everything else for good would be worse than beside a network that is loaded.
"""

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

BEHIND = 5
"""In nice values: a quarter of the time beside one thread of nice 0, for Linux weighs them 335 to
1024 (`sched_prio_to_weight` in kernel/sched/core.c). Behind a queue that never empties, nice 19
would load no network in time."""


def give_way() -> None:
    """Let this thread, and those that it makes, come after others, if they could come back."""
    if can_come_back():
        os.nice(BEHIND)


def can_come_back() -> bool:
    """Say whether the system would let a process come forward that gave way."""
    if not sys.platform.startswith("linux"):
        return False  # there is no way to ask without giving way for good
    # Linux ranks threads one by one: one that ends at once tries it.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_goes_and_comes_back).result()


def _goes_and_comes_back() -> bool:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.nice(1)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, before)
    except PermissionError:
        return False
    return True


def come_forward(pid: int) -> None:
    """Let a process, all of its threads, rank with this one; if it cannot, the log says so."""
    if not sys.platform.startswith("linux"):
        return  # it never gave way
    ours = os.getpriority(os.PRIO_PROCESS, os.getpid())
    done: set[str] = set()
    try:
        # Again until no thread is new: one inherits the rank of the thread that makes it.
        while (
            late := {path.name for path in Path(f"/proc/{pid}/task").iterdir()} - done
        ):
            for thread in late:
                with suppress(ProcessLookupError):  # it ended meanwhile
                    os.setpriority(os.PRIO_PROCESS, int(thread), ours)
            done |= late
    except OSError as error:
        log.warning("process stays behind pid=%d reason=%s", pid, error)
