"""The whole loop under live frames: a switch noticed, one press, a candidate, promoted, undone.

    python benchmarks/button_to_candidate.py runs/haadf-only [--size 512] [--preset quick]
        [--keep FOLDER] [--json FILE]

Server, agent and trainer are processes of their own, as on site. The virtual microscope films
HAADF, which the model knows, then BF, which it does not; the job learns the film's frames without
masks, while the film goes on at one frame every two seconds. Candidate and incumbent are then
judged on fields of view of other seeds, 512 px wide. `benchmarks/haadf_only.py` makes the model.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from grounds import miou_of, simulated
from live_under_training import EVERY_S, half
from machine import machine, write_json

from emcopilot.config import load_settings
from emcopilot.optics import Mode
from emcopilot.virtual_microscope import MicroscopeSettings, exposures
from gpu_server.demo_programs import FRAME_TIMEOUT_S, DemoPrograms
from gpu_server.tables import OPEN_JOB_STATES, looks
from gpu_server.tables import models as models_table
from gpu_server.tokens import Tokens

KNOWN_FRAMES, NEW_FRAMES = 12, 40
REEL_FRAMES = 60
"""Of one film, with a job or without; then another begins, for its deposition never ends."""
LOOK_S = 0.05

Json = Any
Figures = dict[str, Any]


class Site:
    """The programs, and who asks them over REST."""

    def __init__(self, programs: DemoPrograms, size: int) -> None:
        self.programs, self._size, self._reels, self._taken = programs, size, 0, 0
        token = Tokens(programs.database).create("bench", "operator", who="bench")
        self._http = httpx.Client(
            base_url=f"{programs.url}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=600,  # a promotion warms and tests the model first
        )

    def get(self, path: str) -> Json:
        """Return an answer's JSON."""
        answer = self._http.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: object = None) -> Json:
        """Return an answer's JSON."""
        answer = self._http.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def film(
        self,
        mode: Mode,
        frames: int,
        is_over: Callable[[], bool] = lambda: False,
        every_s: float = EVERY_S,
    ) -> None:
        """Film until it is over, and wait for every result; it is asked after each frame."""
        self._reels += 1
        settings = load_settings(
            MicroscopeSettings,
            overrides={
                "mode": mode,
                "frames": frames,
                "fps": 1 / every_s,
                "size": self._size,
                "seed": self._reels,
            },
        )
        watched, truth = self.programs.watched, self.programs.truth
        for _ in exposures(watched, settings, truth_path=truth):
            self._taken += 1
            if is_over():
                break
        self.programs.wait_until_done(self._taken)

    def wait_until_looked_at(self) -> None:
        """Wait until the alarm has looked at every frame: it does so after the result."""
        until = time.monotonic() + FRAME_TIMEOUT_S
        self.programs.wait_until_done(self._taken)
        while self._looks() < self._taken and time.monotonic() < until:
            time.sleep(LOOK_S)

    def _looks(self) -> int:
        with self.programs.database.read() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(looks)
            ).scalar_one()

    def film_watched(self, mode: Mode, frames: int) -> list[tuple[int, Json]]:
        """Film frame by frame; returns the alarms that went up, each with its frame from 1."""
        before, raised = self._taken, []
        was = self._standing()["state"]

        def look() -> bool:
            nonlocal was
            self.wait_until_looked_at()
            told = self._standing()
            if told["state"] != was == "ok":
                raised.append((self._taken - before, told))
            was = told["state"]
            return False

        self.film(mode, frames, look, every_s=0.1)
        return raised

    def _standing(self) -> Json:
        """Return what the alarm says; a session that it does not name is as ever."""
        return next(iter(self.get("/shift")), {"state": "ok"})

    def film_one(self, mode: Mode) -> str:
        """Film a frame; returns the model that its result names."""
        self.film(mode, 1)
        session = self.get("/sessions")[0]["id"]
        return self.get(f"/sessions/{session}/frames")["frames"][0]["model_id"]

    def film_until(self, is_over: Callable[[], bool]) -> None:
        """Film reel after reel at the live pace."""
        while not is_over():
            self.film("bf", REEL_FRAMES, is_over)
            time.sleep(EVERY_S)

    def folder_of(self, model_id: str) -> Path:
        """Return where the registry keeps a model."""
        wanted = sa.select(models_table.c.folder).where(
            models_table.c.model_id == model_id
        )
        with self.programs.database.read() as connection:
            name = connection.execute(wanted).scalar_one()
        return self.programs.data_dir / "models" / name


