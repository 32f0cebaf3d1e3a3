"""Does the tandem pay? pix2pix on ever more frames against pix2pix on five and CycleGAN on all.

    python benchmarks/tandem.py OUT [--ground bf|haadf|emps] [--counts 5 20 72] [--preset quick]
        [--steps 250] [--cycle-steps 200] [--seed 0] [--inception FILE]
        [--json FILE] [--plot FILE.png]

Rough masks are a classical cut's. What is painted over random masks is compared with real frames
that no network learnt from: kernel MMD and Frechet distance in the named network's features, the
Inception score where its weights are given. SSIM and PSNR compare what is painted over a held-back
frame's own rough mask with that frame. Fidelity is the overlap with its mask of what a classical
cut, chosen on real frames, finds in a generated one.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from grounds import Ground, emps, simulated
from machine import machine, write_json
from matplotlib.figure import Figure

from models.classical_cut import choose_way, cut
from models.cyclegan import train_cyclegan, translate
from models.datasets import LabelledFrame
from models.gan_networks import Generator
from models.gan_settings import CYCLEGAN, PIX2PIX
from models.image_metrics import (
    Features,
    compare_frames,
    encoder_features,
    fine_enough,
    inception_features,
)
from models.mask_statistics import MaskStatistics
from models.pix2pix import render, train_pix2pix
from models.preprocess import normalise
from models.synthesise import Cut, Frame, first_generation, overlaps
from models.watch import LogWatch

MADE = 16
"""Frames that are painted for the comparison."""
SIDE_PX = 256


@dataclass(frozen=True, slots=True)
class Row:
    """What one way of painting reached."""

    name: str
    frames: int
    """Real frames with rough masks that pix2pix learnt from."""
    minutes: float
    mmd: float
    mmd_std: float
    frechet: float
    inception_score: float | None
    ssim: float | None
    psnr_db: float | None
    fidelity: float
    fidelity_sd: float


@dataclass(frozen=True, slots=True)
class Yard:
    """What all ways are measured with."""

    features: Features
    held_back: list[LabelledFrame]
    """Real frames with rough masks; nothing learns from them."""
    cut: Cut

    def row(
        self,
        name: str,
        made: Sequence[LabelledFrame],
        over_own: Sequence[Frame],
        *,
        frames: int,
        minutes: float,
    ) -> Row:
        """Measure generated frames, and those painted over the held-back frames' masks."""
        real = [frame.pixels.astype(np.float32) for frame in self.held_back]
        pixels = [frame.pixels.astype(np.float32) for frame in made]
        looks = min(
            (fine_enough(some, self.features) for some in (pixels, real)),
            key=lambda one: one.step_px,
        )
        whole = compare_frames(pixels, real, self.features, looks)
        pairs = compare_frames(over_own, real, self.features, looks, is_paired=True)
        true = overlaps(made, self.cut)
        return Row(
            name=name,
            frames=frames,
            minutes=minutes,
            mmd=whole.mmd,
            mmd_std=whole.mmd_std,
            frechet=whole.frechet,
            inception_score=whole.inception_score,
            ssim=pairs.ssim,
            psnr_db=pairs.psnr_db,
            fidelity=float(true.mean()),
            fidelity_sd=float(true.std()),
        )


def rough(ground: Ground) -> tuple[list[LabelledFrame], list[LabelledFrame], Cut]:
    """Cut all frames classically, in the way that suits the unlabelled ones."""
    seen, held = (
        [(f.name, normalise(f.pixels)) for f in part]
        for part in (ground.unlabelled, ground.test)
    )
    way = choose_way([pixels for _, pixels in seen])
    masked = [
        [
            LabelledFrame(name, pixels.astype(np.float16), cut(pixels, way).mask)
            for name, pixels in part
        ]
        for part in (seen, held)
    ]
    return masked[0], masked[1], lambda frame: cut(frame, way).mask


def over_masks(painter: Generator, frames: Sequence[LabelledFrame]) -> list[Frame]:
    return render(painter, [frame.mask for frame in frames], seed=9)


