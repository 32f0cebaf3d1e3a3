"""What labels out of unlabelled frames are worth, and what each stage of the recipe buys.

    python benchmarks/label_free.py OUT --ground bf|haadf|emps --model MODEL [--preset quick]
        [--config JOB.toml] [--frames N] [--stages STAGE ...] [--json FILE] [--plot FILE.png]
        [--curves FILE.png]

Runs `emcopilot adapt` on frames whose masks are hidden from it, then trains the same network from
the same start with the same settings on other labels: the rough masks, a classical cut's, the 1st
generation, the 2nd, and the masks drawn by hand; the candidate itself learns from the 2nd and from
rough masks. Each is joined by the same share of simulated frames against forgetting;
`rehearsal` shows what these do alone, `plus-1`, `plus-3` and `plus-5` what so many masks drawn by
hand add to the candidate. All are judged on frames that no training saw, beside the incumbent and
the microscopist's one-liner; on a few of these every training is judged on its way, too, and the
candidate's is repeated for it. A killed run goes on.
"""

import argparse
import logging
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from grounds import Ground, emps, masks_miou, miou_of, otsu_of, simulated
from machine import machine, write_json
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emcopilot.optics import Mode
from models import checkpoint
from models.adapt import adapt, parted, sources
from models.adapt_settings import AdaptSettings, chosen_job
from models.augmentation import Source
from models.classical_cut import choose_way, cut
from models.curves import read_record
from models.datasets import LabelledFrame, label
from models.domain import open_domain
from models.domain_frames import frame_files
from models.frame_sets import load_frames
from models.significance import paired_test
from models.train_segmenter import train
from models.train_settings import Recipe
from models.watch import LogWatch

log = logging.getLogger(__name__)

STAGES = (
    "rehearsal",
    "rough",
    "classical",
    "first",
    "second",
    "candidate",
    "plus-1",
    "plus-3",
    "plus-5",
    "manual",
)
SHOWN = {
    "rehearsal": "simulated rehearsal alone, no frame of the domain",
    "rough": "rough masks alone",
    "classical": "classical masks alone",
    "first": "1st generation",
    "second": "2nd generation alone",
    "candidate": "2nd generation and rough masks (the candidate)",
    "plus-1": "the candidate's labels and 1 mask drawn by hand",
    "plus-3": "the candidate's labels and 3 masks drawn by hand",
    "plus-5": "the candidate's labels and 5 masks drawn by hand",
    "manual": "masks drawn by hand",
}
ADDED = 0.25
"""Share of all tiles that show the few frames whose masks were drawn by hand."""
ON_THE_WAY, LOOKS = 8, 8
"""Test frames on which a training is judged on its way, and how often."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to masks, on the frames that judge."""

    name: str
    miou: NDArray[np.float64]
    """Shape (N,)."""

    def as_json(self) -> dict[str, object]:
        """Return the figures as plain values."""
        return {
            "name": self.name,
            "miou": float(self.miou.mean()),
            "sd": float(self.miou.std()),
            "n": len(self.miou),
            "per_frame": self.miou.round(4).tolist(),
        }


def ground_of(name: str, frames: int) -> Ground:
    return emps(frames) if name == "emps" else simulated(name, frames)  # type: ignore[arg-type]


def labels_for(
    stage: str, job: AdaptSettings, ground: Ground
) -> Sequence[LabelledFrame]:
    """Return what the network is taught at a stage; from the job's own files but for the last."""
    round_folder = job.out / "round-1"
    if stage == "manual":
        return ground.labels()
    if stage == "rough":
        return load_frames(round_folder / "rough.npz")
    if stage == "classical":
        frames = load_frames(round_folder / "rough.npz")
        pixels = [frame.pixels.astype(np.float32) for frame in frames]
        way = choose_way(pixels)
        return [
            LabelledFrame(f.name, f.pixels, cut(p, way).mask)
            for f, p in zip(frames, pixels, strict=True)
        ]
    return load_frames(round_folder / f"{stage}.npz")


