"""A process gives way only where it can come forward again, with all of its threads."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_server import priority
from gpu_server.priority import BEHIND, can_come_back, come_forward, give_way

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux ranks threads one by one"
)

THREADS = """
import os, sys, threading
os.nice(5)
for _ in range(3):
    threading.Thread(target=sys.stdin.read).start()
print("ready", flush=True)
"""


def rank_in_a_thread(deed: Callable[[], object]) -> int:
    """Do something in a thread of its own and return that thread's nice value."""
    ranks: list[int] = []

    def run() -> None:
        deed()
        ranks.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return ranks[0]


def test_to_ask_changes_nothing() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert rank_in_a_thread(can_come_back) == before
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.parametrize("may", [True, False])
def test_who_could_not_come_back_does_not_give_way(
    may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priority, "can_come_back", lambda: may)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert rank_in_a_thread(give_way) == before + (BEHIND if may else 0)


def test_all_threads_of_a_process_come_forward_or_the_log_says_why_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    command = [sys.executable, "-c", THREADS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        threads = [
            int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()
        ]
        come_forward(process.pid)
        ranks = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
        process.communicate("")
    assert len(threads) == 4
    if can_come_back():
        assert ranks == {ours}
        assert caplog.text == ""
    else:
        assert ranks == {ours + 5}
        assert "stays behind" in caplog.text


def test_nothing_is_asked_of_a_system_that_cannot_do_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "getpriority")
    come_forward(os.getpid())
    assert caplog.text == ""


def test_a_process_that_has_ended_raises_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    come_forward(process.pid)
    assert f"stays behind pid={process.pid}" in caplog.text
