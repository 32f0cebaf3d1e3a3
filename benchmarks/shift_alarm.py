"""How soon the domain-shift alarm notices another mode, and how often it cries wolf.

    python benchmarks/shift_alarm.py runs/haadf-only [--frames 500] [--seeds 2] [--read-every 5]

Simulated in-situ films of 256 px, pixels alone: no metadata reaches the alarm anywhere. Every
frame gets its look as the server gives it; the network segments each frame round a switch, and of
long films one in five (its reading stands for those after it), or an hour of segmenting would
be needed.
Judged are the alarm as it is, by what the model was trained on and by its doubt; looks alone; and
a model that does not say what it was trained on. Make the model with `benchmarks/haadf_only.py`.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from machine import machine

from emcopilot.confidence import doubtful_share
from emcopilot.domain import Reading
from emcopilot.dynamics import Dynamics
from emcopilot.labels import label_particles
from emcopilot.optics import Mode
from emcopilot.seen import SEEN_FILE, Seen
from emcopilot.simulate import Micrograph, Scene, demo_scene, film, random_scene
from gpu_server.shift import Observation, SessionAlarm
from models import checkpoint
from models.look import Looker
from models.npssegnet import torch_run
from models.predict import predict
from models.segmentation_metrics import pixel_score

SIDE_PX = 256
BEFORE, AFTER = 20, 12
"""Frames of the first mode and of the second, round a switch."""
OTHER_SCENES, OTHER_FRAMES = 6, 40
OTHER_SEED = 20_261_131
STEADY = Dynamics(deposition=0.0)
"""Particles ripen, wander, merge and appear while the stage drifts, but nothing is added: of the
demo's film, two particles of 145 px are left in a frame of 256 px after 500 frames, the model
finds neither, and the alarm is right."""
CERTAIN = Reading(1, 0.0, None, 0.0)
"""What stands in where looks alone are judged: no doubt."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A model as the alarm sees it."""

    name: str
    seen: Seen
    run: object

    @classmethod
    def load(cls, model: str | Path) -> "Watched":
        """Load a model and what it was trained on."""
        network, card = checkpoint.load(model)
        seen = Seen.read(checkpoint.find(model) / SEEN_FILE)
        return cls(card.model_id, seen, torch_run(network.float()))

    def read(self, frame: Micrograph) -> tuple[Reading, float]:
        """Return what the model finds, and its MIoU."""
        probability = predict(frame.pixels, self.run)  # type: ignore[arg-type]
        labels = label_particles(probability)
        area_px = np.bincount(labels.ravel())[1:]
        reading = Reading(
            particle_count=len(area_px),
            doubtful_share=doubtful_share(probability),
            diameter_px=float(np.median(np.sqrt(4 * area_px / np.pi)))
            if len(area_px)
            else None,
            covered_share=float(area_px.sum() / labels.size),
        )
        return reading, pixel_score(probability > 127, frame.labels > 0).miou


def observed(
    frames: Iterator[Micrograph], model: Watched, looker: Looker, every: int
) -> tuple[list[Observation], float]:
    """Look at frames and read them; returns the observations and the mean MIoU."""
    taken: list[Observation] = []
    mious: list[float] = []
    reading = CERTAIN
    for number, frame in enumerate(frames):
        if number % every == 0:
            reading, miou = model.read(frame)
            mious.append(miou)
        taken.append(Observation(number, looker(frame.pixels), reading))
    return taken, float(np.mean(mious))


def alarms(frames: Sequence[Observation], seen: Seen | None) -> list[tuple[int, str]]:
    """Return the frames, from 1, at which an alarm went up, and why."""
    alarm = SessionAlarm("model", seen)
    found = []
    for number, frame in enumerate(frames, start=1):
        if alarm.observe(frame) and alarm.state == "shifted":
            found.append((number, alarm.reason))
    return found


def judged(
    frames: Sequence[Observation], seen: Seen
) -> dict[str, list[tuple[int, str]]]:
    certain = [replace(frame, reading=CERTAIN) for frame in frames]
    return {
        "alarm": alarms(frames, seen),
        "looks alone": alarms(certain, seen),
        "training unknown": alarms(frames, None),
    }


