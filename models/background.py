"""How a job makes itself small beside live frames.

Lowest priority, so that it runs in what others leave; and a bound on its memory, so that it and
not the server is told when there is no more.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Literal

import torch

log = logging.getLogger(__name__)

Priority = Literal["idle", "low", "normal"]

_LOWEST = 19


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


def bound_memory(
    memory_bytes: int, gpu_share: float = 1.0, *, device: torch.device
) -> None:
    """Let this process hold no more than so much memory beyond what it holds now.

    Parameters
    ----------
    memory_bytes : int
        Of the machine, for a job on the CPU; 0 sets no bound.
    gpu_share : float
        Of the GPU's memory, for a job on it: 0..1.
    device : torch.device
        Where the job computes, whatever else the machine has.

    Notes
    -----
    On Linux the bound is RLIMIT_DATA, which counts what is written to: torch's allocator fails and
    the batch is cut in two. RLIMIT_AS would count what libraries merely reserve, gigabytes of it.
    """
    if device.type == "cuda":
        # Nothing is bound on the CPU then: what the driver cannot map, writable and private as
        # RLIMIT_DATA counts it, it reports as an unknown failure of the GPU, and no smaller batch
        # helps. A job on the CPU holds no context, so that it is bound beside a GPU, too.
        torch.cuda.set_per_process_memory_fraction(gpu_share)
        return
    if not memory_bytes:
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
