"""How the model stands up to what micrographs suffer from, one thing at a time.

    python benchmarks/robustness.py [--frames N] [--empty N] [--json FILE] [--sheet FILE.png]

Simulated frames with exact truth on supports that training never drew: see `conditions.py`. Beside
the model stands the microscopist's one-liner, Gaussian blur and Otsu's threshold, which is told
the polarity and given its best blur for each condition, tuned on the very frames it is judged on.
A star marks a condition where it beats the model.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from conditions import CONDITIONS, EMPTY, Condition, Labels, Pixels
from machine import machine, write_json
from numpy.typing import NDArray
from one_liner import BLURS_PX, one_liner_miou
from PIL import Image, ImageDraw
from scipy import ndimage, stats

from emcopilot.labels import label_particles
from emcopilot.optics import Mode
from models import checkpoint
from models.predict import Predictor, predictor
from models.scores import whole_diameters_px
from models.segmentation_metrics import (
    diameter_error_percent,
    instance_score,
    pixel_score,
)

LARGE_PX = 8.0
"""Sizes from which the demanded MIoU holds."""
MODES: tuple[Mode, ...] = ("haadf", "bf")
TILE_PX = 512
TRUTH_COLOUR, MODEL_COLOUR = (60, 220, 90), (255, 60, 60)


@dataclass(frozen=True, slots=True)
class FrameScore:
    """The model on one frame, and the one-liner at each blur."""

    miou: float
    miou_large: float
    """Without the pixels of true particles below 8 px; NaN if there are only such."""
    f1: float
    diameters_px: NDArray[np.float64]
    true_diameters_px: NDArray[np.float64]
    particles: int
    otsu: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One condition in one mode."""

    condition: str
    mode: Mode
    frames: int
    particles: int
    miou: float
    miou_std: float
    miou_large: float
    f1: float
    diameter_error_percent: float
    """Of the mean over all whole particles of the condition."""
    otsu_miou: float
    otsu_blur_px: float

    @classmethod
    def of(cls, condition: str, mode: Mode, scores: Sequence[FrameScore]) -> "Row":
        """Summarise frames; the one-liner gets the blur that suits them best."""
        otsu = np.mean([score.otsu for score in scores], axis=0)
        best = int(otsu.argmax())
        return cls(
            condition,
            mode,
            len(scores),
            sum(score.particles for score in scores),
            float(np.mean([score.miou for score in scores])),
            float(np.std([score.miou for score in scores])),
            float(np.nanmean([score.miou_large for score in scores])),
            float(np.mean([score.f1 for score in scores])),
            diameter_error_percent(
                np.concatenate([score.diameters_px for score in scores]),
                np.concatenate([score.true_diameters_px for score in scores]),
            ),
            float(otsu[best]),
            BLURS_PX[best],
        )

    @property
    def is_beaten(self) -> bool:
        """Whether the one-liner does better."""
        return self.otsu_miou > self.miou

    def as_json(self) -> dict[str, object]:
        """Return the figures; what is not a number becomes null."""
        figures = {**asdict(self), "is_beaten": self.is_beaten}
        return {
            name: None if isinstance(v, float) and math.isnan(v) else v
            for name, v in figures.items()
        }

    def __str__(self) -> str:
        return (
            f"{'*' if self.is_beaten else ' '} {self.condition:<20}{self.mode:<6}"
            f"{self.frames:>3}{self.particles:>6}  {self.miou:.3f} ± {self.miou_std:.3f}  "
            f"{self.miou_large:>6.3f}  {self.f1:.3f}  {self.diameter_error_percent:+6.1f}   "
            f"{self.otsu_miou:.3f} at {self.otsu_blur_px:g} px"
        )


@dataclass(frozen=True, slots=True)
class EmptyFields:
    """What the model invents where there is nothing."""

    mode: str
    frames: int
    megapixels: float
    invented: int
    frames_with_any: int
    per_megapixel: float = field(init=False)
    upper_95: float = field(init=False)
    """One-sided 95 % bound of the rate, Poisson (Garwood 1936)."""

    def __post_init__(self) -> None:
        bound = stats.chi2.ppf(0.95, 2 * (self.invented + 1)) / 2
        object.__setattr__(self, "per_megapixel", self.invented / self.megapixels)
        object.__setattr__(self, "upper_95", float(bound) / self.megapixels)

    def __str__(self) -> str:
        return (
            f"  {EMPTY.name:<20}{self.mode:<6}{self.frames:>3} frames, "
            f"{self.megapixels:.1f} MP: {self.invented} invented in "
            f"{self.frames_with_any} frames, {self.per_megapixel:.2f} a megapixel "
            f"(below {self.upper_95:.2f} at 95 %)"
        )


def score(pixels: Pixels, truth: Labels, labels: Labels) -> FrameScore:
    """Score one frame's labels, and the one-liner beside them."""
    return FrameScore(
        pixel_score(labels > 0, truth > 0).miou,
        miou_of_large(labels, truth),
        instance_score(labels, truth).f1,
        whole_diameters_px(labels),
        whole_diameters_px(truth),
        int(np.count_nonzero(np.bincount(truth.ravel())[1:])),
        one_liner_miou(pixels, truth > 0),
    )


