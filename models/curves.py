"""The course of a training run, as a table and as a plot that a person can judge.

`progress.jsonl` is the record; both are made from it anew whenever the run is judged, so a resumed
run shows its whole course.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from models.checkpoint import write_atomically
from models.datasets import LabelledFrame
from models.losses import probability_loss
from models.segmentation_metrics import pixel_score, predict_probability

RECORD_FILE, TABLE_FILE, PLOT_FILE = "progress.jsonl", "curves.csv", "curves.png"
COLUMNS: tuple[str, ...] = (
    "step",
    "elapsed_s",
    "loss",
    "held_out_loss",
    "held_out_pa",
    "held_out_miou",
)
_TRAINING, _HELD_OUT = "#0072B2", "#D55E00"  # Okabe-Ito: told apart by everyone


def judge(network: nn.Module, frames: Sequence[LabelledFrame]) -> dict[str, float]:
    """Return the mean loss, pixel accuracy and MIoU over held-out frames at native size."""
    scores: list[tuple[float, float, float]] = []
    for frame in frames:
        probability = predict_probability(network, frame.pixels)
        agreement = pixel_score(probability >= 0.5, frame.mask)
        loss = probability_loss(probability, frame.mask)
        scores.append((loss, agreement.pa, agreement.miou))
    loss, pa, miou = np.mean(scores, axis=0).tolist()
    return {"held_out_loss": loss, "held_out_pa": pa, "held_out_miou": miou}


def record(directory: Path, line: dict[str, float]) -> None:
    """Add one line of figures to the run's record."""
    with (directory / RECORD_FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_record(directory: Path) -> list[dict[str, float]]:
    """Return one line a step, in order; of a step that was taken again, the last word counts."""
    by_step: dict[int, dict[str, float]] = {}
    for text in (directory / RECORD_FILE).read_text().splitlines():
        try:
            line: dict[str, float] = json.loads(text)
        except json.JSONDecodeError:
            continue  # a kill cut it off
        by_step.setdefault(int(line["step"]), {}).update(line)
    return [by_step[step] for step in sorted(by_step)]


def write_curves(directory: Path) -> None:
    """Write `curves.csv` and `curves.png` of the run in `directory`."""
    lines = read_record(directory)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(directory / TABLE_FILE, table.getvalue().encode())
    picture = io.BytesIO()
    _plot(lines).savefig(picture, format="png", dpi=120)
    write_atomically(directory / PLOT_FILE, picture.getvalue())


def _plot(lines: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    loss, accuracy, miou = figure.subplots(1, 3)
    _curve(loss, lines, "loss", "training tiles", _TRAINING)
    _curve(loss, lines, "held_out_loss", "held-out frames", _HELD_OUT)
    _curve(accuracy, lines, "held_out_pa", "held-out frames", _HELD_OUT)
    _curve(miou, lines, "held_out_miou", "held-out frames", _HELD_OUT)
    for axes, name in ((loss, "loss"), (accuracy, "pixel accuracy"), (miou, "MIoU")):
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
    loss.legend(frameon=False)
    return figure


def _curve(
    axes: Axes, lines: list[dict[str, float]], key: str, name: str, colour: str
) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        marker = "o" if len(points) < 40 else None
        axes.plot(
            *zip(*points, strict=True), color=colour, label=name, marker=marker, ms=3
        )
