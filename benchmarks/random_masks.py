"""Random masks: how fast, and how like the domain they are drawn from.

    python benchmarks/random_masks.py [--json FILE] [--plot FILE.png]

Every domain is simulated, so that its particles are known; frames are cut out of a wider
specimen. The time is that of 1,000 masks of 512 x 512 with about 60 particles, on one core.
"""

import argparse
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from machine import machine, spread, write_json
from numpy.typing import NDArray

from emcopilot.labels import label_particles
from emcopilot.particles import measure_particles
from emcopilot.population import Population, populate
from emcopilot.specimen import signed_distance, window
from models.mask_statistics import MaskStatistics
from models.random_mask import draw_mask

Mask = NDArray[np.bool_]
SIDE_PX, AROUND_PX = 512, 160
apart = partial(Population, touching=0.0, overlapping=0.0)
TIMED = "timed"
DOMAINS = {
    TIMED: Population(60, 22, spread=0.3, touching=0.15, overlapping=0.1),
    "sparse": apart(15, 20),
    "dense": Population(160, 22, spread=0.2, touching=0.2, overlapping=0.0),
    "clustered": Population(60, 14, clustering=0.9, touching=0.1, overlapping=0.0),
    "large": apart(9, 90),
    "small": apart(300, 6, spread=0.3),
    "elongated": apart(50, 24, 0.2, 4, 220, (1, 0, 0), 4.0),
    "overlapping": Population(60, 26, touching=0.0, overlapping=0.25),
}
"""Particles a frame and their median diameter in px, then what is not Population's default."""
COLUMNS = (
    "per_mpx", "per_mpx_sd", "cover", "diameter", "diameter_sd", "aspect", "aspect_sd",
    "touching", "overlapping", "clustering", "nearest",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as simulated and as drawn anew."""

    original: list[Mask]
    drawn: list[Mask]


def simulate(population: Population, rng: np.random.Generator) -> Mask:
    wide_px = SIDE_PX + 2 * AROUND_PX
    count = round(population.count * (wide_px / SIDE_PX) ** 2)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    for body in populate(replace(population, count=count), (wide_px, wide_px), rng):
        seen = body.moved(-AROUND_PX, -AROUND_PX)
        part = window(seen, mask.shape)
        y = np.arange(part[0].start, part[0].stop, dtype=np.float64)[:, None]
        x = np.arange(part[1].start, part[1].stop, dtype=np.float64)[None]
        if y.size and x.size:
            mask[part] |= signed_distance(seen, y, x)[0] > 0
    return mask


def redraw(population: Population, frames: int, draws: int) -> Domain:
    rng = np.random.default_rng(4)
    original = [simulate(population, rng) for _ in range(frames)]
    statistics = MaskStatistics.of(original)
    shape = (SIDE_PX, SIDE_PX)
    return Domain(
        original, [draw_mask(statistics, shape, rng).mask for _ in range(draws)]
    )


def figures(masks: list[Mask]) -> dict[str, float]:
    """Describe some masks of one domain; clustering is variance over mean of quadrat counts."""
    statistics = MaskStatistics.of(masks)
    mean = float(statistics.weights @ statistics.diameters_px)
    variance = float(statistics.weights @ (statistics.diameters_px - mean) ** 2)
    aspect: list[float] = []
    nearest: list[float] = []
    quadrats: list[NDArray[np.float64]] = []
    for mask in masks:
        labels = label_particles(mask)
        table = measure_particles(labels, labels)
        aspect += table.aspect_ratio[~table.touches_border].tolist()
        points = np.stack([table.centroid_y_px, table.centroid_x_px], axis=1)
        ranges = [(0, SIDE_PX)] * 2
        quadrats.append(np.histogram2d(*points.T, bins=4, range=ranges)[0].ravel())
        apart = np.hypot(*(points[:, None] - points[None]).T)
        if len(points) > 1:
            np.fill_diagonal(apart, np.inf)
            nearest += apart.min(axis=1).tolist()
    held = np.array(quadrats)
    values = (
        statistics.densities_per_mpx.mean(), statistics.densities_per_mpx.std(),
        np.mean([mask.mean() for mask in masks]), mean, np.sqrt(variance),
        np.mean(aspect), np.std(aspect), statistics.touching, statistics.overlapping,
        held.var(axis=1).mean() / held.mean(), np.median(nearest),
    )  # fmt: skip
    return {n: round(float(v), 4) for n, v in zip(COLUMNS, values, strict=True)}


def timings(masks: int, repeats: int) -> dict[str, dict[str, float | int]]:
    """Time some masks, in s: on the clock, and of the processor, which others cannot slow."""
    rng = np.random.default_rng(1)
    rough = [simulate(DOMAINS[TIMED], rng) for _ in range(8)]
    statistics = MaskStatistics.of(rough)
    wall: list[float] = []
    processor: list[float] = []
    particles: list[float] = []
    for repeat in range(repeats):
        rng = np.random.default_rng((2, repeat))
        at = time.perf_counter(), time.process_time()
        for _ in range(masks):
            drawn = draw_mask(statistics, (SIDE_PX, SIDE_PX), rng)
            particles.append(float(drawn.labels.max()))
        wall.append(time.perf_counter() - at[0])
        processor.append(time.process_time() - at[1])
    return {
        "wall_s": spread(wall),
        "processor_s": spread(processor),
        "particles": spread(particles),
    }


def plot(domains: dict[str, Domain], path: Path) -> None:
    """Show two original and two drawn masks of each domain, side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: domains[name] for name in list(domains)[:8]}
    figure, axes = plt.subplots(len(shown), 4, figsize=(10, 2.5 * len(shown)))
    for row, (name, domain) in zip(axes, shown.items(), strict=True):
        pictures = (*domain.original[:2], *domain.drawn[:2])
        titles = (f"{name}, original", "original", "drawn", "drawn")
        for axis, mask, title in zip(row, pictures, titles, strict=True):
            axis.imshow(mask, cmap="gray", interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=1000, help="drawn in one timing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20, help="simulated a domain")
    parser.add_argument("--draws", type=int, default=60, help="drawn a domain")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    timed = timings(options.masks, options.repeats)
    print(machine())
    for name, timing in timed.items():
        print(
            f"{options.masks} masks, {name}: median {timing['p50']:.1f} "
            f"({timing['min']:.1f} to {timing['max']:.1f}), n = {timing['n']}"
        )
    print(f"{'':22}" + "".join(f"{name:>12}" for name in COLUMNS))
    domains: dict[str, Domain] = {}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, population in DOMAINS.items():
        domains[name] = redraw(population, options.frames, options.draws)
        table[name] = {
            "original": figures(domains[name].original),
            "drawn": figures(domains[name].drawn),
        }
        for kind, row in table[name].items():
            values = "".join(f"{value:12.3f}" for value in row.values())
            print(f"{name:12}{kind:10}{values}", flush=True)
    if options.plot:
        plot(domains, options.plot)
    counts = {"frames": options.frames, "draws": options.draws, "masks": options.masks}
    figures_of_all = {"machine": machine(), **counts, "times": timed, "domains": table}
    write_json(options.json, figures_of_all)


if __name__ == "__main__":
    main()
