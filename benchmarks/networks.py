"""NPsSegNet against UNet, DeepLabV3+ and Otsu with watershed: the paper's table S2, S2, S3.

    EMCOPILOT_DATA=... python benchmarks/networks.py --out runs/networks
    EMCOPILOT_DATA=... python benchmarks/networks.py --out runs/networks --scale paper   # GPU

Every network is trained by the one trainer, from random weights, on the same tiles of the EMPS
training part (split by paper) with the paper's loss, optimiser, schedule and augmentation, once
for each seed; scored on the validation part, image by image. NPsSegNet is UNet++ with what we
changed: local contrast and dropout; plain UNet++ says what that buys. `--scale cpu` uses
256 x 256 tiles and 30 epochs, some 70 minutes for all networks and one seed on two cores;
`--scale paper` 512 x 512 and 150. Runs that are done are kept: the command resumes, and reports
after every seed. `--only NETWORK` trains and scores one network and reports nothing, so that a
machine with many cores or a GPU does several at a time (`compare_networks.sh`). Frames are looked
at in native magnification only, as in the paper, so that networks are compared and nothing else;
the live path looks at several.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from emps import EmpsImage, data_folder, read_emps, split
from machine import machine, write_json
from matplotlib.figure import Figure
from numpy.typing import NDArray
from one_liner import BLURS_PX, is_dark, one_liner_miou
from scipy import ndimage
from skimage.filters import threshold_otsu

from models import checkpoint, curves
from models.augmentation import Source
from models.checkpoint import ModelCard, write_atomically
from models.datasets import LabelledFrame, load_frames, read_pair, read_pixels
from models.npssegnet import NPSSEGNET, Architecture, torch_run
from models.predict import predict
from models.scales import NATIVE
from models.scores import ImageScore, MarkedParticles, true_labels, whole_diameters_px
from models.significance import holm, paired_test
from models.train_segmenter import train
from models.train_settings import PRESETS, Recipe, TrainSettings
from models.training import named_device

NETWORKS = {
    "npssegnet": NPSSEGNET,
    "unetplusplus": Architecture(dropout=0.0),
    "unet": Architecture(name="unet", dropout=0.0),
    "deeplabv3plus": Architecture(name="deeplabv3plus", dropout=0.0),
}
NAMES = {
    "npssegnet": "NPsSegNet",
    "unetplusplus": "UNet++",
    "unet": "UNet",
    "deeplabv3plus": "DeepLabV3+",
    "otsu": "Otsu + watershed",
}
COLOURS = dict(
    zip(NAMES, ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#999999"), strict=True)
)
METRICS = ("loss", "pa", "miou", "boundary_f1", "instance_f1")
SCALES = {"cpu": {"tile_px": 256, "epochs": 30.0}, "paper": {}}
SMALL_PX = 20.0
"""Median diameter below which an image's particles count as small."""
SCORES_FILE = "scores.json"
"""Of a run that is done: its card and the score of every validation image."""
LOW_CONTRAST = 2.0
"""Contrast over the background's spread below which particles count as faint."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A validation image, its truth and the group it belongs to."""

    image: EmpsImage
    pixels: NDArray[np.generic]
    truth: MarkedParticles
    is_small: bool
    is_faint: bool


def judged(image: EmpsImage) -> Judged:
    pixels = read_pixels(image.pair.image)
    labels = true_labels(read_pixels(image.pair.mask))
    sizes_px = whole_diameters_px(labels)
    inside, outside = pixels[labels > 0], pixels[labels == 0]
    contrast = abs(float(np.median(inside)) - float(np.median(outside)))
    return Judged(
        image,
        pixels,
        MarkedParticles(labels),
        is_small=bool(sizes_px.size and np.median(sizes_px) < SMALL_PX),
        is_faint=contrast < LOW_CONTRAST * float(outside.std()),
    )


def settings_for(
    network: str, seed: int, scale: str, device: str, workers: int | None = None
) -> TrainSettings:
    return PRESETS["paper"].model_copy(
        update={
            **SCALES[scale],
            "architecture": NETWORKS[network],
            "seed": seed,
            "device": device,
            "workers": workers,
        }
    )


