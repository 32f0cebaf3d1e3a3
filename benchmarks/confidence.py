"""Does 80 % mean 80 %? Calibration of pixels and particles, before and after one temperature.

    EMCOPILOT_DATA=... python benchmarks/confidence.py [--plot FILE.png] [--json FILE]
    EMCOPILOT_DATA=... python benchmarks/confidence.py --model runs/next --write weights/next

Judged are the EMPS validation part (split by paper) and simulated frames on the demo's family of
supports, which training never drew. What is fitted (temperature, particle map) is fitted on one
half of each set and judged on the other, both ways, no paper in both; what `--write` ships is
fitted on all of it. So is told what it is worth to leave out what the model does not believe.
"""

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from emps import data_folder, read_emps, split
from judged_frames import (
    REAL,
    Calibration,
    Judged,
    Particles,
    flattened,
    halved,
    real_frames,
    simulated_frames,
)
from machine import machine, write_json
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import nn

from emcopilot.belief import believed
from emcopilot.confidence import ParticleConfidence
from models import checkpoint
from models.calibration import (
    Reliability,
    temper,
)
from models.checkpoint import ModelCard, Score
from models.datasets import read_pixels
from models.npssegnet import torch_run
from models.predict import predict
from models.scores import true_labels
from models.segmentation_metrics import pixel_score
from models.tiling import Run

RESAMPLES = 200


def total(parts: Sequence[Reliability]) -> Reliability:
    return sum(parts, Reliability.none())


