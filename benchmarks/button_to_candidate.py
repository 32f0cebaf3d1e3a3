"""The whole loop under live frames: a switch noticed, one press, a candidate, promoted, undone.

    python benchmarks/button_to_candidate.py runs/haadf-only [--size 512] [--preset quick]
        [--json FILE] [--plot FILE.png]

Server, agent and trainer are processes of their own, as on site. The virtual microscope films
HAADF, which the model knows, then BF, which it does not; the job learns the film's frames without
masks, while the film goes on at one frame every two seconds. Candidate and incumbent are then
judged on fields of view of other seeds. Make the model with `benchmarks/haadf_only.py`.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import sqlalchemy as sa
from grounds import miou_of, simulated
from live_under_training import EVERY_S, half
from machine import machine, write_json

from emcopilot.optics import Mode
from emcopilot.virtual_microscope import acquire
from gpu_server.demo_programs import DemoPrograms
from gpu_server.tables import OPEN_JOB_STATES
from gpu_server.tables import models as models_table
from gpu_server.tokens import Tokens

KNOWN_FRAMES, NEW_FRAMES, ALONE_FRAMES = 12, 40, 60
REEL_FRAMES = 100
"""Of one film while the job runs; then another begins, for its deposition never ends."""
LOOKED_AT_S = 0.2
"""After its result the alarm looks at a frame."""


class EnoughError(Exception):
    """The film has served its purpose."""


class Site:
    """The programs, and who asks them over REST."""

    def __init__(self, programs: DemoPrograms, size: int) -> None:
        self.programs, self._size, self._reels = programs, size, 0
        token = Tokens(programs.database).create("bench", "operator", who="bench")
        self._http = httpx.Client(
            base_url=f"{programs.url}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )

    def get(self, path: str):
        """Return an answer's JSON."""
        answer = self._http.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: object = None):
        """Return an answer's JSON."""
        answer = self._http.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def film(
        self,
        mode: Mode,
        frames: int,
        after: Callable[[int], None] = lambda _: None,
        every_s: float = EVERY_S,
    ) -> None:
        """Film; `after` is called with the number of frames written so far."""
        self._reels += 1
        acquire(
            self.programs.watched,
            mode=mode,
            frames=frames,
            fps=1 / every_s,
            size=self._size,
            seed=self._reels,
            truth_path=self.programs.truth,
            wait=after,
        )

    def film_watched(self, mode: Mode, frames: int) -> list[str]:
        """Film frame by frame; returns the alarm's state after each."""
        before, states = sum(self.programs.done()), []

        def look(written: int) -> None:
            self.programs.wait_until_done(before + written)
            time.sleep(LOOKED_AT_S)
            told = self.get("/shift")
            states.append(told[0]["state"] if told else "ok")

        self.film(mode, frames, look, every_s=0.1)
        return states

    def film_one(self, mode: Mode) -> str:
        """Film a frame; returns the model that its result names."""
        before = sum(self.programs.done())
        self.film(mode, 1)
        self.programs.wait_until_done(before + 1)
        session = self.get("/sessions")[0]["id"]
        return self.get(f"/sessions/{session}/frames")["frames"][0]["model_id"]

    def film_until(self, is_over: Callable[[], bool]) -> None:
        """Film reel after reel at the live pace, and wait for the last frame's result."""

        def look(_: int) -> None:
            if is_over():
                raise EnoughError

        before = self.programs.truth.read_bytes().count(b"\n")
        done = sum(self.programs.done())
        try:
            while True:
                self.film("bf", REEL_FRAMES, look)
        except EnoughError:
            taken = self.programs.truth.read_bytes().count(b"\n") - before
            self.programs.wait_until_done(done + taken)

    def folder_of(self, model_id: str) -> Path:
        """Return where the registry keeps a model."""
        wanted = sa.select(models_table.c.folder).where(
            models_table.c.model_id == model_id
        )
        with self.programs.database.read() as connection:
            name = connection.execute(wanted).scalar_one()
        return self.programs.data_dir / "models" / name


