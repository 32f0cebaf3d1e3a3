"""Acquire frames until the mean particle diameter is known to 2 %, then stop.

An example to copy and change. It needs Python 3.8 or newer and `client.py` (from the folder
`emcopilot`) beside it, nothing else. The camera writes its frames into the watched folder as
always; this script only takes one more frame for as long as the server says "not yet":

    set EMCOPILOT_TOKEN=emct_...
    python acquire_until_known.py --server http://gpu01:8765 --session 2026-11-22_PtC
        --acquire "python snap.py --number {number}"

`--acquire` is the command that takes one frame. Where your microscope is driven from Python
(PyJEM, SerialEM, DigitalMicrograph), put its call into `acquire_frame` instead.

Exit status: 0 known, 1 not known after --max-frames or an error, 2 bad usage.
"""

# ruff: noqa: T201 - a command line speaks to its user
from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

try:
    from emcopilot.client import Client, ServerError
except ImportError:  # copied to an acquisition PC, beside client.py
    from client import Client, ServerError  # pyright: ignore

if TYPE_CHECKING:
    from collections.abc import Callable


def acquire_frame(number: int, command: str) -> None:
    """Take one frame; replace the body by your microscope's own call."""
    words = [word.replace("{number}", str(number)) for word in shlex.split(command)]
    subprocess.run(words, check=True)


def acquire_until_known(
    copilot: Client,
    session_name: str,
    acquire: Callable[[int], None],
    *,
    target: float = 0.02,
    max_frames: int = 200,
    patience_s: float = 10.0,
) -> dict:
    """Take frames until the mean diameter is known to `target`, or `max_frames` are taken.

    Parameters
    ----------
    copilot : Client
    session_name : str
        Name of the folder, below the watched one, that the camera writes to.
    acquire : callable
        Takes one frame; given its number, from 1.
    target : float
        Half the 95 % interval of the mean over the mean.
    patience_s : float
        How long the server may take to look at a frame before the next one is taken.

    Returns
    -------
    dict
        The server's last answer; `known` says whether to trust `mean_diameter`.
    """
    session = None
    answer = {"known": False, "counted": 0}
    for number in range(1, max_frames + 1):
        acquire(number)
        if session is None:  # a session begins with its first frame
            session = copilot.find_session(session_name, timeout_s=60.0)
        answer = copilot.wait_until_known(session["id"], target, timeout_s=patience_s)
        print(describe(number, answer))
        if answer["known"]:
            break
    return answer


def describe(number: int, answer: dict) -> str:
    """Put the server's answer into one line."""
    if answer["mean_diameter"] is None:
        return f"{number} frames: no particle counted yet"
    line = (
        f"{number} frames, {answer['counted']} particles: "
        f"mean {answer['mean_diameter']:.3f} {answer['unit']}"
    )
    if answer["relative_half_width"] is not None:
        line += f" +- {100 * answer['relative_half_width']:.1f} %"
    if answer["needed_more"]:
        line += f", about {answer['needed_more']} more needed"
    return line


def main(argv: list[str]) -> int:
    """Read the command line and acquire."""
    parser = argparse.ArgumentParser(
        description="Acquire frames until the mean particle diameter is known, then stop."
    )
    parser.add_argument("--server", default="http://127.0.0.1:8765")
    parser.add_argument("--session", required=True, help="folder the camera writes to")
    parser.add_argument("--acquire", required=True, help="command that takes one frame")
    parser.add_argument("--target", type=float, default=0.02)
    parser.add_argument("--max-frames", type=int, default=200)
    parser.add_argument("--patience-s", type=float, default=10.0)
    options = parser.parse_args(argv)
    try:
        answer = acquire_until_known(
            Client(options.server),
            options.session,
            lambda number: acquire_frame(number, options.acquire),
            target=options.target,
            max_frames=options.max_frames,
            patience_s=options.patience_s,
        )
    except (ServerError, OSError, subprocess.CalledProcessError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0 if answer["known"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
