"""How the fixed network's features become a look: fits `models/weights/base/look.safetensors`.

    EMCOPILOT_DATA=... python benchmarks/frame_looks.py [--scenes 160] [--json FILE]

Groups of frames that a microscopist would call one domain: views of one simulated scene whose
particles, dose and field of view change as they do in situ; parts of one real micrograph (EMPS
training split by paper, ARDA training families). The projection keeps the directions in which
groups differ most, in units of the difference within a group (linear discriminants, Fisher, Ann.
Eugenics 7 (1936) 179, with a shrunken covariance). Scored on groups that it never saw: scenes of
the demo's family of supports, which neither base model nor projection was shown.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from arda import read_arda, split_families
from emps import data_folder, read_emps, split
from numpy.typing import NDArray
from safetensors.numpy import save

from emcopilot.frame_look import NETWORK_WIDTH, ruined
from emcopilot.simulate import Scene, demo_scene, random_scene, render_micrograph
from models import checkpoint
from models.datasets import read_pixels
from models.look import BASE, PROJECTION_FILE, PooledMaps, raw_look

SEED, JUDGED_SEED = 20_261_129, 20_261_130
VIEWS = 4
"""Frames of one group."""
SHRINKAGE = 0.2
"""Of the covariance within groups towards an even one."""
KEPT_FIRST = 96
"""Principal components that are left to the discriminants."""


def evolved(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return what the scene may have become minutes later, at another dose."""
    seen = scene.population
    growth = float(np.exp(rng.normal(0, 0.12)))
    population = replace(
        seen,
        count=round(seen.count * float(np.exp(rng.normal(0, 0.2)))),
        median_diameter_px=float(
            np.clip(seen.median_diameter_px * growth, seen.smallest_px, seen.largest_px)
        ),
    )
    dose = scene.optics.dose * float(np.exp(rng.normal(0, 0.15)))
    return replace(
        scene, population=population, optics=replace(scene.optics, dose=dose)
    )


def simulated_groups(count: int, seed: int) -> Iterator[list[NDArray[np.generic]]]:
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        side_px = int(rng.choice([256, 384, 512]))
        style = "demo" if seed == JUDGED_SEED else "training"
        scene = random_scene(rng, shape=(side_px, side_px), style=style)
        yield [render_micrograph(evolved(scene, rng), rng).pixels for _ in range(VIEWS)]


def film_groups() -> Iterator[list[NDArray[np.generic]]]:
    for number in range(6):
        for mode in ("haadf", "bf"):
            rng = np.random.default_rng((JUDGED_SEED, 1000 + number))
            scene = demo_scene(mode, size=512 if number % 2 else 256)
            yield [
                render_micrograph(evolved(scene, rng), rng).pixels for _ in range(VIEWS)
            ]


def real_groups(folder: Path) -> Iterator[list[NDArray[np.generic]]]:
    paths = [image.pair.image for image in split(read_emps(folder))[0][::2]]
    paths += [image.path for image in split_families(read_arda(folder))[0]]
    rng = np.random.default_rng(SEED)
    for path in paths:
        pixels = read_pixels(path)
        yield [
            _part(pixels, rng) for _ in range(VIEWS if min(pixels.shape) > 600 else 2)
        ]


def _part(pixels: NDArray[np.generic], rng: np.random.Generator) -> NDArray[np.generic]:
    """Cut three quarters of a frame a side, at most 768 px."""
    sides = [min(side, max(128, min(768, side * 3 // 4))) for side in pixels.shape]
    corner = [
        int(rng.integers(0, n - side + 1))
        for n, side in zip(pixels.shape, sides, strict=True)
    ]
    return pixels[
        tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))
    ]


def raw(
    groups: Iterator[list[NDArray[np.generic]]], maps: PooledMaps
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the raw looks (N, D) of all frames and their groups (N,)."""
    rows, numbers = [], []
    for number, group in enumerate(groups):
        for pixels in group:
            if ruined(pixels) is None:
                rows.append(np.concatenate(raw_look(pixels, maps, "cpu")))
                numbers.append(number)
    return np.array(rows, np.float64), np.array(numbers)


def fit(
    rows: NDArray[np.float64], groups: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean (D,) and basis (D, NETWORK_WIDTH); within a group each column deviates by 1."""
    mean, spread = rows.mean(0), rows.std(0) + 1e-6
    scaled = (rows - mean) / spread
    components = np.linalg.svd(scaled, full_matrices=False)[2][:KEPT_FIRST].T
    seen = scaled @ components
    within = seen - np.stack([seen[groups == g].mean(0) for g in groups])
    dof = len(seen) - len(np.unique(groups))
    inner = within.T @ within / dof
    inner = (1 - SHRINKAGE) * inner + SHRINKAGE * np.eye(KEPT_FIRST) * (
        np.trace(inner) / KEPT_FIRST
    )
    white = np.linalg.inv(np.linalg.cholesky(inner)).T
    directions = np.linalg.svd(seen @ white, full_matrices=False)[2][:NETWORK_WIDTH].T
    basis = components @ white @ directions
    usual = (within @ white @ directions).std(0) * np.sqrt(len(seen) / dof)
    return mean, (basis / usual) / spread[:, None]


def scores(looks: NDArray[np.float64], groups: NDArray[np.intp]) -> dict[str, float]:
    """Say how far frames of one group and of others lie apart."""
    apart = np.linalg.norm(looks[:, None] - looks[None], axis=2)
    same = groups[:, None] == groups[None]
    np.fill_diagonal(apart, np.inf)
    nearest_same = np.where(same, apart, np.inf).min(1)
    nearest_other = np.where(same, np.inf, apart).min(1)
    return {
        "frames": len(looks),
        "groups": len(np.unique(groups)),
        "same_median": float(np.median(nearest_same)),
        "same_q95": float(np.quantile(nearest_same, 0.95)),
        "other_q05": float(np.quantile(nearest_other, 0.05)),
        "other_median": float(np.median(nearest_other)),
        "nearest_is_of_the_group": float(np.mean(nearest_same < nearest_other)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=160)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    network, card = checkpoint.load(BASE)
    maps = PooledMaps(network).eval()
    parts = [
        raw(simulated_groups(options.scenes, SEED), maps),
        raw(real_groups(data_folder()), maps),
    ]
    rows = np.concatenate([part[0] for part in parts])
    groups = np.concatenate([parts[0][1], parts[1][1] + 10_000])
    mean, basis = fit(rows, groups)
    target = checkpoint.find(BASE) / PROJECTION_FILE
    arrays = {"mean": mean.astype(np.float32), "basis": basis.astype(np.float32)}
    checkpoint.write_atomically(
        target,
        save(arrays, {"features": card.model_id, "frames": str(len(rows))}),
    )
    judged = {
        "fitted on": (rows, groups),
        "unseen scenes": raw(simulated_groups(40, JUDGED_SEED), maps),
        "demo scenes": raw(film_groups(), maps),
    }
    figures = {n: scores((r - mean) @ basis, g) for n, (r, g) in judged.items()}
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
