"""The recipe of the shipped base model.

    EMCOPILOT_DATA=... python benchmarks/train_base.py --out runs --minutes 300

On a GPU add `--minutes 8 --device cuda --batch 16 --tile-px 384 --workers 14`.

Four courses: a common one that sees no catalyst in bright field, then a short one for each of the
two bright-field families, so that each family is judged by a model that never saw it. On one of
them goes on the last, which shows catalysts, the hardest, in nearly half of all tiles; `OUT/base`
is shipped. `--only COURSE` takes one; a killed run resumes.

In the courses before it one tile in four shows supported catalysts with masks made from boxes
(ARDA, the training part of a split by sample family). Of the others, 8 in 15 show real
transmission micrographs with masks drawn by hand (EMPS, the training part of a split by paper),
7 simulated HAADF and BF frames with exact truth.

One tile in ten is inverted, so that bright particles on real film are not unheard of. With half
of all tiles inverted the network had to tell particles from gaps by shape alone, and took the gaps
between large dark spheres for particles (0.17 MIoU on such an image after 570 steps).
"""

import argparse
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arda import (
    BRIGHT_FIELD,
    BRIGHT_FIELD_KEY,
    SPLIT_FRACTION,
    labelled,
    read_arda,
    split_families,
)
from arda import SPLIT_SEED as FAMILY_SEED
from emps import SPLIT_SEED, EmpsImage, data_folder, read_emps, split
from simulated_pool import GENERATOR, SEED, load_pool, render_pool

from models.augmentation import Source
from models.datasets import LabelledFrame, load_frames
from models.npssegnet import NPSSEGNET
from models.train_segmenter import train
from models.train_settings import Recipe, TrainSettings

SETTINGS = TrainSettings(
    architecture=NPSSEGNET,
    batch=4,
    tile_px=256,
    weight_decay=5e-4,
    average=0.995,
    seed=1,
    precision="bfloat16",
    report_every=20,
    judge_every=500,
    save_every_s=600,
)
MANUAL_PART = 8 / 15
"""Of the tiles that show no catalyst; the others are simulated."""
MANUAL_SCALE, BOXED_SCALE, SIMULATED_SCALE = (0.35, 2.0), (0.2, 2.0), (0.5, 2.5)
INVERT = 0.1
CHOSEN = ("device", "batch", "tile_px", "workers", "seed")
"""Settings that the command line may give."""


@dataclass(frozen=True, slots=True)
class Course:
    """One of the runs that make the model."""

    name: str
    share: float
    """Of all minutes."""
    bright_field: str
    """The family of catalysts in bright field that it trains on."""
    learning_rate: float
    start: str | None = None
    """The course whose model it goes on from."""
    boxed_share: float = 0.25
    """Of all tiles: those that show catalysts."""


COURSES = (
    Course("common", 0.6, "", 1e-3),
    Course("other-fold", 0.1, "PtC", 3e-4, start="common"),
    Course("fold", 0.15, BRIGHT_FIELD, 3e-4, start="common"),
    Course("base", 0.15, BRIGHT_FIELD, 3e-4, start="fold", boxed_share=0.45),
)


def data_record(
    folder: Path,
    training: list[EmpsImage],
    validation: list[EmpsImage],
    *,
    course: Course,
    simulated: int,
) -> dict[str, object]:
    manifest = hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()
    return {
        "real": "EMPS train split (by256/emps @dd8f86d7, MIT), manual masks",
        "manifest_sha256": manifest,
        "split": f"by DOI: sha256('{SPLIT_SEED}:DOI') below 0.2 is validation",
        "training_images": len(training),
        "validation_images": len(validation),
        "validation_dois": sorted({image.doi for image in validation}),
        "manual_share": round((1 - course.boxed_share) * MANUAL_PART, 3),
        "manual_scale": MANUAL_SCALE,
        "boxed": "ARDA train families (ArdaGen/STEM-Automated-Nanoparticle-Analysis-YOLOv8-SAM "
        "@db233023, MIT), half-contrast masks from boxes",
        "boxed_split": f"by family: sha256('{FAMILY_SEED}:FAMILY') below {SPLIT_FRACTION}; of the "
        "bright-field families one",
        BRIGHT_FIELD_KEY: course.bright_field,
        "boxed_share": course.boxed_share,
        "boxed_scale": BOXED_SCALE,
        "simulated": f"emcopilot.simulate, style training, seeds ({SEED}, 0..{simulated - 1})",
        "simulated_generator": GENERATOR,
        "simulated_scale": SIMULATED_SCALE,
        "invert": INVERT,
    }


def sources_of(
    manual: Sequence[LabelledFrame],
    boxed: Sequence[LabelledFrame],
    simulated: Sequence[LabelledFrame],
    boxed_share: float,
) -> list[Source]:
    others = 1 - boxed_share
    return [
        Source(manual, share=others * MANUAL_PART, scale=MANUAL_SCALE, invert=INVERT),
        Source(
            boxed,
            has_true_edges=False,
            share=boxed_share,
            scale=BOXED_SCALE,
            annotate=0.15,
            invert=INVERT,
        ),
        Source(
            simulated,
            share=others * (1 - MANUAL_PART),
            scale=SIMULATED_SCALE,
            annotate=0.15,
            invert=INVERT,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder a course")
    parser.add_argument(
        "--minutes", type=float, default=300, help="of training, over all courses"
    )
    parser.add_argument("--only", choices=[c.name for c in COURSES])
    parser.add_argument("--simulated", type=int, default=3000, help="frames drawn")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, default=SETTINGS.batch)
    parser.add_argument("--tile-px", type=int, default=SETTINGS.tile_px)
    parser.add_argument("--workers", type=int, help="processes that cut tiles")
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    training, validation = split(read_emps(data_folder()))
    simulated = load_pool(render_pool(options.out / "pool", options.simulated))
    manual = load_frames((image.pair for image in training), threads=8)
    catalysts = read_arda(data_folder())
    boxed = {image.path: labelled(image) for image in catalysts}
    # A glimpse on the way; the figures of the card come from base_model_quality.py.
    held_out = load_frames(image.pair for image in validation[::5])
    chosen = {key: getattr(options, key) for key in CHOSEN}
    for course in COURSES:
        if options.only not in (None, course.name):
            continue
        seen = split_families(catalysts, course.bright_field)[0]
        settings = TrainSettings(
            **SETTINGS.model_dump()
            | chosen
            | {
                "minutes": options.minutes * course.share,
                "start": str(options.out / course.start) if course.start else None,
                "learning_rate": course.learning_rate,
                "centre_edges": course.start is not None,
            }
        )
        recipe = Recipe(
            name="npssegnet-base-5",
            licence="MIT; training images are cropped journal figures (EMPS, MIT), micrographs "
            "of catalysts (ARDA, MIT) and simulations",
            data=data_record(
                data_folder(),
                training,
                validation,
                course=course,
                simulated=len(simulated),
            ),
        )
        card = train(
            settings,
            sources_of(
                manual,
                [boxed[image.path] for image in seen],
                simulated,
                course.boxed_share,
            ),
            options.out / course.name,
            recipe=recipe,
            held_out=held_out,
        )
        print(course.name, card.model_id, flush=True)


if __name__ == "__main__":
    main()