def measure(
    ground: Ground,
    out: Path,
    counts: Sequence[int],
    *,
    steps: int,
    cycle_steps: int,
    seed: int,
    preset: str,
    features: Features,
) -> list[Row]:
    frames, held_back, independent = rough(ground)
    frames = [frame for frame in frames if frame.mask.any()]
    yard = Yard(features, held_back, independent)
    pix = PIX2PIX[preset].model_copy(update={"steps": steps, "seed": seed})
    cyc = CYCLEGAN[preset].model_copy(update={"steps": cycle_steps, "seed": seed})
    statistics = MaskStatistics.of(frame.mask for frame in frames)
    rows: list[Row] = []
    tandem: tuple[Generator, list[LabelledFrame], float] | None = None
    for count in counts:
        began = time.monotonic()
        painter = train_pix2pix(
            pix, frames[:count], out / f"pix2pix-{count}", LogWatch()
        )
        minutes = (time.monotonic() - began) / 60
        made = first_generation(
            painter, statistics, count=MADE, side_px=SIDE_PX, seed=seed
        )
        own = over_masks(painter, held_back)
        rows.append(
            yard.row(
                f"pix2pix, {min(count, len(frames))} frames",
                made,
                own,
                frames=min(count, len(frames)),
                minutes=minutes,
            )
        )
        tandem = tandem or (painter, made, minutes)
    if tandem is None:
        return rows
    painter, made, minutes = tandem
    count = min(counts[0], len(frames))
    began = time.monotonic()
    translator = train_cyclegan(
        cyc,
        made,
        [frame.pixels.astype(np.float32) for frame in frames],
        out / f"cyclegan-{count}",
        LogWatch(),
    )
    rows.append(
        yard.row(
            f"pix2pix, {count} frames, then CycleGAN with {len(frames)}",
            translated(translator, made),
            translate(translator, over_masks(painter, held_back)),
            frames=count,
            minutes=minutes + (time.monotonic() - began) / 60,
        )
    )
    return rows


def translated(
    translator: Generator, made: Sequence[LabelledFrame]
) -> list[LabelledFrame]:
    shown = translate(translator, [frame.pixels.astype(np.float32) for frame in made])
    return [
        LabelledFrame(frame.name, pixels.astype(np.float16), frame.mask)
        for frame, pixels in zip(made, shown, strict=True)
    ]


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw each figure as bars, the tandem's in another colour."""
    shown = {
        "mmd": "kernel MMD, lower is better",
        "frechet": "Frechet distance, lower is better",
        "ssim": "SSIM",
        "psnr_db": "PSNR (dB)",
        "fidelity": "mask fidelity (IoU)",
    }
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    for axes, (key, said) in zip(
        figure.subplots(1, len(shown)), shown.items(), strict=True
    ):
        values = [getattr(row, key) or 0.0 for row in rows]
        colours = ["#0072B2"] * (len(rows) - 1) + ["#D55E00"]
        axes.bar(range(len(rows)), values, color=colours)
        axes.set_xticks(
            range(len(rows)),
            [str(row.frames) for row in rows[:-1]] + [f"{rows[-1].frames}+C"],
        )
        axes.set_title(said, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ground", choices=["bf", "haadf", "emps"], default="bf")
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 20, 72])
    parser.add_argument("--preset", choices=["quick", "standard"], default="quick")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--cycle-steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inception", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    most = max(options.counts)
    ground = emps(most) if options.ground == "emps" else simulated(options.ground, most)
    features = (
        inception_features(options.inception)
        if options.inception
        else encoder_features("base")
    )
    rows = measure(
        ground,
        options.out,
        sorted(options.counts),
        steps=options.steps,
        cycle_steps=options.cycle_steps,
        seed=options.seed,
        preset=options.preset,
        features=features,
    )
    print(machine())
    print(
        f"{ground.name}, {len(ground.test)} held-back frames, {ground.split}; {MADE} generated; "
        f"features of {features.name}; pix2pix {options.steps} steps, CycleGAN "
        f"{options.cycle_steps}; seed {options.seed}"
    )
    for row in rows:
        score = (
            "not computed"
            if row.inception_score is None
            else f"{row.inception_score:.2f}"
        )
        print(
            f"{row.name:<44} MMD {row.mmd:.4f} (sd {row.mmd_std:.4f})  Frechet {row.frechet:.2f}  "
            f"IS {score}  SSIM {row.ssim or 0:.3f}  PSNR {row.psnr_db or 0:.1f} dB  fidelity "
            f"{row.fidelity:.3f} (sd {row.fidelity_sd:.3f}, n={MADE})  {row.minutes:.1f} min"
        )
    write_json(
        options.json,
        {
            "machine": machine(),
            "ground": ground.name,
            "features": features.name,
            "seed": options.seed,
            "rows": [asdict(row) for row in rows],
        },
    )
    if options.plot:
        plot(rows, f"{ground.name}: the tandem against pix2pix alone", options.plot)


if __name__ == "__main__":
    main()
