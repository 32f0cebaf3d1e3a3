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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grounds import Ground, emps, masks_miou, miou_of, otsu_of, simulated
from label_stages import ON_THE_WAY, SHOWN, STAGES, Curve, curve, taught
from machine import machine, write_json
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emcopilot.optics import Mode
from models import checkpoint
from models.adapt import adapt
from models.adapt_settings import AdaptSettings, chosen_job
from models.frame_sets import load_frames
from models.significance import paired_test
from models.watch import LogWatch

log = logging.getLogger(__name__)


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


def plot_curves(curves: dict[str, Curve], judged: int, title: str, path: Path) -> None:
    """Draw pixel accuracy and MIoU over the steps of every training."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for column, (axes, name) in enumerate(
        zip(figure.subplots(1, 2), ("pixel accuracy", "MIoU"), strict=True), start=1
    ):
        for number, (stage, points) in enumerate(curves.items()):
            steps = [point[0] for point in points]
            values = [point[column] for point in points]
            axes.plot(steps, values, "o-", ms=3, color=f"C{number}", label=SHOWN[stage])
        axes.set(xlabel="step", ylabel=f"{name}, native look, n={judged}")
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ground", choices=["bf", "haadf", "emps"], required=True)
    parser.add_argument("--model", required=True, help="the incumbent, name or folder")
    parser.add_argument(
        "--preset", choices=["quick", "standard", "paper"], default="quick"
    )
    parser.add_argument("--config", type=Path, help="TOML of a job, over the preset")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--rough")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--curves", type=Path)
    return parser.parse_args()


def job_of(options: argparse.Namespace, ground: Ground) -> AdaptSettings:
    """Return the job, its frames written; the first round is what the stages are taken from."""
    job = chosen_job(
        options.config,
        {
            "frames": str(ground.write_frames(options.out / "frames")),
            "out": str(options.out / "job"),
            "preset": options.preset,
            "model": options.model,
            "rough": options.rough,
            "device": options.device,
        },
    )
    if job.rounds > 1:
        raise SystemExit(f"got {job.rounds} rounds, expected 1: stages are round 1's")
    return job


def rows_of(
    stages: Sequence[str],
    job: AdaptSettings,
    ground: Ground,
    out: Path,
    *,
    with_curves: bool,
) -> tuple[list[Row], dict[str, Curve]]:
    """Judge the rivals and every stage; returns what each reached, and how on the way."""
    rows = [
        Row("incumbent", miou_of(job.model, ground.test, job.device)),
        Row("blur + Otsu, tuned on these frames", otsu_of(ground.test)),
        rough_row(job, ground),
    ]
    curves: dict[str, Curve] = {}
    for stage in stages:
        # The candidate's own weights are the job's; its training is repeated for its curve alone.
        is_candidate = stage == "candidate"
        if with_curves or not is_candidate:
            curves[stage] = curve(taught(stage, job, ground, out))
        model = job.out if is_candidate else out / stage
        rows.append(Row(SHOWN[stage], miou_of(model, ground.test, job.device)))
        # A run takes hours: each figure is said when it is known.
        log.info("%s: MIoU %.3f", rows[-1].name, rows[-1].miou.mean())
    return rows, curves


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    ground = ground_of(options.ground, options.frames)
    job = job_of(options, ground)
    began = time.monotonic()
    clock = StageClock()
    card = adapt(job, clock)
    wall_s = time.monotonic() - began
    rows, curves = rows_of(
        options.stages, job, ground, options.out, with_curves=bool(options.curves)
    )
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
            "settings": job.lasting(),
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
    title = f"{ground.name}: label-free from {len(ground.unlabelled)} frames"
    if options.plot:
        plot(rows, title, options.plot)
    if options.curves:
        plot_curves(curves, min(ON_THE_WAY, len(ground.test)), title, options.curves)


if __name__ == "__main__":
    main()
