"""At which magnification NPsSegNet looks best: native, resized, several at once, or chosen.

    EMCOPILOT_DATA=... python benchmarks/scale.py [--model M] [--only STRATEGY ...] [--json FILE]
        [--plot FILE.png]

Every look is taken once, when a strategy first asks for it; the strategies differ in what they
make of them, so they are compared on the very same answers. Cost is the pixels that go through the
network, glimpses included, over those of a native look. Real: the validation parts of EMPS (MIoU)
and ARDA (F1 by centre in box), and EMPS reduced until its particles are small. Simulated, on
supports that training never drew: particles of one size class.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from arda import read_arda, split_families
from emps import data_folder, read_emps, split
from machine import machine, write_json
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emcopilot.belief import believed
from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.simulate import random_scene, render_micrograph
from models import checkpoint
from models.box_truth import Boxes
from models.datasets import read_pixels
from models.leads import Lead, Window, mean_lead, probability_of, typical_diameter_px
from models.npssegnet import torch_run
from models.preprocess import normalise
from models.scales import LIVE, Scales, leads_at, magnified
from models.scores import MarkedParticles, true_labels, whole_diameters_px
from models.tiling import Run, Tiling, to_uint8

MAGNIFICATIONS = (2.0, 1.0, 0.7, 0.5, 0.35, 0.25)
PAPER_PX = 512
"""The paper resizes every frame to this side."""
SIZES_PX = (5.0, 8.0, 14.0, 30.0, 80.0, 150.0, 300.0)
REDUCED_TO_PX = (5.0, 7.0, 10.0)
LEAST_SIDE_PX, FEWEST_PARTICLES = 96, 3
"""Of a reduced frame: of less, a score is chance."""
SIMULATED_SEED = 78
SHAPE = (768, 768)

Strategy = Callable[["Looks"], "Answer"]
"""What to make of the leads at all magnifications."""


@dataclass(frozen=True, slots=True)
class Case:
    """A frame, its truth, and the sets it counts for."""

    name: str
    sets: tuple[str, ...]
    pixels: NDArray[np.generic]
    truth: MarkedParticles | Boxes


def real_cases() -> Iterator[Case]:
    for image in split(read_emps(data_folder()))[1]:
        labels = true_labels(read_pixels(image.pair.mask))
        sets = ["EMPS", f"EMPS, {size_class(whole_diameters_px(labels))}"]
        sets += ["EMPS core=yes"] * image.is_core
        pixels = read_pixels(image.pair.image)
        yield Case(image.pair.name, tuple(sets), pixels, MarkedParticles(labels))
    for image in split_families(read_arda(data_folder()))[1]:
        sets = ("ARDA HAADF" if image.is_bright else "ARDA BF",)
        yield Case(image.path.stem, sets, read_pixels(image.path), image.boxes)


def size_class(diameters_px: NDArray[np.floating]) -> str:
    median = float(np.median(diameters_px)) if len(diameters_px) else 0.0
    return "< 20 px" if median < 20 else "20 to 60 px" if median < 60 else ">= 60 px"


def reduced_cases() -> Iterator[Case]:
    """Reduce micrographs of larger particles, antialiased, to a median diameter.

    That takes their noise away: a real micrograph of so low a magnification is harder.
    """
    for image in split(read_emps(data_folder()))[1]:
        pixels = read_pixels(image.pair.image).astype(np.float32)
        mask = np.greater(read_pixels(image.pair.mask), 0)
        diameters_px = whole_diameters_px(true_labels(mask))
        for size_px in REDUCED_TO_PX if len(diameters_px) else ():
            factor = size_px / float(np.median(diameters_px))
            small = magnified(pixels, factor)
            labels = true_labels(magnified(mask.astype(np.float32), factor) > 0.5)
            is_told = labels.max() >= FEWEST_PARTICLES
            if factor < 0.7 and max(small.shape) >= LEAST_SIDE_PX and is_told:
                sets = (f"EMPS reduced to {size_px:g} px",)
                yield Case(image.pair.name, sets, small, MarkedParticles(labels))


def simulated_cases(frames: int) -> Iterator[Case]:
    for size_px in SIZES_PX:
        for number in range(frames):
            rng = np.random.default_rng((SIMULATED_SEED, int(size_px), number))
            mode = ("haadf", "bf")[number % 2]
            scene = random_scene(
                rng, shape=SHAPE, mode=mode, style="demo", median_diameter_px=size_px
            )
            frame = render_micrograph(scene, rng)
            if frame.particles:
                truth = MarkedParticles(frame.labels)
                name = f"{mode}-{size_px:g}-{number}"
                one = f"simulated {size_px:g} px"
                yield Case(name, (one, f"{one} {mode}"), frame.pixels, truth)


class Looks:
    """One frame's leads at each magnification, looked at when first asked for, and their costs."""

    def __init__(self, frame: NDArray[np.float32], run: Run) -> None:
        self.frame, self._run = frame, run
        self._leads: dict[float, tuple[Lead, int]] = {}

    def at(self, scale: float) -> Lead:
        """Return the frame's leads at a magnification."""
        return self._look(scale)[0]

    def cost_px(self, scale: float) -> int:
        """Return the pixels that a look takes through the network."""
        return self._look(scale)[1]

    def glimpse(self, window: Window, scale: float) -> tuple[Lead, int]:
        """Look at a part of the frame alone; returns its leads and what it cost."""
        return _counted(self.frame[window], scale, self._run)

    def _look(self, scale: float) -> tuple[Lead, int]:
        if scale not in self._leads:
            self._leads[scale] = _counted(self.frame, scale, self._run)
        return self._leads[scale]


