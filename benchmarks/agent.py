"""The agent beside a folder of many files: memory, processor, start, and time to seal.

    python benchmarks/agent.py [--files N] [--frames N] [--idle SECONDS] [--json FILE]

The agent is a process of its own and runs as on site, with file events and a server that
does not answer. A frame's time runs from the moment its writer closed it to the line that
the agent prints once the seal is committed.
"""

import argparse
import os
import queue
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from machine import machine, spread, write_json

from acquisition_agent.config import EXCLUDE, INCLUDE
from acquisition_agent.identity import Identity, new_key_pair, save_identity
from acquisition_agent.journal import Journal
from acquisition_agent.names import NameRule
from acquisition_agent.settle import Patience
from acquisition_agent.watch import FolderWatch

MIB = 2**20
SIDE_PX = 1024
TARGETS = {
    "resident_mib": 100.0,
    "processor_percent": 3.0,
    "start_s": 5.0,
    "plain_p95_s": 1.5,
    "tiff_p95_s": 0.6,
}


class Lines:
    """What the agent prints, each line with the time at which it came."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._lines.put((time.monotonic(), line))

    def when(self, text: str, within_s: float = 300.0) -> float:
        """Return when the first line with this text came; later ones are still to read."""
        end = time.monotonic() + within_s
        while True:
            at, line = self._lines.get(timeout=max(end - time.monotonic(), 0.01))
            if text in line:
                return at


def tiff(pixels: bytes) -> bytes:
    """Return a plain TIFF of 16-bit pixels in one strip, directory behind the data."""
    entries = [
        (256, 3, 1, SIDE_PX),
        (257, 3, 1, SIDE_PX),
        (258, 3, 1, 16),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 3, 1, SIDE_PX),
        (279, 4, 1, len(pixels)),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(entries)) + directory + bytes(4)


def prepare(home: Path, files: int) -> Path:
    """Fill a folder and a journal in which every file of it is stored."""
    folder = home / "acquisitions"
    folder.mkdir()
    for number in range(files):
        (folder / f"frame_{number:05}.png").write_bytes(b"stored long ago")
    with Journal(home / "agent" / "journal.db") as journal:
        journal.set_roots({folder.name: folder})
        names, patience = NameRule(INCLUDE, EXCLUDE), Patience(still_s=0.0)
        watch = FolderWatch(journal, folder.name, folder, names, patience)
        watch.tick()
        while watch.waiting:
            watch.tick()
        sealed = journal.next_to_offer(files)
        journal.mark_stored([(file.seq, file.rev) for file in sealed])
    public, secret = new_key_pair()
    identity = Identity(
        agent="benchmark",
        server_url="tcp://127.0.0.1:9",
        server_key=new_key_pair()[0],
        public_key=public,
        secret_key=secret,
    )
    save_identity(identity, home / "identity.json")
    return folder


@contextmanager
def agent(home: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "acquisition_agent", "--watch", str(folder)]
    command += ["--journal", str(home / "agent" / "journal.db")]
    command += ["--identity", str(home / "identity.json")]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def seal_times(folder: Path, lines: Lines, frames: int, kind: str) -> list[float]:
    """Write frames as a camera does, one after the other; return seconds to the seal."""
    rng = random.Random(1)
    times: list[float] = []
    for number in range(frames):
        name = f"new_{number:03}.{kind}"
        pixels = rng.randbytes(2 * SIDE_PX**2)
        content = tiff(pixels) if kind == "tif" else b"raw" + pixels
        time.sleep(rng.uniform(0.2, 1.2))  # at any moment between two listings
        (folder / name).write_bytes(content)
        closed = time.monotonic()
        times.append(max(0.0, lines.when(f"name={name}") - closed))
    return times


def measure(files: int, frames: int, idle_s: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        folder = prepare(home, files)
        began = time.monotonic()
        with agent(home, folder) as process:
            lines = Lines(process)
            start_s = lines.when(f"stored={files}") - began
            watched = psutil.Process(process.pid)
            before, since = watched.cpu_times(), time.monotonic()
            time.sleep(idle_s)
            after, passed = watched.cpu_times(), time.monotonic() - since
            used = after.user + after.system - before.user - before.system
            plain = seal_times(folder, lines, frames, "tvips")
            tiffs = seal_times(folder, lines, frames, "tif")
            resident = watched.memory_info().rss
    return {
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "files": files,
        "start_s": start_s,
        "idle_s": passed,
        "processor_percent": 100 * used / passed,
        "resident_mib": resident / MIB,
        "plain_s": spread(plain),
        "tiff_s": spread(tiffs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--idle", type=float, default=70.0, help="a full scan included")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = measure(options.files, options.frames, options.idle)
    plain, tiffs = figures["plain_s"], figures["tiff_s"]
    reached = {
        "resident_mib": figures["resident_mib"],
        "processor_percent": figures["processor_percent"],
        "start_s": figures["start_s"],
        "plain_p95_s": plain["p95"],
        "tiff_p95_s": tiffs["p95"],
    }
    print(f"{figures['machine']}; load average {figures['load_average']:.1f}")
    print(
        f"watching {options.files} stored files, {options.frames} frames of 2 MiB each"
    )
    for name, value in reached.items():
        verdict = "reached" if value < TARGETS[name] else "MISSED"
        print(f"  {name:<18} {value:8.2f}  (target < {TARGETS[name]:g}: {verdict})")
    print(f"  plain file p50 {plain['p50']:.2f} s, TIFF p50 {tiffs['p50']:.2f} s")
    write_json(options.json, figures | {"targets": TARGETS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
