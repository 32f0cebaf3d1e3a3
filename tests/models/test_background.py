"""A job in the background: lowest priority, bounded memory, and no life without its parent."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

BOUNDED = """
import torch
from models.background import bound_memory
from models.training import is_out_of_memory
bound_memory(256 * 2**20)
fits = torch.zeros(16 * 2**20)
try:
    torch.zeros(256 * 2**20)
except RuntimeError as error:
    print("cut" if is_out_of_memory(error) else error)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
CHILD = """
import time
from models.background import die_with_parent
die_with_parent()
print("ready", flush=True)
time.sleep(60)
"""


@linux
def test_memory_beyond_the_bound_reads_as_out_of_memory_and_less_is_had() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "cut", run.stderr


@linux
def test_a_stopped_job_dies_with_the_server_that_started_it() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline().strip() == "ready"
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        assert _is_gone(pid, 5.0)


def _is_gone(pid: int, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            said = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if said.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
