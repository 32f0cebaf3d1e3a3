"""Step I: score a model against masks, image by image: `emcopilot evaluate`.

The model is judged by what the live path would show: the same preprocessing, tiling, 8-bit
probability, threshold and labels.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emcopilot.errors import ConfigError, DecodeError
from emcopilot.labels import label_particles
from emcopilot.particles import measure_particles
from models import checkpoint
from models.datasets import Pair, find_pairs, read_pixels
from models.losses import focal_and_jaccard
from models.npssegnet import particle_probability
from models.segmentation_metrics import (
    boundary_f1,
    diameter_error_percent,
    instance_f1,
    pixel_score,
)
from models.tiling import Run, predict

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ImageScore:
    """The scores of one image; the names are the command's stable keys."""

    name: str
    loss: float
    pa: float
    miou: float
    iou_particle: float
    boundary_f1: float
    instance_f1: float
    mean_diameter_error_percent: float
    """NaN where the image or the answer has no particle clear of the border."""


METRICS = tuple(ImageScore.__dataclass_fields__)[1:]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All images' scores, and the files that could not be read."""

    model_id: str
    scores: tuple[ImageScore, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """Name and reason."""

    def mean(self, metric: str) -> float:
        """Return the mean of one metric over the images that have it."""
        return self._over_images(np.mean, metric)

    def std(self, metric: str) -> float:
        """Return the spread (standard deviation) of one metric over the images."""
        return self._over_images(np.std, metric)

    def _over_images(self, statistic: Callable[..., float], metric: str) -> float:
        values = np.array([getattr(score, metric) for score in self.scores])
        known = values[np.isfinite(values)]
        return float(statistic(known)) if known.size else math.nan

    def as_json(self) -> dict[str, object]:
        """Return the contract's answer; NaN becomes null."""
        return {
            "model_id": self.model_id,
            "images": len(self.scores),
            "mean": {m: _number(self.mean(m)) for m in METRICS},
            "std": {m: _number(self.std(m)) for m in METRICS},
            "per_image": [
                {
                    k: v if isinstance(v, str) else _number(v)
                    for k, v in asdict(s).items()
                }
                for s in self.scores
            ],
            "unreadable": [{"name": n, "reason": r} for n, r in self.unreadable],
        }


def evaluate(run: Run, pairs: Iterable[Pair], model_id: str) -> Evaluation:
    """Score every pair of image and mask; an unreadable one is named, not fatal.

    Parameters
    ----------
    run : callable
        The engine: (B, 1, h, w) float32 -> (B, h, w) float32 probability.
    pairs : iterable of Pair
    model_id : str
    """
    scores: list[ImageScore] = []
    unreadable: list[tuple[str, str]] = []
    for pair in pairs:
        try:
            pixels, marks = read_pixels(pair.image), read_pixels(pair.mask)
            scores.append(score_image(pair.name, predict(pixels, run), pixels, marks))
        except DecodeError as error:
            unreadable.append((pair.name, str(error)))
    return Evaluation(model_id, tuple(scores), tuple(unreadable))


def score_image(
    name: str,
    probability: NDArray[np.uint8],
    pixels: NDArray[np.generic],
    marks: NDArray[np.generic],
) -> ImageScore:
    """Score one probability map, uint8 (H, W), against the marks of its mask file.

    Raises
    ------
    DecodeError
        If mask and image differ in shape.
    """
    if marks.shape != pixels.shape:
        raise DecodeError(
            f"{name}: the image is {pixels.shape} px, its mask {marks.shape}; "
            "draw the mask at the image's own size"
        )
    truth = true_labels(marks)
    labels = label_particles(probability)
    agreement = pixel_score(labels > 0, truth > 0)
    return ImageScore(
        name=name,
        loss=probability_loss(probability, truth > 0),
        pa=agreement.pa,
        miou=agreement.miou,
        iou_particle=agreement.iou_particle,
        boundary_f1=boundary_f1(labels > 0, truth > 0),
        instance_f1=instance_f1(labels, truth),
        mean_diameter_error_percent=diameter_error_percent(
            whole_diameters_px(labels), whole_diameters_px(truth)
        ),
    )


def true_labels(marks: NDArray[np.generic]) -> Labels:
    """Turn a mask file's values into labels 1..P.

    An integer mask of 16 bits or more with several values numbers its particles; any other is
    particle wherever it is above 0, and touching particles are parted as in live inference.
    """
    particle = np.asarray(marks, np.float64) > 0
    is_numbered = marks.dtype.kind in "iu" and marks.dtype.itemsize > 1
    if is_numbered and len(np.unique(np.asarray(marks)[particle])) > 1:
        values, index = np.unique(np.where(particle, marks, 0), return_inverse=True)
        shift = 0 if values[0] == 0 else 1
        return (index.reshape(marks.shape) + shift).astype(np.int32)
    return label_particles(particle, min_area_px=1)


def whole_diameters_px(labels: Labels) -> NDArray[np.float64]:
    """Return the equivalent diameters of the particles that the border leaves whole."""
    table = measure_particles(labels, labels)
    return table.equivalent_diameter_px[~table.touches_border]


def probability_loss(probability: NDArray[np.uint8], truth: NDArray[np.bool_]) -> float:
    """Return the training loss of a shown probability map, uint8 (H, W).

    The two logits are taken symmetric about 0, as the loss leaves them; 8 bits bound them.
    """
    inside = np.clip(probability / 255.0, 0.5 / 255, 1 - 0.5 / 255)
    half = torch.from_numpy(np.log(inside / (1 - inside)) / 2)
    logits = torch.stack([-half, half])[None]  # (1, 2, H, W)
    return focal_and_jaccard(logits, torch.from_numpy(truth)[None]).total.item()


def torch_run(network: nn.Module) -> Run:
    """Wrap a network as the function that tiling calls."""
    device = next(network.parameters()).device

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        frames = torch.from_numpy(tiles).to(device, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            logits = network(frames)
        return particle_probability(logits).cpu().numpy()

    return run


def main(argv: list[str]) -> int:
    """Run `emcopilot evaluate`: 0 if every image was scored, 1 if some were unreadable."""
    parser = argparse.ArgumentParser(
        prog="emcopilot evaluate",
        description="Score a model against masks matched by stem; above 0 is particle. "
        "Masks of 16 bits or more may number their particles.",
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--masks", type=Path, required=True, help="folder of masks")
    parser.add_argument("--model", default="base", help="shipped name or directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures here")
    options = parser.parse_args(argv)
    pairs = find_pairs(options.images, options.masks)
    network, card = checkpoint.load(options.model)
    result = evaluate(torch_run(network), _with_progress(pairs), card.model_id)
    if options.json:
        _write(options.json, json.dumps(result.as_json(), indent=1) + "\n")
    sys.stdout.write(_table(result))
    for name, reason in result.unreadable:
        sys.stderr.write(f"not scored: {name}: {reason}\n")
    return 1 if result.unreadable else 0


def _with_progress(pairs: list[Pair]) -> Iterable[Pair]:
    for number, pair in enumerate(pairs, start=1):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{number}/{len(pairs)} {pair.name[:50]:<50}")
        yield pair
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 60 + "\r")


def _table(result: Evaluation) -> str:
    lines = [
        f"{result.model_id}: {len(result.scores)} images, mean ± spread over images"
    ]
    lines += [f"  {m:<28} {result.mean(m):8.4f} ± {result.std(m):.4f}" for m in METRICS]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
