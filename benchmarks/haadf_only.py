"""A model that knows bright particles alone: where adaptation to dark ones has to start.

    python benchmarks/haadf_only.py --out runs/haadf-only [--mode bf] [--minutes 14]
        [--device auto]

It learns simulated HAADF frames from scratch and is never shipped; with `--mode bf` it is the
other way round, for the way back. Says how it does on HAADF and on bright-field frames of the
demo's scene, whose supports training never drew.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from machine import machine
from one_liner import one_liner_miou

from emcopilot.optics import Mode
from emcopilot.seen import SEEN_FILE
from emcopilot.simulate import demo_scene, random_scene, render_micrograph
from models import checkpoint
from models.augmentation import Source
from models.datasets import LabelledFrame, label
from models.npssegnet import NPSSEGNET
from models.predict import predictor
from models.seen import write_seen
from models.segmentation_metrics import pixel_score
from models.train_segmenter import train
from models.train_settings import Recipe, TrainSettings
from models.training import named_device

SEED, JUDGED_SEED = 20_261_127, 20_261_128
FRAMES, SIDE_PX = 200, 384
JUDGED, JUDGED_SIDE_PX = 8, 512
MODES: tuple[Mode, ...] = ("haadf", "bf")


def training_frame(mode: Mode, number: int) -> LabelledFrame:
    """Draw one simulated frame with its truth."""
    rng = np.random.default_rng((SEED, number))
    scene = random_scene(rng, shape=(SIDE_PX, SIDE_PX), mode=mode)
    frame = render_micrograph(scene, rng)
    return label(f"{mode}-{number}", frame.pixels, frame.labels > 0)


def train_one_mode(out: Path, mode: Mode, minutes: float, device: str) -> None:
    """Train, or go on with, the model in `out`."""
    frames = [training_frame(mode, number) for number in range(FRAMES)]
    settings = TrainSettings.model_validate(
        {
            "architecture": NPSSEGNET,
            "minutes": minutes,
            "learning_rate": 1e-3,
            "average": 0.99,
            "device": device,
            "report_every": 20,
        }
    )
    # Never inverted: particles of the other tone are what it must not know.
    sources = [Source(frames, share=1.0, scale=(0.5, 2.0), invert=0.0)]
    data: dict[str, object] = {
        "simulated": f"emcopilot.simulate, {mode} alone, seeds ({SEED}, 0..{FRAMES - 1})"
    }
    train(settings, sources, out, recipe=Recipe(name=f"{mode}-only", data=data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mode", choices=MODES, default="haadf")
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not (options.out / checkpoint.CARD_FILE).exists():
        train_one_mode(options.out, options.mode, options.minutes, options.device)
    if not (options.out / SEEN_FILE).exists():
        shown = [training_frame(options.mode, number) for number in range(FRAMES)]
        write_seen(options.out, [frame.pixels for frame in shown])
    network, card = checkpoint.load(options.out)
    if not card.model_id.startswith(f"{options.mode}-only"):
        raise SystemExit(
            f"{options.out} holds {card.model_id}; got --mode {options.mode}: choose another --out"
        )
    show = predictor(network.to(named_device(options.device)), card)
    print(machine())
    for mode in MODES:
        ours: list[float] = []
        otsu: list[tuple[float, ...]] = []
        for number in range(JUDGED):
            rng = np.random.default_rng((JUDGED_SEED, number))
            frame = render_micrograph(demo_scene(mode, size=JUDGED_SIDE_PX), rng)
            truth = frame.labels > 0
            ours.append(pixel_score(show(frame.pixels) > 127, truth).miou)
            otsu.append(one_liner_miou(frame.pixels, truth))
        print(
            f"{card.model_id} {mode}: MIoU {np.mean(ours):.3f} (sd {np.std(ours):.3f}, "
            f"n={JUDGED}); tuned blur + Otsu {np.mean(otsu, axis=0).max():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
