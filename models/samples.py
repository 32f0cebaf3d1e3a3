"""Sample pictures of a job while it runs: what each stage made, for a person to look at."""

import logging
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from models.adapt_report import middle, show
from models.datasets import LabelledFrame

log = logging.getLogger(__name__)

SAMPLES = "samples"
"""In the job's folder; pictures are named for round, stage and what they show."""
SHOWN = 4


def show_sample(path: Path, frames: Sequence[LabelledFrame]) -> None:
    """Draw the middle of some frames with their masks' outlines; a picture that is there stays.

    A picture that cannot be written is missed by nobody but the person: the job goes on.
    """
    if path.exists() or not frames:
        return
    some = frames[:: -(-len(frames) // SHOWN)]
    figure = Figure(figsize=(3 * len(some), 3.1), layout="constrained")
    for axes, frame in zip(
        figure.subplots(1, len(some), squeeze=False)[0], some, strict=True
    ):
        show(axes, middle(frame.pixels), middle(frame.mask))
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, format="png", dpi=80)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        log.warning("sample not written reason=%s", error)
