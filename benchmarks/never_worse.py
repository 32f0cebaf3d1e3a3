"""Whether a job ever says "promote" of a candidate that is worse than the model it would replace.

    python benchmarks/never_worse.py OUT [--model base] [--domains 4] [--first 0] [--brief]
        [--json FILE]

Each domain is one specimen under one microscope, drawn at random on supports that no training
draws; 20 fields of view are learnt from, without their masks, and 8 others judge. `--brief` takes
a third of preset `quick`'s steps: candidates are then worse, and the verdict's work is harder.
"""

import argparse
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from grounds import miou_of, simulated
from machine import machine, write_json

from emcopilot.errors import AdaptationError
from emcopilot.simulate import Scene, random_scene
from models.adapt import adapt
from models.adapt_settings import AdaptSettings, chosen_job
from models.watch import LogWatch

SEED = 2_026_112_703
SIDE_PX, UNLABELLED = 384, 20
WORSE = 0.005
"""MIoU, mean over the frames that judge: less is no loss that a person would see."""
BRIEF = {"pix2pix": 160, "cyclegan": 80, "train": 100}
"""Steps."""


@dataclass(frozen=True, slots=True)
class Case:
    """One domain, the two models' MIoU there, and what the job said."""

    domain: int
    mode: str
    diameter_px: float
    incumbent: float
    candidate: float | None
    word: str
    reasons: tuple[str, ...]
    minutes: float

    @property
    def is_wrong(self) -> bool:
        """Whether a worse model would be promoted."""
        return (
            self.word == "promote"
            and self.candidate is not None
            and self.candidate < self.incumbent - WORSE
        )


def scene_of(number: int) -> Scene:
    """Draw a domain; bright field and HAADF take turns."""
    rng = np.random.default_rng((SEED, number))
    mode = "bf" if number % 2 == 0 else "haadf"
    return random_scene(rng, shape=(SIDE_PX, SIDE_PX), mode=mode, style="demo")


def job_for(folder: Path, model: str, *, brief: bool) -> AdaptSettings:
    given = {"frames": str(folder / "frames"), "out": str(folder / "job")}
    job = chosen_job(None, {**given, "preset": "quick", "model": model})
    if not brief:
        return job
    stages = {
        name: getattr(job, name).model_copy(update={"steps": steps})
        for name, steps in BRIEF.items()
    }
    return job.model_copy(update={"synthetic": 32, **stages})


def try_domain(number: int, out: Path, model: str, *, brief: bool) -> Case:
    """Adapt the model to one domain and ask both what they make of it."""
    scene = scene_of(number)
    ground = simulated(scene.mode, UNLABELLED, scene)
    folder = out / f"domain-{number}"
    ground.write_frames(folder / "frames")
    began = time.monotonic()
    candidate: float | None = None
    reasons: list[str] = []
    try:
        card = adapt(job := job_for(folder, model, brief=brief), LogWatch())
        word = str(card.data["verdict"]["verdict"])  # type: ignore[index]
        reasons = card.data["verdict"]["reasons"]  # type: ignore[index]
        candidate = float(miou_of(job.out, ground.test).mean())
    except AdaptationError as error:
        word = f"refused: {error}"
    return Case(
        domain=number,
        mode=scene.mode,
        diameter_px=scene.population.median_diameter_px,
        incumbent=float(miou_of(model, ground.test).mean()),
        candidate=candidate,
        word=word,
        reasons=tuple(reasons),
        minutes=(time.monotonic() - began) / 60,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument("--domains", type=int, default=4)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(machine())
    cases: list[Case] = []
    for number in range(options.first, options.first + options.domains):
        case = try_domain(number, options.out, options.model, brief=options.brief)
        cases.append(case)
        reached = "-" if case.candidate is None else f"{case.candidate:.3f}"
        print(
            f"domain {number} {case.mode:<5} {case.diameter_px:5.1f} px: incumbent "
            f"{case.incumbent:.3f}, candidate {reached}, {case.word[:90]}"
            f"{'  WRONG' if case.is_wrong else ''} ({case.minutes:.1f} min)",
            flush=True,
        )
    wrong = sum(case.is_wrong for case in cases)
    print(f"{wrong} of {len(cases)} domains would get a worse model")
    write_json(
        options.json,
        {
            "machine": machine(),
            "model": options.model,
            "brief": options.brief,
            "cases": [asdict(case) for case in cases],
        },
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
