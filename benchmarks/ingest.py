"""Ingest through CURVE on loopback: MB/s from sealed to STORED, and the server's memory.

Two processes, agent and server, as in life; every file is synced, renamed and committed
before it counts. Writing and sealing the files is not part of the time.
"""

import argparse
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from machine import machine, write_json

from acquisition_agent.config import StreamSettings
from acquisition_agent.identity import load_identity
from acquisition_agent.journal import Journal, Place
from acquisition_agent.stream import Stream
from acquisition_agent.waiting import digest, look_at
from gpu_server.config import IngestSettings
from gpu_server.enrol_desk import enrol_locally
from gpu_server.ingest import Ingest
from gpu_server.keys import server_keys
from gpu_server.store import Store

MB = 1e6
TARGET_MB_PER_S = 60
WARM_FRAMES = 200
"""Frames after which the server's memory should no longer grow."""


def serve(data_dir: Path, identity: Path, pipe: Connection) -> None:
    """Be the server: Store and Ingest and nothing else."""
    settings = IngestSettings(
        bind="tcp://127.0.0.1:*", enrol_bind="tcp://127.0.0.1:*", disk_reserve_bytes=1
    )
    with (
        Store(data_dir) as store,
        Ingest(store, settings, server_keys(data_dir)) as way,
    ):
        enrol_locally(store, identity, server_url=way.address)
        pipe.send(os.getpid())
        pipe.recv()


def acquire(journal: Journal, folder: Path, frames: int, size: int) -> None:
    """Write and seal frames, each with bytes of its own."""
    folder.mkdir()
    journal.set_roots({"frames": folder})
    content = bytearray(os.urandom(size))
    for number in range(frames):
        content[:8] = number.to_bytes(8, "little")
        path = folder / f"frame_{number:05}.raw"
        path.write_bytes(content)
        look = look_at(path)
        (seq,) = journal.discover([(Place("frames", path.name), look)])
        journal.seal([(seq, look, digest(path))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512 * 1024, help="bytes a frame")
    parser.add_argument("--dir", type=Path, help="where to work; default: a new folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    home = Path(tempfile.mkdtemp(prefix="emcopilot-ingest-", dir=options.dir))
    try:
        figures = measure(home, options.frames, options.size)
    finally:
        shutil.rmtree(home)
    print(f"ingest through CURVE on loopback; {machine()}")
    for name, value in figures.items():
        print(f"{name:28} {value:10.1f}")
    write_json(options.json, {"machine": machine(), **figures})
    return 0 if figures["mb_per_s"] >= TARGET_MB_PER_S else 1


def measure(home: Path, frames: int, size: int) -> dict[str, float]:
    """Run both programs until the last frame is stored; return the figures."""
    spawn = multiprocessing.get_context("spawn")
    pipe, far_end = spawn.Pipe()
    server = spawn.Process(
        target=serve, args=(home / "server", home / "identity.json", far_end)
    )
    server.start()
    try:
        process = psutil.Process(pipe.recv())
        with Journal(home / "journal.db") as journal:
            acquire(journal, home / "frames", frames, size)
            return _send(journal, home, process, frames, size)
    finally:
        pipe.send("stop")
        server.join()


def _send(
    journal: Journal, home: Path, server: psutil.Process, frames: int, size: int
) -> dict[str, float]:
    stream = Stream(journal, StreamSettings(), load_identity(home / "identity.json"))
    agent = psutil.Process()
    began, busy_before = time.monotonic(), _busy_s(server) + _busy_s(agent)
    warm = peak = agent_peak = 0
    stream.start()
    try:
        while (stored := journal.counts().stored) < frames:
            rss = server.memory_info().rss
            agent_peak = max(agent_peak, agent.memory_info().rss)
            if stored <= WARM_FRAMES:
                warm = max(warm, rss)
            peak = max(peak, rss)
            threading.Event().wait(0.05)
        seconds = time.monotonic() - began
    finally:
        stream.stop()
    return {
        "frames": frames,
        "frame_mb": size / MB,
        "seconds": seconds,
        "mb_per_s": frames * size / MB / seconds,
        "frames_per_s": frames / seconds,
        "cores_busy": (_busy_s(server) + _busy_s(agent) - busy_before) / seconds,
        "server_rss_warm_mb": warm / MB,
        "server_rss_peak_mb": peak / MB,
        "server_rss_growth_mb": (peak - warm) / MB,
        "agent_rss_peak_mb": agent_peak / MB,
    }


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    sys.exit(main())