def miou_of_large(labels: Labels, truth: Labels) -> float:
    """Return the MIoU of pixels that lie on no small particle nor within 2 px of one."""
    area_px = np.bincount(truth.ravel())
    is_small = np.sqrt(4 * area_px / math.pi) < LARGE_PX
    is_small[0] = False
    small = is_small[truth]
    if not ((truth > 0) & ~small).any():
        return math.nan
    judged = ~np.asarray(ndimage.binary_dilation(small, iterations=2), bool)
    judged |= (truth > 0) & ~small
    return pixel_score(labels[judged] > 0, truth[judged] > 0).miou


def judge(
    condition: Condition, mode: Mode, show: Predictor, count: int
) -> tuple[Row, Image.Image]:
    """Score `count` frames of a condition; the picture shows the first of them."""
    scores: list[FrameScore] = []
    tiles: list[Image.Image] = []
    for number in range(count):
        pixels, truth = condition.draw(mode, number)
        labels = label_particles(show(pixels))
        scores.append(score(pixels, truth, labels))
        if not tiles:
            title = f"{condition.name}, {mode}: {scores[0].miou:.3f}"
            tiles.append(tile(pixels, truth, labels, title))
    return Row.of(condition.name, mode, scores), tiles[0]


def judge_empty(
    mode: Mode, show: Predictor, count: int
) -> tuple[EmptyFields, Image.Image]:
    """Count what is found in `count` empty fields; the picture shows the worst."""
    invented: list[int] = []
    pixels_seen, worst = 0, None
    for number in range(count):
        pixels, truth = EMPTY.draw(mode, number)
        labels = label_particles(show(pixels))
        found = int(labels.max())
        pixels_seen += pixels.size
        if worst is None or found > max(invented):
            worst = tile(pixels, truth, labels, f"{EMPTY.name}, {mode}: {found}")
        invented.append(found)
    assert worst is not None
    fields = EmptyFields(
        mode, count, pixels_seen / 1e6, sum(invented), int(np.count_nonzero(invented))
    )
    return fields, worst


def tile(pixels: Pixels, truth: Labels, labels: Labels, title: str) -> Image.Image:
    """Draw the truth's outline and the model's over a frame, where they differ side by side."""
    step = max(1, round(max(pixels.shape) / TILE_PX))
    values = np.asarray(pixels, np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)[::step, ::step]
    colour = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    for shown, ink in ((truth, TRUTH_COLOUR), (labels, MODEL_COLOUR)):
        colour[outline(shown[::step, ::step])] = ink
    picture = Image.fromarray(colour)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, TILE_PX - 15, 7 * len(title), TILE_PX), fill=(0, 0, 0))
    pen.text((3, TILE_PX - 14), title, fill=(255, 255, 0))
    return picture


def outline(labels: Labels) -> NDArray[np.bool_]:
    """Return the pixels of particles that border on anything else, (H, W)."""
    least = ndimage.minimum_filter(labels, footprint=_CROSS)
    most = ndimage.maximum_filter(labels, footprint=_CROSS)
    return (labels > 0) & (least != most)


_CROSS = ndimage.generate_binary_structure(2, 1)


def save_sheet(path: Path, tiles: Sequence[Image.Image], columns: int = 6) -> None:
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * TILE_PX, rows * TILE_PX))
    for number, one in enumerate(tiles):
        sheet.paste(one, (number % columns * TILE_PX, number // columns * TILE_PX))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="base", help="shipped name or directory")
    parser.add_argument("--frames", type=int, default=4, help="of a condition and mode")
    parser.add_argument("--empty", type=int, default=8, help="empty fields of a mode")
    parser.add_argument("--only", help="conditions whose name holds this text")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="one frame of each condition, PNG")
    options = parser.parse_args()
    network, card = checkpoint.load(options.model)
    show = predictor(network, card)
    print(f"{card.model_id} on {machine()}")
    print(
        "  condition           mode  frames, n   MIoU        >= 8 px  F1   diam. %   Otsu"
    )
    rows: list[Row] = []
    empties: list[EmptyFields] = []
    tiles: list[Image.Image] = []
    wanted = [c for c in CONDITIONS if (options.only or "") in c.name]
    for condition in wanted:
        for mode in MODES:
            row, picture = judge(condition, mode, show, options.frames)
            print(row, flush=True)
            rows.append(row)
            tiles.append(picture)
    for mode in MODES if options.empty else ():
        fields, picture = judge_empty(mode, show, options.empty)
        print(fields, flush=True)
        empties.append(fields)
        tiles.append(picture)
    beaten = [f"{row.condition} {row.mode}" for row in rows if row.is_beaten]
    print(f"one-liner better in {len(beaten)} of {len(rows)}: {', '.join(beaten)}")
    if options.sheet:
        save_sheet(options.sheet, tiles)
    write_json(
        options.json,
        {
            "model_id": card.model_id,
            "machine": machine(),
            "split": "simulated, demo family of supports, never in training",
            "conditions": [row.as_json() for row in rows],
            "empty": [asdict(fields) for fields in empties],
        },
    )


if __name__ == "__main__":
    main()
