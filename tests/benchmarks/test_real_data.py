"""The benchmark on real micrographs as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_data.py"
PATIENCE_S = 120.0
"""For importing torch and loading the network on a machine that does other work as well."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.timeout(3 * PATIENCE_S)
def test_a_stopped_benchmark_leaves_no_program_behind(tmp_path: Path) -> None:
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "EMCOPILOT_DATA": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)], env=environment, stderr=subprocess.DEVNULL
    ) as benchmark:
        try:
            _wait_for_server(tmp_path)
            benchmark.terminate()
            assert benchmark.wait(PATIENCE_S) == 128 + signal.SIGTERM
            assert _programs_in(tmp_path) == []
        finally:
            benchmark.kill()
            for pid in _programs_in(tmp_path):
                os.kill(pid, signal.SIGKILL)


def _wait_for_server(folder: Path) -> None:
    """Wait until the server has started processes of its own."""
    end = time.monotonic() + PATIENCE_S
    while not any(_has_children(pid) for pid in _programs_in(folder)):
        assert time.monotonic() < end, "the server was not started"
        time.sleep(0.1)


def _has_children(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return any(thread.read_text() for thread in threads)


def _programs_in(folder: Path) -> list[int]:
    """Return the ids of the processes whose command line names the folder."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if bytes(folder) in command:
            found.append(int(process.name))
    return found