def trained_scores(
    directory: Path,
    settings: TrainSettings,
    training: Sequence[LabelledFrame],
    validation: Sequence[Judged],
) -> list[ImageScore]:
    """Train (or go on, or find it done) and score one network with one seed."""
    done = directory / SCORES_FILE
    if done.exists():
        kept = json.loads(done.read_text())
        require_same(ModelCard.model_validate(kept["card"]), settings, directory)
        return [ImageScore(**score) for score in kept["scores"]]
    source = Source(training)
    recipe = Recipe(name=f"networks-{directory.name}")
    held_out = load_frames(one.image.pair for one in validation[::4])
    train(settings, [source], directory, recipe=recipe, held_out=held_out)
    network, card = checkpoint.load(directory)
    run = torch_run(network.to(named_device(settings.device)))
    scores = [
        one.truth.score(one.image.pair.name, predict(one.pixels, run, scales=NATIVE))
        for one in validation
    ]
    kept = {
        "card": card.model_dump(mode="json"),
        "machine": machine(),
        "scores": [asdict(score) for score in scores],
    }
    write_atomically(done, json.dumps(kept, indent=1).encode())
    (directory / checkpoint.STATE_FILE).unlink(missing_ok=True)
    return scores


def require_same(card: ModelCard, settings: TrainSettings, directory: Path) -> None:
    """Take a run for the one that is wanted only if it was trained as that one would be."""
    wanted = settings.model_dump(mode="json", include=set(settings.lasting()))
    trained = {**card.training, "architecture": card.architecture.model_dump()}
    others = [key for key, value in wanted.items() if trained.get(key) != value]
    if others:
        raise SystemExit(
            f"{directory} holds a finished run of other settings: got "
            f"{ {key: trained.get(key) for key in others} }, expected "
            f"{ {key: wanted[key] for key in others} }; choose another --out, or remove it"
        )


def otsu_scores(
    training: Sequence[EmpsImage], validation: Sequence[Judged]
) -> list[ImageScore]:
    """Score the classical pipeline; polarity is told, the blur tuned on the training part."""
    tuning = [one_liner_miou(p, m) for p, m in (read_pair(i.pair) for i in training)]
    blur_px = BLURS_PX[int(np.mean(tuning, axis=0).argmax())]
    return [
        one.truth.score(one.image.pair.name, _otsu_map(one, blur_px))
        for one in validation
    ]


def _otsu_map(one: Judged, blur_px: float) -> NDArray[np.uint8]:
    pixels = np.asarray(one.pixels, np.float32)
    blurred = ndimage.gaussian_filter(pixels, blur_px) if blur_px else pixels
    bright = blurred > threshold_otsu(blurred)
    found = ~bright if is_dark(pixels, one.truth.labels > 0) else bright
    return np.where(found, 255, 0).astype(np.uint8)


def groups(validation: Sequence[Judged]) -> dict[str, list[int]]:
    """Return the places of the images of each group."""
    every = range(len(validation))
    return {
        "all": list(every),
        "core": [i for i in every if validation[i].image.is_core],
        f"small (< {SMALL_PX:g} px)": [i for i in every if validation[i].is_small],
        "low contrast": [i for i in every if validation[i].is_faint],
    }


def by_seed(scores: list[list[ImageScore]], metric: str) -> NDArray[np.float64]:
    """Return one metric as an array (seeds, images)."""
    return np.array([[getattr(score, metric) for score in one] for one in scores])


def table(
    scores: dict[str, list[list[ImageScore]]], validation: Sequence[Judged]
) -> dict[str, object]:
    """Print and return mean and spread over seeds, and tests against NPsSegNet."""
    figures: dict[str, object] = {}
    for group, places in groups(validation).items():
        print(f"\n{group}, n = {len(places)} images")
        for metric in METRICS:
            values = {k: by_seed(v, metric)[:, places] for k, v in scores.items()}
            rivals = [k for k in values if k != "npssegnet"]
            ours = values["npssegnet"].mean(axis=0)
            tests = [paired_test(ours, values[k].mean(axis=0)) for k in rivals]
            p = dict(zip(rivals, holm([test.p for test in tests]), strict=True))
            for key, value in values.items():
                seeds = value.mean(axis=1)
                figures[f"{group}/{metric}/{key}"] = {
                    "mean": float(seeds.mean()),
                    "sd_over_seeds": float(seeds.std(ddof=1))
                    if len(seeds) > 1
                    else None,
                    "n_seeds": len(seeds),
                    "n_images": len(places),
                    "p_against_npssegnet": p.get(key),
                }
                test = f"  p = {p[key]:.2g} against NPsSegNet" if key in p else ""
                spread = seeds.std(ddof=1) if len(seeds) > 1 else 0.0
                print(
                    f"{metric:12} {NAMES[key]:17} {seeds.mean():.4f} ± {spread:.4f}{test}"
                )
    return figures


