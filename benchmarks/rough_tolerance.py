"""Do imprecise rough masks matter? The whole recipe from masks that were spoiled on purpose.

    python benchmarks/rough_tolerance.py OUT --model MODEL [--ground bf|haadf] [--frames 20]
        [--scale 0.5] [--preset quick] [--json FILE] [--plot FILE.png]

The true masks of the unlabelled frames are eroded, dilated, or lose a third of their particles,
and stand in for the rough masks of a job, which then takes its usual way; `exact` leaves them as
they are. Judged on other frames. `--scale` shortens every budget of the preset alike.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from grounds import Ground, masks_miou, miou_of, simulated
from machine import machine, write_json
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from models.adapt import adapt
from models.adapt_settings import AdaptSettings, chosen_job
from models.datasets import LabelledFrame
from models.domain import MASKS_FILE, NOTE_FILE
from models.frame_sets import save_frames
from models.preprocess import normalise

Mask = NDArray[np.bool_]
BY_PX = 2
"""Of particles whose median diameter is 30 px: a fifth to a third of their area."""


def eroded(mask: Mask, _: np.random.Generator) -> Mask:
    return ndimage.binary_erosion(mask, iterations=BY_PX, border_value=1)


def dilated(mask: Mask, _: np.random.Generator) -> Mask:
    return ndimage.binary_dilation(mask, iterations=BY_PX)


def thinned(mask: Mask, rng: np.random.Generator) -> Mask:
    labels, count = ndimage.label(mask)
    keeps = rng.random(count + 1) >= 1 / 3
    keeps[0] = False
    return keeps[labels]


SPOILT: dict[str, Callable[[Mask, np.random.Generator], Mask]] = {
    "exact": lambda mask, _: mask,
    f"eroded by {BY_PX} px": eroded,
    f"dilated by {BY_PX} px": dilated,
    "a third dropped": thinned,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of rough mask and what came of it."""

    name: str
    rough: float
    """MIoU of the masks that were given."""
    miou: float
    """Of the candidate, on frames it never saw."""
    sd: float
    n: int
    verdict: dict[str, object]
    """With its reasons and what it was drawn from."""


def give_masks(job: AdaptSettings, ground: Ground, masks: Sequence[Mask]) -> None:
    """Leave masks where the job would keep its own, so that it takes them for made."""
    folder = job.out / "round-1"
    folder.mkdir(parents=True, exist_ok=True)
    note = {"how": "classical", "why": "spoilt on purpose", "left_out": {}}
    (folder / NOTE_FILE).write_text(json.dumps(note))
    if not (folder / MASKS_FILE).exists():
        frames = [
            LabelledFrame(f"{f.name}.tif", normalise(f.pixels).astype(np.float16), mask)
            for f, mask in zip(ground.unlabelled, masks, strict=True)
        ]
        save_frames(folder / MASKS_FILE, frames)


def job_for(
    out: Path, frames: Path, model: str, scale: float, preset: str
) -> AdaptSettings:
    """Return a preset with all budgets shortened."""
    job = chosen_job(
        None,
        {"frames": str(frames), "out": str(out), "preset": preset, "model": model},
    )
    shorter = {
        name: stage.model_copy(update={"steps": max(1, round(stage.steps * scale))})
        for name, stage in (
            ("pix2pix", job.pix2pix),
            ("cyclegan", job.cyclegan),
            ("train", job.train),
        )
    }
    return job.model_copy(update=shorter)


def plot(rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(rows))
    axes.bar(
        at - 0.2,
        [r.rough for r in rows],
        0.38,
        color="#999999",
        label="rough masks given",
    )
    axes.bar(
        at + 0.2, [r.miou for r in rows], 0.38, yerr=[r.sd for r in rows],
        color="#D55E00", label="candidate, unseen frames",
    )  # fmt: skip
    axes.set_xticks(at, [row.name for row in rows])
    axes.set_ylim(0.5, 1.0)
    axes.set_ylabel("MIoU")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ground", choices=["bf", "haadf"], default="bf")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--preset", choices=["quick", "standard"], default="quick")
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    ground = simulated(options.ground, options.frames)
    frames = ground.write_frames(options.out / "frames")
    truth = [frame.mask for frame in ground.unlabelled]
    rows: list[Row] = []
    for name, spoil in SPOILT.items():
        rng = np.random.default_rng(0)
        masks = [spoil(mask, rng) for mask in truth]
        folder = options.out / name.split()[0]
        job = job_for(folder, frames, options.model, options.scale, options.preset)
        give_masks(job, ground, masks)
        card = adapt(job)
        scores = miou_of(job.out, ground.test)
        verdict = card.data["verdict"]
        rows.append(
            Row(
                name,
                rough=float(masks_miou(masks, truth).mean()),
                miou=float(scores.mean()),
                sd=float(scores.std()),
                n=len(scores),
                verdict=verdict if isinstance(verdict, dict) else {},
            )
        )
        print(rows[-1], flush=True)
    print(machine())
    write_json(
        options.json,
        {
            "machine": machine(),
            "ground": ground.name,
            "split": ground.split,
            "scale": options.scale,
            "rows": [asdict(row) for row in rows],
        },
    )
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
