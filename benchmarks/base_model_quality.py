"""How good the shipped base model is, on what it never saw.

    EMCOPILOT_DATA=... python benchmarks/base_model_quality.py [--json FILE]

Real: the EMPS validation part (split by paper), against the microscopist's one-liner, Gaussian
blur and Otsu's threshold with known polarity. The one-liner is given its best blur twice: tuned
on the training part, and on the validation part itself (which the model is not).
Supported catalysts: the ARDA validation part (split by sample family), particles found by centre
in box; with --seen, beside the families that training saw.
Simulated: HAADF and BF frames on the demo's family of supports, which training never drew.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from arda import (
    BRIGHT_FIELD,
    BRIGHT_FIELD_KEY,
    ArdaImage,
    read_arda,
    split_families,
)
from emps import EmpsImage, data_folder, read_emps, split
from machine import machine, write_json
from one_liner import BLURS_PX, one_liner_miou
from scipy import stats

from emcopilot.simulate import Mode, Scene, demo_scene, random_scene, render_micrograph
from models import checkpoint
from models.box_truth import BoxScore
from models.checkpoint import ModelCard, Score
from models.datasets import read_pair, read_pixels
from models.predict import Predictor, predictor
from models.scores import ImageScore, score_image
from models.training import named_device

PARTS = ("film", "HAADF", "BF", "simulated")
DEMO_SIZES_PX = (14.0, 24.0, 40.0, 60.0)
SIMULATED_SEED = 77
WILD_SIDE_PX = 768


@dataclass(frozen=True, slots=True)
class Figure:
    """One score over one set of images."""

    what: str
    n: int
    mean: float
    std: float
    median: float

    @classmethod
    def of(cls, what: str, values: Sequence[float]) -> "Figure":
        """Summarise the values that are numbers."""
        known = [value for value in values if math.isfinite(value)]
        return cls(
            what,
            len(known),
            float(np.mean(known)),
            float(np.std(known)),
            float(np.median(known)),
        )

    def __str__(self) -> str:
        spread = f"{self.mean:7.3f} ± {self.std:.3f}  median {self.median:.3f}"
        return f"{self.what:<58} {spread}  n={self.n}"


def otsu_scores(image: EmpsImage) -> tuple[float, ...]:
    """Return the one-liner's MIoU at each blur."""
    return one_liner_miou(*read_pair(image.pair))


def model_scores(images: Sequence[EmpsImage], show: Predictor) -> list[ImageScore]:
    scores: list[ImageScore] = []
    for image in images:
        pixels, marks = read_pixels(image.pair.image), read_pixels(image.pair.mask)
        scores.append(score_image(image.pair.name, show(pixels), pixels, marks))
    return scores


def real(show: Predictor) -> list[Figure]:
    training, validation = split(read_emps(data_folder()))
    tuning = np.array([otsu_scores(image) for image in training])
    otsu = np.array([otsu_scores(image) for image in validation])
    model = model_scores(validation, show)
    best_before = int(tuning.mean(axis=0).argmax())
    best_here = int(otsu.mean(axis=0).argmax())
    miou = [score.miou for score in model]
    core = [i for i, image in enumerate(validation) if image.is_core]
    p = stats.wilcoxon(miou, otsu[:, best_here], alternative="greater").pvalue
    print(f"paired Wilcoxon, model above Otsu tuned here: p = {p:.2g}")
    return [
        Figure.of("EMPS validation, model, MIoU", miou),
        Figure.of(
            f"EMPS validation, Otsu, blur {BLURS_PX[best_before]} px tuned on training, MIoU",
            otsu[:, best_before].tolist(),
        ),
        Figure.of(
            f"EMPS validation, Otsu, blur {BLURS_PX[best_here]} px tuned here, MIoU",
            otsu[:, best_here].tolist(),
        ),
        Figure.of("EMPS validation core=yes, model, MIoU", [miou[i] for i in core]),
        Figure.of(
            "EMPS validation core=yes, Otsu tuned here, MIoU",
            otsu[core, best_here].tolist(),
        ),
        Figure.of("EMPS validation, model, PA", [s.pa for s in model]),
        Figure.of(
            "EMPS validation, model, boundary F1", [s.boundary_f1 for s in model]
        ),
        Figure.of(
            "EMPS validation, model, instance F1", [s.instance_f1 for s in model]
        ),
    ]


