"""A process that ends with the one that started it, however that ends.

    python -m emcopilot.leash PARENT_PID COMMAND...

becomes COMMAND, leashed from its first moment: what loads for seconds before it could see to this
itself would outlive a parent that is killed meanwhile. On Linux the system holds the leash
(PR_SET_PDEATHSIG), also while the process is stopped; elsewhere COMMAND runs without one and must
look after its parent itself.
"""

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_LOOK_S = 1.0


def die_with_parent(parent: int | None = None) -> None:
    """End this process, without a goodbye, as soon as its parent ends.

    Without one because it may be stopped when that happens, and a stopped process handles
    nothing but this. What was not saved by then is done again.

    Parameters
    ----------
    parent : int, optional
        Process id of the one meant; if that has ended already, so does this process. By default
        whoever is the parent now.
    """
    expected = os.getppid() if parent is None else parent
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != expected:  # it ended before it could be asked for
            os._exit(1)
        return
    threading.Thread(target=_watch_parent, args=(expected,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    """Look after the parent where the system does not; a stopped process stays."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def main(argv: list[str]) -> None:
    """Become the command, leashed."""
    parent, *command = argv
    if sys.platform.startswith("linux"):
        die_with_parent(int(parent))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
