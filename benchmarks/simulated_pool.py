"""Simulated frames with exact truth for training: rendered once, kept in one folder of arrays.

    python benchmarks/simulated_pool.py runs/pool --frames 600

Only the "training" family of supports is drawn; the demo's family stays unseen.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from emcopilot.simulate import LAYERS, THICK, random_scene, render_micrograph
from models import preprocess
from models.datasets import LabelledFrame, label

SEED = 20_261_122
"""First entropy word of every rendered frame; the frame's number is the second."""
GENERATOR = 7
"""Raise it when `emcopilot.simulate` draws other frames from the same numbers: what an earlier
version rendered into the folder is then rendered anew."""
EMPTY_EVERY = 6
"""One frame in so many shows the support alone: what is no particle is to be learnt, too."""


def render_one(number: int, side_px: int, folder: Path) -> Path:
    """Render one frame and keep it normalised, as training takes it."""
    version = f"{GENERATOR}.{preprocess.VERSION}"
    path = folder / f"sim{version}-{side_px}-{number:05d}.npz"
    if not path.exists():
        rng = np.random.default_rng((SEED, number))
        scene = random_scene(
            rng,
            shape=(side_px, side_px),
            style="training",
            layers=LAYERS,
            thick=THICK,
        )
        if number % EMPTY_EVERY == 0:
            scene = replace(scene, population=replace(scene.population, count=0))
        drawn = render_micrograph(scene, rng)
        frame = label(path.stem, drawn.pixels, drawn.labels > 0)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, pixels=frame.pixels, mask=frame.mask)
        part.replace(path)
    return path


def render_pool(
    folder: Path, frames: int, side_px: int = 512, workers: int | None = None
) -> list[Path]:
    """Render what is not there yet, on all cores; returns the files in the order of numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(frames)
    with ProcessPoolExecutor(workers) as pool:
        sides, folders = [side_px] * frames, [folder] * frames
        return list(pool.map(render_one, numbers, sides, folders, chunksize=8))


def load_pool(paths: list[Path]) -> list[LabelledFrame]:
    """Read rendered frames, in order."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_load, paths))


def _load(path: Path) -> LabelledFrame:
    with np.load(path) as arrays:
        return LabelledFrame(path.stem, arrays["pixels"], arrays["mask"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--side-px", type=int, default=512)
    options = parser.parse_args()
    print(len(render_pool(options.folder, options.frames, options.side_px)), "frames")