def catalysts(
    show: Predictor, card: ModelCard, kind: str, *, seen: bool
) -> list[Figure]:
    """Score the families of one kind of image ("HAADF" or "BF"): held out, and if asked, seen."""
    figures: list[Figure] = []
    trained_on = str(card.data.get(BRIGHT_FIELD_KEY, BRIGHT_FIELD))
    training, validation = split_families(read_arda(data_folder()), trained_on)
    parts = {"validation": validation} | ({"training": training} if seen else {})
    for part, images in parts.items():
        chosen = [i for i in images if i.is_bright == (kind == "HAADF")]
        if chosen:
            scores = [box_score(image, show) for image in chosen]
            for score in scores:
                print(
                    f"{score.name}: F1 {score.f1:.3f}, {score.found} found", flush=True
                )
            what = f"ARDA {part} families, {kind}"
            figures += [
                Figure.of(f"{what}, F1 by centre in box", [s.f1 for s in scores]),
                Figure.of(f"{what}, precision", [s.precision for s in scores]),
                Figure.of(f"{what}, recall", [s.recall for s in scores]),
            ]
    return figures


def box_score(image: ArdaImage, show: Predictor) -> BoxScore:
    shown = show(read_pixels(image.path))
    return image.boxes.score(image.path.stem, shown)


def wild_scene(mode: Mode, number: int, rng: np.random.Generator) -> Scene:
    """Draw every condition at random, hard ones included."""
    size_px = DEMO_SIZES_PX[number % len(DEMO_SIZES_PX)]
    shape = (WILD_SIDE_PX, WILD_SIDE_PX)
    return random_scene(
        rng, shape=shape, mode=mode, style="demo", median_diameter_px=size_px
    )


def simulated(show: Predictor, mode: Mode, count: int, *, wild: bool) -> list[Figure]:
    """Score frames on supports that training never drew: the demo's scene, or any."""
    scores: list[ImageScore] = []
    for number in range(count):
        rng = np.random.default_rng((SIMULATED_SEED, number))
        scene = wild_scene(mode, number, rng) if wild else demo_scene(mode)
        frame = render_micrograph(scene, rng)
        if frame.particles:
            shown = show(frame.pixels)
            scores.append(score_image(str(number), shown, frame.pixels, frame.labels))
    errors = [s.mean_diameter_error_percent for s in scores]
    what = f"simulated {mode}, {'any conditions' if wild else 'as in the demo'}"
    return [
        Figure.of(f"{what}, MIoU", [s.miou for s in scores]),
        Figure.of(f"{what}, instance F1", [s.instance_f1 for s in scores]),
        Figure.of(f"{what}, mean diameter error %", errors),
    ]


def record(directory: Path, card: ModelCard, figures: Sequence[Figure]) -> None:
    """Write the figures into the card; those of other benchmarks stay."""
    measured = tuple(
        Score(
            metric=figure.what.rpartition(", ")[2],
            split=figure.what.rpartition(", ")[0],
            count=figure.n,
            mean=round(figure.mean, 4),
            std=round(figure.std, 4),
        )
        for figure in figures
    )
    ours = {(score.metric, score.split) for score in measured}
    others = tuple(s for s in card.scores if (s.metric, s.split) not in ours)
    scores = {"scores": measured + others}
    checkpoint.write_card(directory, card.model_copy(update=scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="base")
    parser.add_argument("--frames", type=int, default=8, help="simulated, of each kind")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what it is judged on"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--record", action="store_true", help="write them into the card"
    )
    parser.add_argument(
        "--seen", action="store_true", help="catalysts that training saw, too: long"
    )
    options = parser.parse_args()
    network, card = checkpoint.load(options.model)
    show = predictor(network.to(named_device(options.device)), card)
    print(f"{card.model_id} on {machine()}")
    figures: list[Figure] = []
    if "film" in options.parts:
        figures += real(show)
    for kind in ("HAADF", "BF"):
        if kind in options.parts:
            figures += catalysts(show, card, kind, seen=options.seen)
    for wild in (False, True) if "simulated" in options.parts else ():
        figures += simulated(show, "haadf", options.frames, wild=wild)
        figures += simulated(show, "bf", options.frames, wild=wild)
    for figure in figures:
        print(figure)
    if options.record:
        record(checkpoint.find(options.model), card, figures)
    write_json(
        options.json,
        {
            "model_id": card.model_id,
            "machine": machine(),
            "figures": [asdict(figure) for figure in figures],
        },
    )


if __name__ == "__main__":
    main()