def switch(
    scene_of: dict[Mode, Scene], seed: int, model: Watched, looker: Looker
) -> dict[str, object]:
    """Film HAADF, then BF of the same scene."""
    both: list[Observation] = []
    mious = []
    for mode, count in (("haadf", BEFORE), ("bf", AFTER)):
        frames = islice(film(scene_of[mode], seed), count)  # type: ignore[index]
        taken, miou = observed(frames, model, looker, every=1)
        both += taken
        mious.append(round(miou, 3))
    found = judged(both, model.seen)
    after = {
        name: next((n - BEFORE for n, _ in one if n > BEFORE), None)
        for name, one in found.items()
    }
    early = {name: sum(n <= BEFORE for n, _ in one) for name, one in found.items()}
    reason = next((why for n, why in found["alarm"] if n > BEFORE), "")
    distances = [model.seen.distance(frame.look) for frame in both]
    return {
        "seed": seed,
        "frames_to_alarm": after,
        "alarms_before": early,
        "reason": reason,
        "miou": mious,
        "distance_before": _range(distances[:BEFORE]),
        "distance_after": _range(distances[BEFORE:]),
    }


def unchanged(
    scene: Scene, seed: int, count: int, model: Watched, looker: Looker, *, every: int
) -> dict[str, object]:
    """Film one scene and count the alarms; one frame in `every` is segmented."""
    frames = islice(film(scene, seed, STEADY), count)
    taken, miou = observed(frames, model, looker, every)
    found = judged(taken, model.seen)
    alarm = SessionAlarm("model", model.seen)
    scores = []
    for frame in taken:
        scores.append(alarm.score(frame))
        alarm.observe(frame)
    return {
        "mode": scene.mode,
        "seed": seed,
        "frames": count,
        "miou": round(miou, 3),
        "alarms": {name: len(one) for name, one in found.items()},
        "reasons": [why for _, why in found["alarm"]],
        "distance": _range([model.seen.distance(frame.look) for frame in taken]),
        "doubt": _range([frame.reading.doubtful_share for frame in taken]),
        "score": _range(scores),
        "frames_for_an_alarm": int(np.sum(np.array(scores) >= 1)),
    }


def cost(looker: Looker, side_px: int = 512, times: int = 7) -> dict[str, float]:
    """Compare the time of a look with that of segmenting the frame, taken in turn."""
    # Not on a machine that never runs it: a GPU server may leave OpenVINO out.
    from gpu_server.engines.openvino_engine import OpenVinoEngine

    network, _ = checkpoint.load("base")
    engine = OpenVinoEngine(network)
    frame = next(film(demo_scene("haadf", size=side_px), 1)).pixels
    seconds: dict[str, list[float]] = {"look_s": [], "segment_s": []}
    predict(frame, engine.run)
    for _ in range(times):
        started = time.perf_counter()
        looker(frame)
        looked = time.perf_counter()
        predict(frame, engine.run)
        seconds["look_s"].append(looked - started)
        seconds["segment_s"].append(time.perf_counter() - looked)
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    return middle | {"share": middle["look_s"] / middle["segment_s"]}


def _range(values: Sequence[float]) -> list[float]:
    """Return the 5th, 50th and 95th percentile and the largest."""
    return [round(float(v), 2) for v in np.percentile(values, (5, 50, 95, 100))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="knows HAADF alone")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--read-every", type=int, default=5, help="frames, in long films"
    )
    parser.add_argument("--cost", action="store_true", help="time looks, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    looker = Looker.load()
    haadf_only, base = Watched.load(options.model), Watched.load("base")
    figures: dict[str, list[dict[str, object]]] = {}

    def keep(name: str, one: dict[str, object]) -> None:
        figures.setdefault(name, []).append(one)
        print(name, json.dumps(one), flush=True)

    print(machine(), haadf_only.name, base.name)
    if options.cost:
        keep("cost of a look at 512 px, OpenVINO", dict(cost(looker)))
    demo: dict[Mode, Scene] = {m: demo_scene(m, size=SIDE_PX) for m in ("haadf", "bf")}
    for seed in range(options.seeds + 1):
        keep("HAADF -> BF, HAADF-only model", switch(demo, seed, haadf_only, looker))
    keep("HAADF -> BF, base model (knows both)", switch(demo, 0, base, looker))
    for seed in range(options.seeds):
        for model, mode in ((haadf_only, "haadf"), (base, "bf"), (base, "haadf")):
            scene = demo[mode]  # type: ignore[index]
            one = unchanged(
                scene,
                100 + seed,
                options.frames,
                model,
                looker,
                every=options.read_every,
            )
            keep(f"unchanged {mode}, {model.name}", one)
    for number in range(OTHER_SCENES):
        rng = np.random.default_rng((OTHER_SEED, number))
        scene = random_scene(rng, shape=(SIDE_PX, SIDE_PX), mode="haadf", style="demo")
        one = unchanged(scene, number, OTHER_FRAMES, haadf_only, looker, every=10)
        keep("other HAADF scenes, unseen supports, HAADF-only model", one)
    print(f"{time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
