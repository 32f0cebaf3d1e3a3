"""The judge: a model run over labelled images, each scored as the live path would show it.

The same decoding, preprocessing, tiling, 8-bit probability, threshold and labels.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.errors import DecodeError
from emcopilot.labels import label_particles
from models.box_truth import BoxedImage, Boxes
from models.datasets import Pair, read_marked, read_pixels
from models.evaluation import Evaluation, Score
from models.overlays import save_overlay
from models.predict import predict
from models.scores import ImageScore, MarkedParticles, label_edges, true_labels
from models.tiling import Run

Case = Pair | BoxedImage
"""Where one image and its truth lie."""


def evaluate(
    run: Run,
    cases: Iterable[Case],
    model_id: str,
    confidence: ParticleConfidence = IDENTITY,
) -> Evaluation:
    """Score a model on every image; one that cannot be scored is named, not fatal.

    Parameters
    ----------
    run : callable
        The engine: (B, 1, h, w) float32 -> (B, h, w) float32 probability.
    cases : iterable of Pair or BoxedImage
        All of one kind.
    model_id : str
    confidence : ParticleConfidence, optional
        The model's own: what it does not believe itself is no particle.
    """
    scores: list[Score] = []
    unreadable: list[tuple[str, str]] = []
    empty = 0
    for case in cases:
        try:
            pixels, truth = read_case(case)
            shown = predict(pixels, run, confidence=confidence)
            scores.append(truth.score(case.name, shown))
            empty += truth.is_empty
        except DecodeError as error:
            unreadable.append((case.name, str(error)))
        except torch.OutOfMemoryError:
            reason = "the GPU's memory is full; free it, or use --device cpu"
            unreadable.append((case.name, reason))
    return Evaluation(model_id, tuple(scores), tuple(unreadable), empty)


def read_case(case: Case) -> tuple[NDArray[np.generic], MarkedParticles | Boxes]:
    """Read one image (H, W) and what is true of it.

    Raises
    ------
    DecodeError
        If a file is unreadable or the truth is that of an image of another size.
    """
    if isinstance(case, BoxedImage):
        pixels = read_pixels(case.image)
        return pixels, case.boxes_within(pixels.shape)
    pixels, marks = read_marked(case)
    return pixels, MarkedParticles(true_labels(marks))


def draw_overlays(
    run: Run,
    cases: Iterable[Case],
    result: Evaluation,
    folder: Path,
    confidence: ParticleConfidence = IDENTITY,
) -> list[Path]:
    """Draw the images that were scored best, median and worst; returns the files.

    They are predicted a second time: keeping every image's answer would fill the memory.

    Raises
    ------
    ConfigError
        If a file cannot be written.
    """
    by_name = {case.name: case for case in cases}
    drawn: list[Path] = []
    for rank, score in extremes(result.scores).items():
        pixels, truth = read_case(by_name[score.name])
        shown = predict(pixels, run, confidence=confidence)
        path = folder / f"{rank}_{score.name}.png"
        save_overlay(
            path,
            pixels,
            truth=truth.outline(pixels.shape),
            answer=label_edges(label_particles(shown)),
            caption=f"{rank}: {score.name}, {_merit(score)}",
        )
        drawn.append(path)
    return drawn


def extremes(scores: Sequence[Score]) -> dict[str, Score]:
    """Pick the best, worst and median image by MIoU or F1; of fewer, those there are."""
    ranked = sorted(scores, key=_rank, reverse=True)
    places = {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}
    chosen: dict[str, Score] = {}
    for rank, place in places.items():
        if ranked and ranked[place] not in chosen.values():
            chosen[rank] = ranked[place]
    return chosen


def _rank(score: Score) -> float:
    return score.miou if isinstance(score, ImageScore) else score.f1


def _merit(score: Score) -> str:
    name = "MIoU" if isinstance(score, ImageScore) else "F1"
    return f"{name} {_rank(score):.3f}"