def plot_groups(
    scores: dict[str, list[list[ImageScore]]], validation: Sequence[Judged], path: Path
) -> None:
    """Draw the MIoU of every image, by group and network."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (group, places) in zip(
        figure.subplots(1, 4, sharey=True), groups(validation).items(), strict=True
    ):
        for x, (key, one) in enumerate(scores.items()):
            values = by_seed(one, "miou").mean(axis=0)[places]
            jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
            axes.plot(x + jitter, values, "o", ms=3, alpha=0.6, color=COLOURS[key])
            axes.hlines(values.mean(), x - 0.35, x + 0.35, color=COLOURS[key], lw=3)
        axes.set_title(f"{group}, n={len(places)}", fontsize=9)
        axes.set_xticks(range(len(scores)), [NAMES[k] for k in scores], rotation=30)
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("MIoU (line: mean)")
    figure.savefig(path, dpi=120)


def plot_curves(out: Path, seeds: Sequence[int], path: Path) -> None:
    """Draw held-out loss, PA and MIoU against steps: mean and spread over seeds."""
    keys = ("held_out_loss", "held_out_pa", "held_out_miou")
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, key in zip(figure.subplots(1, 3), keys, strict=True):
        for network in NETWORKS:
            runs = [
                curves.read_record(Path(f"{out}-{network}-{seed}")) for seed in seeds
            ]
            steps = [line["step"] for line in runs[0] if key in line]
            values = np.array(
                [[line[key] for line in run if key in line] for run in runs]
            )
            mean, spread = values.mean(axis=0), values.std(axis=0)
            colour = COLOURS[network]
            axes.plot(steps, mean, color=colour, label=NAMES[network])
            axes.fill_between(
                steps, mean - spread, mean + spread, color=colour, alpha=0.2
            )
        axes.set(xlabel="step", ylabel=key.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def report(
    out: Path,
    scores: dict[str, list[list[ImageScore]]],
    validation: Sequence[Judged],
    seeds: Sequence[int],
) -> None:
    """Print the table, and write it with its plots beside the runs, whose names begin as `out`."""
    figures = table(scores, validation)
    plot_groups(scores, validation, out.with_name(f"{out.name}.png"))
    plot_curves(out, seeds, out.with_name(f"{out.name}-curves.png"))
    per_image = {k: [[asdict(s) for s in one] for one in v] for k, v in scores.items()}
    write_json(
        out.with_name(f"{out.name}.json"),
        {"machine": machine(), "figures": figures, "per_image": per_image},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="runs, table and plots")
    parser.add_argument("--scale", choices=sorted(SCALES), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--workers", type=int, help="processes that cut tiles")
    parser.add_argument(
        "--only", choices=sorted(NETWORKS), help="train this one, and report nothing"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    training, held_out = split(read_emps(data_folder()))
    frames = load_frames(image.pair for image in training)
    validation = [judged(image) for image in held_out]
    print(
        f"{machine()}; EMPS by paper: {len(training)} training, {len(held_out)} validation"
    )
    otsu = [] if options.only else [otsu_scores(training, validation)]
    scores: dict[str, list[list[ImageScore]]] = {network: [] for network in NETWORKS}
    # Seed by seed: what is there after some hours compares all networks.
    for count, seed in enumerate(options.seeds, start=1):
        for network in [options.only] if options.only else NETWORKS:
            directory = options.out / f"{options.scale}-{network}-{seed}"
            settings = settings_for(
                network, seed, options.scale, options.device, options.workers
            )
            scores[network].append(
                trained_scores(directory, settings, frames, validation)
            )
        if options.only:
            continue
        print(f"\n{count} of {len(options.seeds)} seeds")
        so_far = {**scores, "otsu": otsu}
        report(options.out / options.scale, so_far, validation, options.seeds[:count])


if __name__ == "__main__":
    main()