def learn(site: Site, preset: str) -> Figures:
    """Live through the loop up to the candidate; returns the figures."""
    false_alarms = site.film_watched("haadf", KNOWN_FRAMES)
    alarms = site.film_watched("bf", NEW_FRAMES)
    if not alarms:
        raise SystemExit(f"no alarm in {NEW_FRAMES} frames of another mode")
    frames_to_alarm, alarm = alarms[0]
    # Where it is proposed once frames agree on a domain, as an operator reads it.
    domain = site.get("/shift")[0]["proposal"]["domain_id"]
    alone = half(site.programs, lambda: site.film("bf", REEL_FRAMES))
    estimate = site.get(f"/domains/{domain}/estimate?preset={preset}")
    number = site.post(f"/domains/{domain}/adapt", {"preset": preset})["id"]

    def is_over() -> bool:
        (job,) = (one for one in site.get("/jobs") if one["id"] == number)
        return job["state"] not in OPEN_JOB_STATES

    beside = half(site.programs, lambda: site.film_until(is_over))
    job = site.get(f"/jobs/{number}")
    if job["candidate"] is None:
        raise SystemExit(f"the job is {job['state']}: {job['reason']}")
    return {
        "false_alarms": len(false_alarms),
        "frames_to_alarm": frames_to_alarm,
        "alarm": alarm["reason"],
        "domain": site.get(f"/domains/{domain}")["look"],
        "alone": alone,
        "beside_the_job": beside,
        "p95_ratio": beside["latency_s"]["p95"] / alone["latency_s"]["p95"],
        "estimate": {key: estimate[key] for key in ("total_s", "source")},
        "minutes_to_candidate": (job["ended_at"] - job["queued_at"]) / 60,
        "job": {key: job[key] for key in ("frames", "seconds", "model", "candidate")},
        "report": site.get(f"/jobs/{number}/report"),
    }


def promote_and_undo(site: Site, candidate: str) -> dict[str, str]:
    """Promote the candidate and roll back; returns which model each next frame names."""
    wanted = {"override": True, "reason": "a benchmark, whatever the verdict"}
    site.post(f"/models/{candidate}/promote", wanted)
    promoted = site.film_one("bf")
    site.post("/models/rollback")
    return {"promoted": promoted, "rolled_back": site.film_one("bf")}


def quality(incumbent: str, candidate: Path) -> dict[str, dict[str, list[float]]]:
    """Return both models' MIoU on each frame of the new mode and of the old."""
    return {
        mode: {
            name: miou_of(model, simulated(mode, 0).test).round(4).tolist()
            for name, model in (("incumbent", incumbent), ("candidate", candidate))
        }
        for mode in ("bf", "haadf")
    }


def show(figures: Figures) -> None:
    print(machine())
    print(
        f"{figures['false_alarms']} alarms in {KNOWN_FRAMES} known frames, after the switch "
        f"at frame {figures['frames_to_alarm']}: {figures['alarm']}"
    )
    print(
        f"button to candidate {figures['minutes_to_candidate']:.1f} min under live frames "
        f"(estimated without: {figures['estimate']['total_s'] / 60:.1f}); {figures['job']}"
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
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} is there already; name a folder that is not")
    model = Path(options.model).resolve()
    with (
        tempfile.TemporaryDirectory(prefix="emcopilot-bench-") as folder,
        DemoPrograms(
            Path(folder), port=0, settings=f"[segment]\nmodel = '{model}'\n"
        ) as programs,
    ):
        site = Site(programs, options.size)
        figures: Figures = {"machine": machine(), **learn(site, options.preset)}
        write_json(options.json, figures)  # should what follows fail
        candidate = site.folder_of(figures["job"]["candidate"])
        if options.keep:
            candidate = Path(shutil.copytree(candidate, options.keep))
        figures["next_frames"] = promote_and_undo(site, figures["job"]["candidate"])
        figures["miou"] = quality(str(model), candidate)
    show(figures)
    write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