def spread_of_ece(by_image: Sequence[Reliability]) -> float:
    """Return the standard deviation of the error over images drawn with replacement."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(by_image), size=(RESAMPLES, len(by_image)))
    return float(np.std([total([by_image[i] for i in draw]).ece for draw in draws]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Reliability of one group of frames, as it was and cross-fitted."""

    group: str
    images: int
    per_image_before: float
    """Mean over images of each image's own error: nothing cancels between images."""
    per_image_after: float
    pixels_before: Reliability
    pixels_after: Reliability
    pixels_after_sd: float
    """Spread of the error when the images are drawn anew, with replacement."""
    particles_before: Reliability
    """Confidence is the mean probability inside."""
    particles_tempered: Reliability
    """The same after the temperature."""
    particles_mapped: Reliability
    """Through the logistic map."""
    particles_mapped_sd: float

    @classmethod
    def of(
        cls, group: str, frames: Sequence[Judged], by_half: Sequence[Calibration]
    ) -> "Verdict":
        """Judge each frame by what was fitted to the other half."""
        identity = ParticleConfidence()
        before = [frame.pixels_at(1.0) for frame in frames]
        after = [f.pixels_at(by_half[1 - f.half].temperature) for f in frames]
        untouched, tempered, mapped = [], [], []
        for frame in frames:
            other = by_half[1 - frame.half]
            shown = Particles.of([frame], other.temperature)
            untouched.append(Particles.of([frame], 1.0).reliability(identity))
            tempered.append(shown.reliability(identity))
            mapped.append(shown.reliability(other.particles))
        return cls(
            group,
            len(frames),
            float(np.mean([one.ece for one in before])),
            float(np.mean([one.ece for one in after])),
            total(before),
            total(after),
            spread_of_ece(after),
            total(untouched),
            total(tempered),
            total(mapped),
            spread_of_ece(mapped),
        )

    def __str__(self) -> str:
        return (
            f"{self.group:<18} n={self.images:3d}  pixels {self.pixels_before.ece:.3f} -> "
            f"{self.pixels_after.ece:.3f} ± {self.pixels_after_sd:.3f} "
            f"(mean of images {self.per_image_before:.3f} -> {self.per_image_after:.3f})  "
            f"particles {self.particles_before.ece:.3f} -> "
            f"{self.particles_tempered.ece:.3f} -> {self.particles_mapped.ece:.3f} ± "
            f"{self.particles_mapped_sd:.3f} "
            f"n={self.particles_before.total}"
        )

    def as_json(self) -> dict[str, object]:
        """Return the figures and the tables behind them."""
        tables = {
            name: value
            for name, value in ((n, getattr(self, n)) for n in self.__slots__)
            if isinstance(value, Reliability)
        }
        return {
            "group": self.group,
            "images": self.images,
            "per_image_ece_before": self.per_image_before,
            "per_image_ece_after": self.per_image_after,
            "sd_over_images": {
                "pixels_after": self.pixels_after_sd,
                "particles_mapped": self.particles_mapped_sd,
            },
            **{
                name: {"ece": t.ece, "n": t.total, "mean_rate_count": t.rows()}
                for name, t in tables.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Belief:
    """MIoU of what the network says, and of what is left when it must believe it."""

    group: str
    says: NDArray[np.float64]
    """Shape (N,)."""
    believes: NDArray[np.float64]
    """Shape (N,); each frame by the map that was fitted to the other half."""

    def __str__(self) -> str:
        return (
            f"{self.group:<18} n={len(self.says):3d}  MIoU {self.says.mean():.3f} "
            f"(sd {self.says.std():.3f}) -> {self.believes.mean():.3f} "
            f"(sd {self.believes.std():.3f}) without what it does not believe"
        )

    def as_json(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "group": self.group,
            "images": len(self.says),
            "miou_says": float(self.says.mean()),
            "miou_believes": float(self.believes.mean()),
            "sd": [float(self.says.std()), float(self.believes.std())],
        }


def cross_fitted(
    frames: Sequence[Judged], temperature: float | None
) -> list[Calibration]:
    """Fit to either half."""
    by_half = [
        Calibration.fitted([f for f in frames if f.half == half], temperature)
        for half in (0, 1)
    ]
    print("temperatures of the halves:", [round(c.temperature, 3) for c in by_half])
    return by_half


def beliefs(network: nn.Module, by_half: Sequence[Calibration]) -> list[Belief]:
    """Say what belief is worth on real frames, all and core, as the live path looks at them."""
    runs: list[Run] = []
    for calibration in by_half:
        tempered = copy.deepcopy(network)
        temper(tempered, calibration.temperature)
        runs.append(torch_run(tempered))
    rows: list[tuple[float, float]] = []
    images = halved(split(read_emps(data_folder()))[1])
    for image, half in images:
        said = predict(read_pixels(image.pair.image), runs[1 - half])
        left = believed(said, by_half[1 - half].particles)
        mask = true_labels(read_pixels(image.pair.mask)) > 0
        says, believes = (pixel_score(one >= 128, mask).miou for one in (said, left))
        rows.append((says, believes))
    scores = np.array(rows)
    core = [n for n, (image, _) in enumerate(images) if image.is_core]
    return [
        Belief(REAL, *scores.T),
        Belief(f"{REAL}, core", *scores[core].T),
    ]


def judge(frames: Sequence[Judged], by_half: Sequence[Calibration]) -> list[Verdict]:
    """Judge each group, and all, by what was fitted to the other half."""
    groups = list(dict.fromkeys(frame.group for frame in frames))
    verdicts = [
        Verdict.of(group, [f for f in frames if f.group == group], by_half)
        for group in groups
    ]
    return [*verdicts, Verdict.of("all", frames, by_half)]


def draw(path: Path, verdicts: Sequence[Verdict], model_id: str) -> None:
    """Plot observed rate against confidence: pixels before and after, and particles."""
    mpl.use("Agg")
    panels: list[tuple[str, Callable[[Verdict], Reliability]]] = [
        ("pixels, as trained", lambda v: v.pixels_before),
        ("pixels, tempered (cross-fitted)", lambda v: v.pixels_after),
        ("particles: mean probability, tempered", lambda v: v.particles_tempered),
        ("particles: logistic map (cross-fitted)", lambda v: v.particles_mapped),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 10), sharex=True, sharey=True)
    for axis, (title, pick) in zip(axes.flat, panels, strict=True):
        axis.set_title(title)
        _diagram(axis, [(v.group, pick(v)) for v in verdicts])
    figure.supxlabel("mean confidence of the bin")
    figure.supylabel("share that is true")
    figure.suptitle(f"{model_id}: reliability, bins with at least 10 claims")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _diagram(axis: Axes, curves: Sequence[tuple[str, Reliability]]) -> None:
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for group, reliability in curves:
        filled = [row for row in reliability.rows() if row[2] >= 10]
        said, true, _ = zip(*filled, strict=True) if filled else ((), (), ())
        title = f"{group}: ECE {reliability.ece:.3f}, n={reliability.total}"
        axis.plot(said, true, marker="o", markersize=4, label=title)
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(alpha=0.3)


def write(
    directory: Path,
    network: nn.Module,
    card: ModelCard,
    calibration: Calibration,
    verdicts: Sequence[Verdict],
) -> ModelCard:
    """Fold the temperature in and save; figures and limits of the card stay true."""
    temper(network, calibration.temperature)
    earlier = float(str(card.training.get("temperature", 1.0)))
    training = {
        **card.training,
        "temperature": earlier * calibration.temperature,
    }
    saved = checkpoint.save(
        directory,
        network,
        name=card.model_id.rpartition("-")[0],
        architecture=card.architecture,
        data=dict(card.data),
        training=training,
        licence=card.licence,
        particle_confidence=calibration.particles,
    )
    kept = {"scores": with_errors(card, verdicts), "limits": card.limits}
    checkpoint.write_card(directory, saved.model_copy(update=kept))
    return saved


def with_errors(card: ModelCard, verdicts: Sequence[Verdict]) -> tuple[Score, ...]:
    """Return the card's scores with the calibration errors measured anew."""
    others = [s for s in card.scores if not s.metric.startswith("ECE")]
    return (*others, *(score for one in verdicts for score in _scores(one)))


def rewrite_map(
    directory: Path, calibration: Calibration, verdicts: Sequence[Verdict]
) -> ModelCard:
    """Give the model in `directory` another map; its weights, and so its id, stay."""
    card = checkpoint.load(directory)[1]
    changed = {
        "particle_confidence": calibration.particles,
        "scores": with_errors(card, verdicts),
    }
    card = card.model_copy(update=changed)
    checkpoint.write_card(directory, card)
    return card


def _scores(verdict: Verdict) -> list[Score]:
    split = f"{verdict.group}, cross-fitted"
    found = {
        "ECE of pixels": (verdict.pixels_after.ece, verdict.pixels_after_sd),
        "ECE of particles": (verdict.particles_mapped.ece, verdict.particles_mapped_sd),
    }
    return [
        Score(
            metric=metric,
            split=split,
            count=verdict.images,
            mean=round(ece, 4),
            std=round(sd, 4),
        )
        for metric, (ece, sd) in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="base", help="shipped name or directory")
    parser.add_argument(
        "--frames", type=int, default=16, help="simulated, of each mode"
    )
    parser.add_argument("--plot", type=Path, help="reliability diagrams, PNG")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="directory of the tempered model")
    parser.add_argument(
        "--map-only", type=Path, help="directory of the model whose map is fitted anew"
    )
    options = parser.parse_args()
    # Weights that stay keep the temperature that was folded into them.
    temperature = 1.0 if options.map_only else None
    network, card = checkpoint.load(options.model)
    run = flattened(network)
    print(f"{card.model_id} on {machine()}")
    frames = real_frames(run)
    frames += simulated_frames(run, "haadf", options.frames)
    frames += simulated_frames(run, "bf", options.frames)
    by_half = cross_fitted(frames, temperature)
    verdicts, belief = judge(frames, by_half), beliefs(network, by_half)
    for line in (*verdicts, *belief):
        print(line)
    calibration = Calibration.fitted(frames, temperature)
    print(json.dumps({"fitted on all": asdict(calibration)}))
    if options.plot:
        draw(options.plot, verdicts, card.model_id)
    if options.write:
        saved = write(options.write, network, card, calibration, verdicts)
        print(json.dumps({"from": card.model_id, "to": saved.model_id}))
    if options.map_only:
        rewrite_map(options.map_only, calibration, verdicts)
    write_json(
        options.json,
        {
            "model_id": card.model_id,
            "machine": machine(),
            "fitted_on_all": asdict(calibration),
            "groups": [verdict.as_json() for verdict in verdicts],
            "belief": [one.as_json() for one in belief],
        },
    )


if __name__ == "__main__":
    main()