def _counted(frame: NDArray[np.float32], scale: float, run: Run) -> tuple[Lead, int]:
    seen: list[int] = []

    def counted(tiles: NDArray[np.float32]) -> Lead:
        seen.append(tiles.size)
        return run(tiles)

    (lead,) = leads_at([frame], scale, counted, Tiling())
    return lead, sum(seen)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a strategy says of a frame, and at which magnifications it looked."""

    lead: Lead
    scales: tuple[float, ...]
    aside_px: int = 0
    """Network pixels spent on choosing, beside a native look."""

    @classmethod
    def meant(cls, looks: Looks, scales: tuple[float, ...]) -> "Answer":
        """Mean the leads at these magnifications."""
        return cls(mean_lead([looks.at(s) for s in scales]), scales)


def always(*scales: float) -> Strategy:
    """Mean these; of a frame too large to be enlarged, those that are left."""

    def choose(looks: Looks) -> Answer:
        left = tuple(s for s in scales if s in offered(looks))
        return Answer.meant(looks, left or (1.0,))

    return choose


def as_paper(looks: Looks) -> Answer:
    """Resize to 512 px, to the nearest magnification that there is."""
    wanted = PAPER_PX / max(looks.frame.shape)
    return Answer.meant(looks, (_nearest(looks, wanted),))


def one_chosen(target_px: float) -> Strategy:
    """Look natively, then once more where particles are of `target_px`."""

    def choose(looks: Looks) -> Answer:
        diameter_px = typical_diameter_px(looks.at(1.0))
        is_empty = math.isinf(diameter_px)
        scale = 1.0 if is_empty else _nearest(looks, target_px / diameter_px)
        return Answer.meant(looks, (scale,))

    return choose


def by_rule(rule: Scales) -> Strategy:
    """Do as the live path would with this rule."""

    def choose(looks: Looks) -> Answer:
        spent: list[int] = []

        def glimpse(window: Window, magnification: float) -> Lead:
            lead, cost = looks.glimpse(window, magnification)
            spent.append(cost)
            return lead

        scales = (1.0, *rule.beside(looks.at(1.0), glimpse))
        meant = rule.meant({s: looks.at(s) for s in scales})
        return Answer(meant, scales, sum(spent))

    return choose


def _nearest(looks: Looks, wanted: float) -> float:
    return min(offered(looks), key=lambda scale: abs(math.log(scale / wanted)))


def offered(looks: Looks) -> list[float]:
    """Return the magnifications to choose from: large frames are not enlarged."""
    is_large = max(looks.frame.shape) > LIVE.enlarged_up_to_px
    return [scale for scale in MAGNIFICATIONS if scale <= 1 or not is_large]


STRATEGIES: dict[str, Strategy] = {
    "native": always(1.0),
    "half": always(0.5),
    "512 px, as the paper": as_paper,
    "double": always(2.0),
    "native + half": always(1.0, 0.5),
    "native + double": always(1.0, 2.0),
    "double + native + half": always(2.0, 1.0, 0.5),
    "native + 0.7 + half + 0.35": always(1.0, 0.7, 0.5, 0.35),
    "chosen once, 25 px": one_chosen(25.0),
    "live, specks meant too": by_rule(replace(LIVE, specks_px=0.0)),
    "live, no glimpse": by_rule(replace(LIVE, rescue_at=())),
    "live, insides not asked": by_rule(replace(LIVE, inside=None)),
    "live default": by_rule(LIVE),
}


def score(case: Case, lead: Lead, confidence: ParticleConfidence) -> float:
    """Return the MIoU against masks, the F1 against boxes, of what the model believes."""
    shown = believed(to_uint8(probability_of(lead)), confidence)
    if isinstance(case.truth, Boxes):
        return case.truth.score(case.name, shown).f1
    return case.truth.score(case.name, shown).miou


def cost(looks: Looks, answer: Answer, name: str) -> float:
    """Return pixels over those of a native look; who looks first to choose pays for it."""
    first = {1.0} if name.startswith(("chosen", "rule", "live")) else set[float]()
    spent = sum(looks.cost_px(scale) for scale in first | set(answer.scales))
    return (spent + answer.aside_px) / looks.cost_px(1.0)


def table(
    rows: dict[str, dict[str, list[float]]], costs: dict[str, list[float]]
) -> None:
    sets = sorted({key for row in rows.values() for key in row})
    counts = {key: len(next(iter(rows.values()))[key]) for key in sets}
    print(f"{'':28}" + "".join(f"{name:>28}" for name in rows))
    for key in sets:
        means = [f"{np.mean(rows[name][key]):28.3f}" for name in rows]
        print(f"{key + f', n={counts[key]}':28}" + "".join(means))
    print(f"{'cost':28}" + "".join(f"{np.mean(costs[name]):28.2f}" for name in rows))


def plot(rows: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw each strategy's gain over native, set by set."""
    sets = sorted(next(iter(rows.values())))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    names = [name for name in rows if name != "native"]
    for index, name in enumerate(names):
        gain = [np.mean(rows[name][s]) - np.mean(rows["native"][s]) for s in sets]
        places = np.arange(len(sets)) + (index / len(names) - 0.5) * 0.8
        axes.bar(places, gain, 0.8 / len(names), label=name)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks(np.arange(len(sets)), sets, rotation=30, ha="right")
    axes.set_ylabel("gain over native (MIoU, F1)")
    axes.legend(frameon=False, fontsize=8, ncols=3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="base")
    parser.add_argument("--frames", type=int, default=6, help="simulated, of each size")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(STRATEGIES),
        default=list(STRATEGIES),
        help="strategies",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    network, card = checkpoint.load(options.model)
    run = torch_run(network)
    print(f"{card.model_id} on {machine()}")
    chosen = {name: STRATEGIES[name] for name in options.only}
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}
    costs: dict[str, list[float]] = {name: [] for name in chosen}
    for case in [*real_cases(), *reduced_cases(), *simulated_cases(options.frames)]:
        looks = Looks(normalise(case.pixels), run)
        for name, strategy in chosen.items():
            answer = strategy(looks)
            value = score(case, answer.lead, card.particle_confidence or IDENTITY)
            costs[name].append(cost(looks, answer, name))
            for key in case.sets:
                rows[name].setdefault(key, []).append(value)
    table(rows, costs)
    if options.plot:
        plot(rows, options.plot)
    figures = {
        name: {
            key: {"mean": float(np.mean(v)), "sd": float(np.std(v)), "n": len(v)}
            for key, v in row.items()
        }
        | {"cost": float(np.mean(costs[name]))}
        for name, row in rows.items()
    }
    write_json(
        options.json,
        {"model_id": card.model_id, "machine": machine(), "figures": figures},
    )


if __name__ == "__main__":
    main()
