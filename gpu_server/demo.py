"""`emcopilot demo`: server, agent and virtual microscope on this machine, judged by the truth.

Three real programs, as on site: the server and the agent are processes of their own, the
microscope writes files. The truth is read only after the last result.
"""

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from emcopilot.virtual_microscope import acquire
from gpu_server.demo_programs import DemoPrograms
from gpu_server.demo_verdict import judge

OK, FAILED = 0, 1
ENDLESS = 10**9
FPS = 2.0
"""Of the camera; this machine's own rate holds it back further."""


def main(argv: list[str]) -> int:
    """Run the demo; returns 1 if a frame was lost or doubled, or the mean diameter is off."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.ERROR
    )  # warnings of the programs are in their logs
    # The programs have process groups of their own: nothing but us would stop them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    keep = options.keep is not None
    folder = options.keep if keep else Path(tempfile.mkdtemp(prefix="emcopilot-"))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    status = FAILED
    try:
        status = _demonstrate(folder, options)
    except KeyboardInterrupt:
        status = OK
    finally:
        # After a failure the logs are worth more than the disk space.
        if status == OK and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        elif status != OK:
            _say(f"logs and frames are kept in {folder}")
    return status


def _demonstrate(folder: Path, options: argparse.Namespace) -> int:
    _say("starting the server: loading the network takes some seconds")
    with DemoPrograms(folder, port=options.port) as programs:
        if not options.headless:
            _say(f"\n  Open {programs.login_url()}\n  Ctrl-C stops.\n")
        return _run(programs, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot demo",
        description="Watch simulated frames become outlines and a size distribution.",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="stop after N frames (0: Ctrl-C)",
    )
    parser.add_argument("--headless", action="store_true", help="do not offer the page")
    parser.add_argument("--mode", choices=("haadf", "bf"), default="haadf")
    parser.add_argument("--size", type=int, default=1024, metavar="PX")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument(
        "--port", type=int, default=8765, help="of the page; 0: any free one"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="work in DIR and leave everything there",
    )
    return parser


def _run(programs: DemoPrograms, options: argparse.Namespace) -> int:
    frames = options.frames or ENDLESS
    _say(f"writing {options.mode} frames of {options.size} px to {programs.watched}")
    acquire(
        programs.watched,
        mode=options.mode,
        frames=frames,
        fps=FPS,
        size=options.size,
        seed=options.seed,
        truth_path=programs.truth,
        wait=Pace(programs),
    )
    programs.wait_until_done(frames)
    verdict = judge(programs, frames)
    _say(verdict.explain())
    sys.stdout.write(json.dumps(verdict.as_line()) + "\n")
    return OK if verdict.passed else FAILED


class Pace:
    """Holds the microscope below what this machine can process, as a good camera operator would.

    A frame is written when the one before it is on the screen, and no sooner than a rest after
    it: the queue stays empty, so that the latency shown is that of a frame and not of a queue.
    """

    REST_S = 0.3

    def __init__(self, programs: DemoPrograms) -> None:
        self._programs = programs

    def __call__(self, written: int) -> None:
        """Wait after frame number `written`, counted from 1."""
        self._programs.wait_until_done(written)
        done, quarantined = self._programs.done()
        _say(f"frame {written}: {done} processed, {quarantined} quarantined")
        time.sleep(self.REST_S)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
