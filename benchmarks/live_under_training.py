"""The live path beside a running job: latency with and without, side by side in one run.

    python benchmarks/live_under_training.py --frames 60 [--json FILE]

Server, agent and trainer are processes of their own, as on site. The virtual microscope writes one
frame every two seconds; latency counts from the file's last byte to its committed result. The
same pace is run twice, first without a job and then with one that trains all the while; the job's
start is waited for, so that its loading is not measured away.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from machine import machine, spread, write_json

from emcopilot.virtual_microscope import acquire
from gpu_server.accounts import queue_account
from gpu_server.demo_programs import DemoPrograms
from gpu_server.queries import counted_frames, session_list
from gpu_server.tokens import Tokens

EVERY_S = 2.0
DOMAIN_FRAMES = 12
"""Enough for a domain that can be learnt."""
START_S, LOOK_S = 600.0, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60, help="of each half")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--stage", default="pix2pix", help="of the job, to wait for")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="emcopilot-bench-") as folder,
        DemoPrograms(Path(folder), port=0) as programs,
    ):
        figures = run(programs, options)
    report(figures)
    write_json(options.json, {"machine": machine(), **figures})


def run(programs: DemoPrograms, options: argparse.Namespace) -> dict[str, object]:
    token = Tokens(programs.database).create("bench", "operator", who="bench")
    headers = {"authorization": f"Bearer {token}"}

    def film(seed: int) -> None:
        take(programs, options, options.frames, seed=seed, every_s=EVERY_S)

    with httpx.Client(
        base_url=f"{programs.url}/api/v1", headers=headers, timeout=60
    ) as http:
        take(
            programs, options, DOMAIN_FRAMES, seed=1, every_s=0.5
        )  # warm, and a domain
        alone = half(programs, lambda: film(seed=2))
        job = start_job(http, options)
        beside = half(programs, lambda: film(seed=3))
        after = http.get(f"/jobs/{job}").json()
        http.post(f"/jobs/{job}/cancel")
    ratio = beside["latency_s"]["p95"] / alone["latency_s"]["p95"]
    return {
        "frames": options.frames,
        "every_s": EVERY_S,
        "size": options.size,
        "alone": alone,
        "beside_a_job": beside,
        "p95_ratio": ratio,
        "job": {
            key: after[key] for key in ("state", "step", "steps", "reason", "seconds")
        },
    }


def start_job(http: httpx.Client, options: argparse.Namespace) -> int:
    """Press the button, and wait until the job is in the stage that is to be measured."""
    domain = max(http.get("/domains").json(), key=lambda one: one["reservoir_count"])
    answer = http.post(
        f"/domains/{domain['id']}/adapt", json={"preset": options.preset}
    )
    answer.raise_for_status()
    job = answer.json()["id"]
    until = time.monotonic() + START_S
    while (found := http.get(f"/jobs/{job}").json())["state"] != options.stage:
        if found["state"] not in {"queued", "rough_masks", "pix2pix", "cyclegan"}:
            raise SystemExit(f"the job is {found['state']}: {found['reason']}")
        if time.monotonic() > until:
            raise SystemExit(f"the job is still in {found['state']}")
        time.sleep(LOOK_S)
    return job


def half(
    programs: DemoPrograms, film: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """Let frames be taken and return what became of them."""
    ages_s, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            with programs.database.read() as connection:
                oldest = queue_account(connection).oldest_queued_at
            if oldest is not None:
                ages_s.append(time.time() - oldest)

    looking = threading.Thread(target=look)
    looking.start()
    began = time.time()
    try:
        film()
    finally:
        done.set()
        looking.join()
    with programs.database.read() as connection:
        found = [
            (frame.result, frame.written_at)
            for session in session_list(connection)
            for frame in counted_frames(connection, session.id)
            if frame.result and frame.written_at >= began - 1
        ]
    return {
        "latency_s": spread([result.saved_at - at for result, at in found]),
        "inference_s": spread(
            [float(np.float64(result.summary["infer_s"])) for result, _ in found]
        ),
        "most_queue_age_s": {"max": max(ages_s)},
        "frames": {"count": float(len(found))},
    }


def take(
    programs: DemoPrograms,
    options: argparse.Namespace,
    frames: int,
    *,
    seed: int,
    every_s: float,
) -> None:
    before = sum(programs.done())
    acquire(
        programs.watched,
        mode="haadf",
        frames=frames,
        fps=1 / every_s,
        size=options.size,
        seed=seed,
        truth_path=programs.truth,
    )
    programs.wait_until_done(before + frames)


def report(figures: dict[str, object]) -> None:
    print(f"{machine()}\none {figures['size']} px frame every {EVERY_S:g} s")
    for name in ("alone", "beside_a_job"):
        part = figures[name]
        latency = part["latency_s"]
        print(
            f"{name:<13} latency p50 {latency['p50']:.2f} s  p95 {latency['p95']:.2f} s  "
            f"queue age <= {part['most_queue_age_s']['max']:.2f} s  "
            f"network p50 {part['inference_s']['p50']:.2f} s  frames {part['frames']['count']:.0f}"
        )
    print(f"p95 ratio     {figures['p95_ratio']:.2f}   job {figures['job']}")


if __name__ == "__main__":
    main()
