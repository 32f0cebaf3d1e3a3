"""What is leashed ends with its parent, also when it is stopped or only just started."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

PARENT = """
import os, subprocess, sys
leash = [sys.executable, "-I", "-m", "emcopilot.leash", str(os.getpid())]
command = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
child = subprocess.Popen([*leash, *command], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


@linux
def test_a_stopped_process_dies_with_the_one_that_started_it() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline().strip() == "ready"
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        assert _is_gone(pid, 5.0)


@linux
def test_one_whose_parent_is_gone_already_never_starts() -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-m", "emcopilot.leash", "1", "/bin/echo", "started"],
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (1, b"")


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
