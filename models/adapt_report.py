"""What a person judges a candidate by: one picture and one file of figures for each round."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emcopilot.durable import give_name
from models.adapt_evaluate import Outcome
from models.checkpoint import write_atomically
from models.datasets import LabelledFrame
from models.domain import Domain, network_cut
from models.synthesise import Frame, Mask

FIGURES_FILE, PICTURE_FILE = "report.json", "report.png"
ROWS = 4
SHOWN_PX = 384
"""Side of what is shown of a frame: outlines of a pixel stay visible."""
_OUTLINE = "#D55E00"


def write_report(
    directory: Path,
    domain: Domain,
    first: Sequence[LabelledFrame],
    second: Sequence[LabelledFrame],
    outcome: Outcome,
    *,
    device: str,
) -> None:
    """Write `report.json` and `report.png`: real, rough mask, both generations, new outlines."""
    text = json.dumps(outcome.as_json(), indent=1)
    write_atomically(directory / FIGURES_FILE, text.encode())
    before = {frame.name: frame for frame in first}
    candidate = network_cut(directory / "train", device)
    rows = min(ROWS, len(domain.frames), len(second))
    figure = Figure(figsize=(15, 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, 5, squeeze=False)
    for axes, real, made in zip(grid, domain.frames, second, strict=False):
        pixels = middle(real.pixels)
        show(axes[0], pixels, None)
        show(axes[1], pixels, middle(real.mask))
        show(axes[2], middle(before[made.name].pixels), middle(made.mask))
        show(axes[3], middle(made.pixels), middle(made.mask))
        found = candidate(real.pixels.astype(np.float32))
        show(axes[4], pixels, middle(found))
    titles = ("real", "rough mask", "1st generation", "2nd generation", "new outlines")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    # A line each: one long line would be cut at both ends.
    figure.suptitle("\n".join([outcome.verdict.word, *outcome.verdict.reasons]))
    part = directory / f"{PICTURE_FILE}.part"
    figure.savefig(part, format="png", dpi=80)
    give_name(part, directory / PICTURE_FILE)


def middle(layer: Frame | Mask | NDArray[np.float16]) -> Frame:
    """Return the middle of a layer (H, W), as much as is shown."""
    rows, columns = (max(0, (side - SHOWN_PX) // 2) for side in layer.shape)
    return layer[rows:, columns:][:SHOWN_PX, :SHOWN_PX].astype(np.float32)


def show(axes: Axes, pixels: Frame, mask: Frame | None) -> None:
    """Draw pixels (H, W) in grey, and the outlines of a mask over them."""
    low, high = np.percentile(pixels, (0.5, 99.5))
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-3))
    if mask is not None and 0 < mask.mean() < 1:
        axes.contour(mask, levels=[0.5], colors=_OUTLINE, linewidths=0.8)
    axes.set_axis_off()