def story(site: Site, options: argparse.Namespace) -> dict[str, object]:
    """Live through the loop once; returns the figures."""
    known = site.film_watched("haadf", KNOWN_FRAMES)
    new = site.film_watched("bf", NEW_FRAMES)
    told = site.get("/shift")
    domain = max(site.get("/domains"), key=lambda one: one["seen_at"])
    alone = half(site.programs, lambda: site.film("bf", ALONE_FRAMES))
    place = f"/domains/{domain['id']}"
    estimate = site.get(f"{place}/estimate?preset={options.preset}")
    pressed_s = time.monotonic()
    number = site.post(f"{place}/adapt", {"preset": options.preset})["id"]

    def is_over() -> bool:
        return site.get(f"/jobs/{number}")["state"] not in OPEN_JOB_STATES

    beside = half(site.programs, lambda: site.film_until(is_over))
    minutes = (time.monotonic() - pressed_s) / 60
    job = site.get(f"/jobs/{number}")
    if job["candidate"] is None:
        raise SystemExit(f"the job is {job['state']}: {job['reason']}")
    report = site.get(f"/jobs/{number}/report")
    return {
        "alarms_while_known": known.count("shifted"),
        "frames_to_alarm": new.index("shifted") + 1 if "shifted" in new else None,
        "alarm": told[0]["reason"] if told else None,
        "domain": {key: domain[key] for key in ("look", "reservoir_count")},
        "alone": alone,
        "beside_the_job": beside,
        "p95_ratio": beside["latency_s"]["p95"] / alone["latency_s"]["p95"],
        "minutes_estimated": estimate["total_s"] / 60,
        "minutes_to_candidate": minutes,
        "job": {key: job[key] for key in ("frames", "seconds", "model", "candidate")},
        "report": report,
        "next_frames": swapped(site, job["candidate"]),
        "miou": quality(options.model, kept(site.folder_of(job["candidate"]), options)),
    }


def swapped(site: Site, candidate: str) -> dict[str, str]:
    """Promote the candidate and roll back; returns which model each next frame names."""
    wanted = {"override": True, "reason": "a benchmark, whatever the verdict"}
    site.post(f"/models/{candidate}/promote", wanted)
    promoted = site.film_one("bf")
    site.post("/models/rollback")
    return {"promoted": promoted, "rolled_back": site.film_one("bf")}


def kept(candidate: Path, options: argparse.Namespace) -> Path:
    """Return the candidate's folder, kept if it is to be."""
    return Path(shutil.copytree(candidate, options.keep)) if options.keep else candidate


def quality(incumbent: str, candidate: Path) -> dict[str, dict[str, list[float]]]:
    """Return both models' MIoU on each frame of the new mode and of the old."""
    return {
        mode: {
            name: miou_of(model, simulated(mode, 0).test).round(4).tolist()
            for name, model in (("incumbent", incumbent), ("candidate", candidate))
        }
        for mode in ("bf", "haadf")
    }


def report(figures: dict) -> None:
    print(machine())
    print(
        f"{figures['alarms_while_known']} alarms in {KNOWN_FRAMES} known frames, after the switch "
        f"at frame {figures['frames_to_alarm']}: {figures['alarm']}"
    )
    print(
        f"button to candidate {figures['minutes_to_candidate']:.1f} min under live frames "
        f"(estimated without: {figures['minutes_estimated']:.1f}); {figures['job']}"
    )
    for name in ("alone", "beside_the_job"):
        part = figures[name]
        latency = part["latency_s"]
        print(
            f"{name:<15} latency p50 {latency['p50']:.2f} s  p95 {latency['p95']:.2f} s  max "
            f"{latency['max']:.2f} s  queue age <= {part['most_queue_age_s']['max']:.2f} s  "
            f"n={latency['n']}"
        )
    print(f"p95 ratio {figures['p95_ratio']:.2f}")
    print(f"verdict {figures['report']['verdict']}: {figures['report']['reasons']}")
    print(f"next frames {figures['next_frames']}")
    for mode, scores in figures["miou"].items():
        means = {name: sum(each) / len(each) for name, each in scores.items()}
        print(
            f"simulated {mode}: MIoU {means['incumbent']:.4f} -> {means['candidate']:.4f} "
            f"n={len(scores['candidate'])}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the incumbent, a folder")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--keep", type=Path, help="where the candidate is copied")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = Path(options.model).resolve()
    options.model = str(model)
    with (
        tempfile.TemporaryDirectory(prefix="emcopilot-bench-") as folder,
        DemoPrograms(
            Path(folder), port=0, settings=f"[segment]\nmodel = '{model}'\n"
        ) as programs,
    ):
        figures = story(Site(programs, options.size), options)
    report(figures)
    write_json(options.json, {"machine": machine(), **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