def taught_from(stage: str, job: AdaptSettings, ground: Ground) -> list[Source]:
    if stage == "rehearsal":
        return sources(job, [])
    if stage == "candidate":
        return candidate_sources(job)
    if stage.startswith("plus-"):
        few = ground.labels()[: int(stage.removeprefix("plus-"))]
        by_hand = Source(few, share=ADDED, scale=(0.35, 1.4), invert=0.0)
        others = candidate_sources(job)
        return [*(replace(s, share=(1 - ADDED) * s.share) for s in others), by_hand]
    labels = labels_for(stage, job, ground)
    return sources(job, labels, has_true_edges=stage == "manual")


def candidate_sources(job: AdaptSettings) -> list[Source]:
    """Return what the job's candidate learnt from."""
    round_folder = job.out / "round-1"
    files = frame_files(job.frames, job.most_frames)
    domain = open_domain(job, files, job.model, round_folder)
    learnt, _ = parted(load_frames(round_folder / "second.npz"))
    return sources(job, learnt, domain.shown)


def taught(stage: str, job: AdaptSettings, ground: Ground, out: Path) -> Path:
    """Train the job's network on a stage's labels, or find it trained."""
    folder = out / stage
    if (folder / checkpoint.CARD_FILE).exists() and _is_done(folder, job):
        return folder
    every = max(1, len(ground.test) // ON_THE_WAY)
    judged = [label(f.name, f.pixels, f.mask) for f in ground.test[::every]]
    train(
        job.train.model_copy(
            update={
                "start": job.model,
                "architecture": checkpoint.load(job.model)[1].architecture,
                "judge_every": max(1, job.train.steps // LOOKS),
            }
        ),
        taught_from(stage, job, ground),
        folder,
        recipe=Recipe(name=f"label-free-{stage}"),
        held_out=judged[:ON_THE_WAY],
    )
    return folder


def _is_done(folder: Path, job: AdaptSettings) -> bool:
    lines = read_record(folder)
    return bool(lines) and lines[-1]["step"] >= job.train.steps


Curve = list[tuple[int, float, float]]
"""Step, pixel accuracy and MIoU of the frames that judge on the way."""


def curve(trained: Path) -> Curve:
    """Return how a training fared on its way, at native magnification."""
    return [
        (int(line["step"]), line["held_out_pa"], line["held_out_miou"])
        for line in read_record(trained)
        if "held_out_miou" in line
    ]


def plot_curves(curves: dict[str, Curve], title: str, path: Path) -> None:
    """Draw pixel accuracy and MIoU over the steps of every training."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for column, (axes, name) in enumerate(
        zip(figure.subplots(1, 2), ("pixel accuracy", "MIoU"), strict=True), start=1
    ):
        for number, (stage, points) in enumerate(curves.items()):
            steps = [point[0] for point in points]
            values = [point[column] for point in points]
            axes.plot(steps, values, "o-", ms=3, color=f"C{number}", label=SHOWN[stage])
        axes.set(xlabel="step", ylabel=f"{name}, {ON_THE_WAY} unseen frames")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def rough_row(job: AdaptSettings, ground: Ground) -> Row:
    """Return how good the rough masks are themselves."""
    truth = {frame.name: frame.mask for frame in ground.unlabelled}
    rough = load_frames(job.out / "round-1" / "rough.npz")
    names = [frame.name.removesuffix(".tif") for frame in rough]
    known = [(f.mask, truth[n]) for f, n in zip(rough, names, strict=True)]
    return Row(
        "the rough masks themselves, on the unlabelled frames",
        masks_miou([one for one, _ in known], [true for _, true in known]),
    )


class StageClock(LogWatch):
    """Logs as every job does, and keeps the seconds that each trained stage took here."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._last_s = time.monotonic()

    def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
        """Count the time since the report before for this stage."""
        now_s = time.monotonic()
        passed_s = now_s - self._last_s
        self.seconds[stage] = self.seconds.get(stage, 0.0) + passed_s
        self._last_s = now_s
        super().report(stage, step, steps, **figures)


def old_domain(job: AdaptSettings, ground: str) -> list[Row]:
    """Return what is left of the mode that the frames were not of, where they are simulated."""
    if ground == "emps":
        return []
    other: Mode = "bf" if ground == "haadf" else "haadf"
    test = simulated(other, 0).test
    return [
        Row(f"{who}, on simulated {other} frames", miou_of(model, test))
        for who, model in (("incumbent", job.model), ("candidate", job.out))
    ]


def show(rows: Sequence[Row], reference: str = "") -> None:
    manual = next((row for row in rows if row.name == reference), None)
    for row in rows:
        against = ""
        if manual and row is not manual and len(row.miou) == len(manual.miou):
            test = paired_test(row.miou.tolist(), manual.miou.tolist())
            against = (
                f"  median {test.median_difference:+.3f} against it, p = {test.p:.2g}"
            )
        print(
            f"{row.name:<55} MIoU {row.miou.mean():.3f} sd {row.miou.std():.3f} "
            f"n={len(row.miou)}{against}",
            flush=True,
        )


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw every way as its frames and their mean."""
    figure = Figure(figsize=(9, 0.55 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        axes.plot(
            row.miou, np.full(len(row.miou), place), "o", color="#56B4E9", alpha=0.4
        )
        axes.plot(
            row.miou.mean(),
            place,
            "|",
            color="#D55E00",
            markersize=22,
            markeredgewidth=3,
        )
        axes.annotate(f"{row.miou.mean():.3f}", (1.005, place), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_xlim(min(0.3, *(row.miou.min() for row in rows)), 1.06)
    axes.set_xlabel("MIoU, one dot a frame, bar: mean")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ground", choices=["bf", "haadf", "emps"], required=True)
    parser.add_argument("--model", required=True, help="the incumbent, name or folder")
    parser.add_argument(
        "--preset", choices=["quick", "standard", "paper"], default="quick"
    )
    parser.add_argument("--config", type=Path, help="TOML of a job, over the preset")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--rough", default="auto")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--curves", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    ground = ground_of(options.ground, options.frames)
    frames = ground.write_frames(options.out / "frames")
    job = chosen_job(
        options.config,
        {
            "frames": str(frames),
            "out": str(options.out / "job"),
            "preset": options.preset,
            "model": options.model,
            "rough": options.rough,
            "device": options.device,
        },
    )
    began = time.monotonic()
    clock = StageClock()
    card = adapt(job, clock)
    wall_s = time.monotonic() - began
    rows = [
        Row("incumbent", miou_of(options.model, ground.test, options.device)),
        Row("blur + Otsu, tuned on these frames", otsu_of(ground.test)),
        rough_row(job, ground),
    ]
    curves: dict[str, Curve] = {}
    for stage in options.stages:
        # The candidate's own weights are the job's; its training is repeated for its curve alone.
        is_candidate = stage == "candidate"
        if options.curves or not is_candidate:
            trained = taught(stage, job, ground, options.out)
            curves[stage] = curve(trained)
        model = job.out if is_candidate else options.out / stage
        rows.append(Row(SHOWN[stage], miou_of(model, ground.test, options.device)))
        # A run takes hours: each figure is said when it is known.
        log.info("%s: MIoU %.3f", rows[-1].name, rows[-1].miou.mean())
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(machine())
    print(f"{ground.name}, {len(ground.unlabelled)} unlabelled frames, {ground.split}")
    print(
        f"preset {options.preset}, from {options.model}: {wall_s / 60:.1f} min, "
        f"peak {peak_gib:.1f} GiB; seconds {clock.seconds}"
    )
    print(f"verdict {card.data['verdict']}")
    show(rows, SHOWN["manual"])
    before = old_domain(job, options.ground)
    show(before)
    write_json(
        options.json,
        {
            "machine": machine(),
            "ground": ground.name,
            "split": ground.split,
            "unlabelled": len(ground.unlabelled),
            "preset": options.preset,
            "incumbent": checkpoint.load(options.model)[1].model_id,
            "candidate": card.model_id,
            "minutes_of_this_run": wall_s / 60,
            "seconds": clock.seconds,
            "peak_gib": peak_gib,
            "verdict": card.data["verdict"],
            "rows": [row.as_json() for row in rows],
            "old_domain": [row.as_json() for row in before],
            "curves": curves,
        },
    )
    if options.curves:
        plot_curves(curves, ground.name, options.curves)
    if options.plot:
        plot(
            rows,
            f"{ground.name}: label-free from {len(ground.unlabelled)} frames",
            options.plot,
        )


if __name__ == "__main__":
    main()
