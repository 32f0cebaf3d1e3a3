"""How a job makes itself small beside live frames, and never outlives who started it.

Lowest priority, so that it runs in what others leave; a bound on its memory, so that it and not
the server is told when there is no more; and death with its parent, so that a server that is
killed and started again finds the job's folder free.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import torch

log = logging.getLogger(__name__)

Priority = Literal["idle", "low", "normal"]

_PR_SET_PDEATHSIG = 1
_LOWEST = 19
_LOOK_S = 1.0


def step_back(priority: Priority) -> None:
    """Give way to everything else on this machine.

    Parameters
    ----------
    priority : {"idle", "low", "normal"}
        "idle" runs where nothing else wants to (SCHED_IDLE where there is, else the lowest nice
        value), "low" has one sixtieth of the time of what competes, "normal" changes nothing.
    """
    if priority == "normal":
        return
    if hasattr(os, "nice"):
        os.nice(max(0, _LOWEST - os.nice(0)))
    if priority == "idle" and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def bound_memory(memory_bytes: int) -> None:
    """Let this process hold no more than so much memory beyond what it holds now.

    Parameters
    ----------
    memory_bytes : int
        Of the GPU where there is one, else of the machine; 0 sets no bound.

    Notes
    -----
    On Linux the bound is RLIMIT_DATA, which counts what is written to: torch's allocator fails and
    the batch is cut in two. RLIMIT_AS would count what libraries merely reserve, gigabytes of it.
    """
    if not memory_bytes:
        return
    if torch.cuda.is_available():
        # Nothing is bound on the CPU then: the driver maps more than it ever uses.
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total))
        return
    if not sys.platform.startswith("linux"):
        log.warning("memory is not bounded on %s", sys.platform)
        return
    import resource  # noqa: PLC0415 - not there on Windows

    limit = _data_bytes() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """Return what RLIMIT_DATA counts of this process now."""
    with Path("/proc/self/status").open() as file:
        for line in file:
            if line.startswith("VmData:"):
                return 1024 * int(line.split()[1])
    return 0


def die_with_parent() -> None:
    """End this process, without a goodbye, as soon as the one that started it ends.

    Without one because it may be stopped when that happens, and a stopped process handles
    nothing but this. What was not saved by then is done again.
    """
    parent = os.getppid()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before it could be asked for
            os._exit(1)
        return
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    """Look after the parent where the system does not; stopped, this process stays."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)
