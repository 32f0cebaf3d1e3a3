"""Step I: `emcopilot evaluate`, how good a model is and whether it beats another.

Truth is a folder of masks, or of boxes. What a person must mend is found before the first image is
segmented; a bad image among good ones is named and left out.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from emcopilot.confidence import IDENTITY
from emcopilot.errors import ConfigError
from models import checkpoint
from models.box_truth import BOXES_RUN_WIDE, find_boxed
from models.datasets import find_pairs
from models.evaluation import Comparison, Evaluation, compare
from models.judge import Case, draw_overlays, evaluate
from models.npssegnet import torch_run
from models.training import named_device

LINES_OF_PROGRESS = 10
"""How often a log that no person watches hears of it."""


def main(argv: list[str]) -> int:
    """Run `emcopilot evaluate`: 0 if every image was scored, 1 if some were not."""
    options = _parser().parse_args(argv)
    cases: Sequence[Case] = (
        find_boxed(options.images, options.boxes)
        if options.boxes
        else find_pairs(options.images, options.masks)
    )
    device = named_device(options.device)
    models = [checkpoint.load(m) for m in (options.model, *options.against)]
    _prepare(options.json, options.overlays)
    results = [
        evaluate(
            torch_run(network.to(device)),
            _told(cases, card.model_id),
            card.model_id,
            card.particle_confidence or IDENTITY,
        )
        for network, card in models
    ]
    result, comparisons = results[0], compare(results[0], results[1:])
    truth = "boxes" if options.boxes else "masks"
    sys.stdout.write(_report(result, comparisons, truth))
    for name, reason in result.unreadable:
        sys.stderr.write(f"not scored: {name}: {reason}\n")
    if options.json:
        answer = {
            **result.as_json(),
            "device": device.type,
            "truth": truth,
            "against": [comparison.as_json() for comparison in comparisons],
        }
        _write(options.json, json.dumps(answer, indent=1, allow_nan=False) + "\n")
    if options.overlays:
        network, card = models[0]
        confidence = card.particle_confidence or IDENTITY
        draw_overlays(torch_run(network), cases, result, options.overlays, confidence)
    return 1 if result.unreadable else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot evaluate",
        description="Score a model against masks or boxes matched by stem. In a mask, above 0 "
        "is particle; masks of 16 bits or more may number their particles. Boxes are CSV files "
        "with the columns x0,y0,x1,y1 and, where it is known, eq_diam_px, all in px.",
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--masks", type=Path, help="folder of masks")
    truth.add_argument("--boxes", type=Path, help="folder of boxes, a CSV an image")
    parser.add_argument("--model", default="base", help="shipped name or directory")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="MODEL",
        help="test the difference to this model on the same images; may be repeated",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures here")
    parser.add_argument(
        "--overlays",
        type=Path,
        metavar="DIR",
        help="draw the best, median and worst image here, with truth and answer outlined",
    )
    return parser


def _prepare(figures: Path | None, overlays: Path | None) -> None:
    """Make sure that results can be written, while nothing is lost yet if they cannot."""
    try:
        if overlays:
            overlays.mkdir(parents=True, exist_ok=True)
        if figures:
            figures.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {error.filename}: {error.strerror}") from error
    for folder in (overlays, figures.parent if figures else None):
        if folder and not os.access(folder, os.W_OK):
            raise ConfigError(f"cannot write into {folder}; choose another folder")
    if figures and figures.is_dir():
        raise ConfigError(f"--json {figures} is a folder; name a file")


def _told(cases: Sequence[Case], model_id: str) -> Iterator[Case]:
    """Yield the images and say how far it is: on one line to a person, rarely to a log."""
    began, is_watched = time.monotonic(), sys.stderr.isatty()
    for done, case in enumerate(cases):
        left_s = (time.monotonic() - began) / max(done, 1) * (len(cases) - done)
        left = f", {left_s:.0f} s left" if done else ""
        line = f"{model_id}: {done + 1}/{len(cases)} {case.name[:40]}{left}"
        if is_watched:
            sys.stderr.write(f"\r{line:<100}")
        elif done % -(-len(cases) // LINES_OF_PROGRESS) == 0:
            sys.stderr.write(line + "\n")
        yield case
    if is_watched:
        sys.stderr.write("\r" + " " * 100 + "\r")


def _report(result: Evaluation, comparisons: list[Comparison], truth: str) -> str:
    parts = [result.as_table()]
    if truth == "boxes":
        parts.append(f"  ({BOXES_RUN_WIDE})\n")
    if result.scores and result.empty == len(result.scores):
        parts.append(
            f"  (no particle in any of the {truth}: this says only whether fields that are "
            "empty stay so; check them if particles were meant to be there)\n"
        )
    parts += [comparison.as_table() for comparison in comparisons]
    return "".join(parts)


def _write(path: Path, text: str) -> None:
    try:
        checkpoint.write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
