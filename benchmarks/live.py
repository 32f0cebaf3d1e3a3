"""The live path on this machine: latency when paced, frame rate in a burst, memory.

Server and agent run as processes of their own, as on site; the virtual microscope writes into a
watched folder. Latency counts from the file's last byte to its committed result.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from machine import machine, spread, write_json

from emcopilot.virtual_microscope import acquire
from gpu_server.demo import Pace
from gpu_server.demo_programs import DemoPrograms
from gpu_server.demo_verdict import judge
from gpu_server.queries import counted_frames, session_list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--mode", choices=("haadf", "bf"), default="haadf")
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="emcopilot-bench-") as folder,
        DemoPrograms(Path(folder), port=0) as programs,
    ):
        figures = run(programs, options)
    _report(figures, options)
    write_json(options.json, {"machine": machine(), **figures})


def run(programs: DemoPrograms, options: argparse.Namespace) -> dict[str, object]:
    write(programs, options, options.seed, Pace(programs))
    verdict = judge(programs, options.frames)
    latencies, inference = _timings(programs)
    before = _server_mib(programs)
    started = time.monotonic()
    write(programs, options, options.seed + 1, None)
    programs.wait_until_done(2 * options.frames)
    burst_s = time.monotonic() - started
    return {
        "frames": options.frames,
        "verdict": verdict.as_line(),
        "latency_s": spread(latencies),
        "inference_s": spread(inference),
        "burst_frames_per_s": options.frames / burst_s,
        "server_mib_before_burst": before,
        "server_mib_after_burst": _server_mib(programs),
    }


def write(
    programs: DemoPrograms, options: argparse.Namespace, seed: int, wait: Pace | None
) -> None:
    acquire(
        programs.watched,
        mode=options.mode,
        frames=options.frames,
        fps=1000.0,
        size=options.size,
        seed=seed,
        truth_path=programs.truth,
        wait=wait,
    )


def _timings(programs: DemoPrograms) -> tuple[list[float], list[float]]:
    with programs.database.read() as connection:
        (session, *_) = session_list(connection)
        results = [
            (frame.result, frame.written_at)
            for frame in counted_frames(connection, session.id)
            if frame.result
        ]
    latencies = [result.saved_at - written for result, written in results]
    return latencies, [
        float(np.float64(result.summary["infer_s"])) for result, _ in results
    ]


def _server_mib(programs: DemoPrograms) -> float:
    """Resident memory of the server process alone; the network has a process of its own."""
    return psutil.Process(programs.server_pid).memory_info().rss / 2**20


def _report(figures: dict[str, object], options: argparse.Namespace) -> None:
    latency, inference = figures["latency_s"], figures["inference_s"]
    print(f"{machine()}\n{options.frames} {options.mode} frames of {options.size} px")
    print(
        f"file to result, paced   p50 {latency['p50']:.2f} s  p95 {latency['p95']:.2f} s"
    )
    print(
        f"network alone           p50 {inference['p50']:.2f} s  p95 {inference['p95']:.2f} s"
    )
    print(f"burst                   {figures['burst_frames_per_s']:.2f} frames/s")
    before, after = (
        figures["server_mib_before_burst"],
        figures["server_mib_after_burst"],
    )
    print(
        f"server process          {before:.0f} MiB before the burst, {after:.0f} MiB after"
    )
    print(f"verdict                 {figures['verdict']}")


if __name__ == "__main__":
    main()
