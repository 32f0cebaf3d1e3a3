"""How far a model carries as contrast, noise and size drift away from what it was adapted to.

    python benchmarks/drift.py CANDIDATE --incumbent MODEL [--mode bf] [--json FILE] [--plot FILE]

Simulated frames with exact truth: the domain that the candidate was adapted to, and others along
three ways out of it. Beside it stand the incumbent and the microscopist's one-liner, which is told
the polarity and given the blur that suits each point best. Where the candidate falls below it, it
is time to adapt again.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from grounds import SIDE_PX, miou_of, otsu_of, simulated
from machine import machine, write_json
from matplotlib.figure import Figure

from emcopilot.optics import Mode
from emcopilot.simulate import Scene, demo_scene

Drift = Callable[[Scene, float], Scene]


def contrast(scene: Scene, times: float) -> Scene:
    optics = scene.optics
    weaker = optics.particle_contrast * times
    return replace(scene, optics=replace(optics, particle_contrast=weaker))


def dose(scene: Scene, times: float) -> Scene:
    optics = replace(scene.optics, dose=scene.optics.dose * times)
    return replace(scene, optics=optics)


def size(scene: Scene, times: float) -> Scene:
    people = scene.population
    # As much of the field stays covered.
    changed = replace(
        people,
        count=max(3, round(people.count / times**2)),
        median_diameter_px=people.median_diameter_px * times,
        smallest_px=people.smallest_px * times,
        largest_px=people.largest_px * times,
    )
    return replace(scene, population=changed)


WAYS: dict[str, tuple[Drift, tuple[float, ...]]] = {
    "contrast of particles": (contrast, (0.25, 0.5, 1.0, 2.0)),
    "dose": (dose, (0.05, 0.2, 1.0, 5.0)),
    "diameter": (size, (0.25, 0.5, 1.0, 2.0, 3.0)),
}
"""Factors on the domain's own value."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step out of the domain."""

    way: str
    times: float
    candidate: float
    incumbent: float
    one_liner: float
    candidate_sd: float
    n: int


def measure(candidate: Path, incumbent: str, mode: Mode) -> list[Point]:
    points: list[Point] = []
    for way, (change, factors) in WAYS.items():
        for times in factors:
            scene = change(demo_scene(mode, size=SIDE_PX), times)
            test = simulated(mode, 0, scene).test
            ours = miou_of(candidate, test)
            point = Point(
                way,
                times,
                candidate=float(ours.mean()),
                incumbent=float(miou_of(incumbent, test).mean()),
                one_liner=float(otsu_of(test).mean()),
                candidate_sd=float(ours.std()),
                n=len(test),
            )
            print(point, flush=True)
            points.append(point)
    return points


def plot(points: Sequence[Point], path: Path) -> None:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, way in zip(figure.subplots(1, len(WAYS), sharey=True), WAYS, strict=True):
        there = [point for point in points if point.way == way]
        times = [point.times for point in there]
        for name, colour in (
            ("candidate", "#D55E00"),
            ("incumbent", "#999999"),
            ("one_liner", "#0072B2"),
        ):
            said = "tuned blur + Otsu" if name == "one_liner" else name
            axes.plot(
                times, [getattr(p, name) for p in there], "o-", color=colour, label=said
            )
        axes.axvline(1.0, color="#cccccc", zorder=0)
        axes.set_xscale("log")
        axes.set_xticks(times, [f"{t:g}" for t in times], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{way}, times the domain's")
    figure.axes[0].set_ylabel("MIoU")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--incumbent", required=True)
    parser.add_argument("--mode", choices=["bf", "haadf"], default="bf")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    print(machine())
    points = measure(options.candidate, options.incumbent, options.mode)
    write_json(
        options.json,
        {"machine": machine(), "points": [asdict(point) for point in points]},
    )
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
