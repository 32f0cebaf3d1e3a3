"""The recipe of the shipped base model.

    EMCOPILOT_DATA=... python benchmarks/train_base.py --out runs/base --minutes 95

On a GPU: add `--device cuda --batch 16 --tile-px 512 --simulated 4000`.

A third of the tiles show real transmission micrographs with masks drawn by hand (EMPS, the
training part of a split by paper), three in ten supported catalysts with masks made from boxes
(ARDA, the training part of a split by sample family), the others simulated HAADF and BF frames
with exact truth. The run resumes after a kill.

One tile in ten is inverted, so that bright particles on real film are not unheard of. With half
of all tiles inverted the network had to tell particles from gaps by shape alone, and took the gaps
between large dark spheres for particles (0.17 MIoU on such an image after 570 steps).
"""

import argparse
import hashlib
import logging
from pathlib import Path

from arda import SPLIT_FRACTION, labelled, read_arda, split_families
from arda import SPLIT_SEED as FAMILY_SEED
from emps import SPLIT_SEED, EmpsImage, data_folder, read_emps, split
from simulated_pool import GENERATOR, SEED, load_pool, render_pool

from models.augmentation import Source
from models.datasets import load_frames
from models.npssegnet import NPSSEGNET
from models.train_segmenter import train
from models.train_settings import Recipe, TrainSettings

SETTINGS = TrainSettings(
    architecture=NPSSEGNET,
    batch=4,
    tile_px=256,
    learning_rate=1e-3,
    weight_decay=5e-4,
    average=0.995,
    seed=1,
    precision="bfloat16",
    report_every=20,
    save_every_s=600,
)
MANUAL_SHARE, MANUAL_SCALE = 0.35, (0.35, 1.5)
BOXED_SHARE, BOXED_SCALE = 0.3, (0.2, 1.6)
SIMULATED_SCALE = (0.7, 2.0)
INVERT = 0.1


def data_record(
    folder: Path, training: list[EmpsImage], validation: list[EmpsImage], simulated: int
) -> dict[str, object]:
    manifest = hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()
    return {
        "real": "EMPS train split (by256/emps @dd8f86d7, MIT), manual masks",
        "manifest_sha256": manifest,
        "split": f"by DOI: sha256('{SPLIT_SEED}:DOI') below 0.2 is validation",
        "training_images": len(training),
        "validation_images": len(validation),
        "validation_dois": sorted({image.doi for image in validation}),
        "manual_share": MANUAL_SHARE,
        "manual_scale": MANUAL_SCALE,
        "boxed": "ARDA train families (ArdaGen/STEM-Automated-Nanoparticle-Analysis-YOLOv8-SAM "
        "@db233023, MIT), half-contrast masks from boxes",
        "boxed_split": f"by family: sha256('{FAMILY_SEED}:FAMILY') below {SPLIT_FRACTION}",
        "boxed_share": BOXED_SHARE,
        "boxed_scale": BOXED_SCALE,
        "simulated": f"emcopilot.simulate, style training, seeds ({SEED}, 0..{simulated - 1})",
        "simulated_generator": GENERATOR,
        "simulated_scale": SIMULATED_SCALE,
        "invert": INVERT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=95)
    parser.add_argument("--pool", type=Path, default=Path("runs/pool"))
    parser.add_argument("--simulated", type=int, default=1000)
    parser.add_argument("--start", help="model to go on from; random weights if none")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, default=SETTINGS.batch)
    parser.add_argument("--tile-px", type=int, default=SETTINGS.tile_px)
    parser.add_argument("--learning-rate", type=float, default=SETTINGS.learning_rate)
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    training, validation = split(read_emps(data_folder()))
    manual = load_frames(image.pair for image in training)
    boxed = [labelled(image) for image in split_families(read_arda(data_folder()))[0]]
    # A glimpse on the way; the figures of the card come from base_model_quality.py.
    held_out = load_frames(image.pair for image in validation[::5])
    simulated = load_pool(render_pool(options.pool, options.simulated))
    sources = [
        Source(manual, share=MANUAL_SHARE, scale=MANUAL_SCALE, invert=INVERT),
        Source(
            boxed,
            has_true_edges=False,
            share=BOXED_SHARE,
            scale=BOXED_SCALE,
            annotate=0.15,
            invert=INVERT,
        ),
        Source(
            simulated,
            share=1 - MANUAL_SHARE - BOXED_SHARE,
            scale=SIMULATED_SCALE,
            annotate=0.15,
            invert=INVERT,
        ),
    ]
    recipe = Recipe(
        name="npssegnet-base-3",
        licence="MIT; training images are cropped journal figures (EMPS, MIT), micrographs of "
        "catalysts (ARDA, MIT) and simulations",
        data=data_record(data_folder(), training, validation, len(simulated)),
    )
    given = ("minutes", "start", "seed", "learning_rate", "device", "batch", "tile_px")
    settings = TrainSettings(
        **SETTINGS.model_dump() | {name: getattr(options, name) for name in given}
    )
    card = train(settings, sources, options.out, recipe=recipe, held_out=held_out)
    print(card.model_id)


if __name__ == "__main__":
    main()
