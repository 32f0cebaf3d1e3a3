"""Step H: train NPsSegNet on labelled frames. One loop; stops on steps or on the clock.

The learning rate follows progress, the part of the budget that is spent, so that a run given
`minutes` ends as well annealed as one given `steps`, however fast the machine is. What is saved as
the model is the moving average of the weights. A killed run goes on from its last state; with a
budget in steps it then ends with the very weights of an uninterrupted one.
"""

import argparse
import itertools
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from emcopilot.config import load_settings
from emcopilot.errors import ConfigError
from models import checkpoint
from models.augmentation import Source, draw_batch
from models.datasets import (
    LabelledFrame,
    data_hash,
    find_pairs,
    is_held_out,
    load_frames,
)
from models.edges import edge_offset, shift_decision
from models.segmentation_metrics import mean_iou
from models.training import Recipe, Run, TrainSettings, learn, set_learning_rate

log = logging.getLogger(__name__)

LONGEST_STEP_S = 120.0
"""No step takes longer; what does was not spent on training."""
EDGE_FRAMES = 24
"""Of each source: some seconds of inference on a CPU, and a median that is known to 2 %."""


def train(
    settings: TrainSettings,
    sources: Sequence[Source],
    directory: Path,
    *,
    recipe: Recipe | None = None,
    held_out: Sequence[LabelledFrame] = (),
) -> checkpoint.ModelCard:
    """Train to the end of the budget and leave a model in `directory`.

    Parameters
    ----------
    settings : TrainSettings
    sources : sequence of Source
        What tiles are cut from.
    directory : Path
        Receives state, model and `progress.jsonl`; a state found there is resumed.
    recipe : Recipe, optional
        For the model card.
    held_out : sequence of LabelledFrame
        Frames whose MIoU is reported at every save; never trained on, never selected on.

    Raises
    ------
    ModelError
        If the loss is no longer finite, or the directory holds another run.
    """
    recipe = recipe or Recipe()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    directory.mkdir(parents=True, exist_ok=True)
    run = Run(settings)
    run.resume(directory)
    seen, saved_s = time.monotonic(), run.elapsed_s
    recent: list[float] = []
    for step in itertools.count(run.step):
        if run.progress >= 1.0:
            break
        set_learning_rate(run.optimizer, settings, run.progress)
        tiles, masks = draw_batch(
            sources,
            count=settings.batch,
            tile_px=settings.tile_px,
            seed=(settings.seed, step),
        )
        loss = learn(run, tiles, masks)
        recent.append(loss)
        run.step = step + 1
        # A suspended machine or a stopped process spends no budget: it learns nothing.
        run.elapsed_s += min(time.monotonic() - seen, LONGEST_STEP_S)
        seen = time.monotonic()
        if run.step % settings.report_every == 0:
            _report(directory, run, loss=sum(recent) / len(recent))
            recent.clear()
        if run.elapsed_s - saved_s >= settings.save_every_s:
            run.save_state(directory)
            run.save_model(directory, recipe)
            saved_s = run.elapsed_s
            if held_out:
                _report(directory, run, miou=mean_iou(run.average, held_out))
    run.save_state(directory)
    offset = edge_offset(run.average, edge_frames(sources))
    card = run.save_model(directory, recipe, edge_offset=offset)
    if held_out:
        shift_decision(run.average, offset)
        _report(directory, run, miou=mean_iou(run.average, held_out), offset=offset)
    return card


def edge_frames(sources: Sequence[Source]) -> list[LabelledFrame]:
    """Pick the training frames on which edges are centred, as many from each good source."""
    return [
        frame
        for source in sources
        if source.has_true_edges
        for frame in source.frames[:: max(1, len(source.frames) // EDGE_FRAMES)]
    ]


def _report(directory: Path, run: Run, **figures: float) -> None:
    line = {
        "step": run.step,
        "elapsed_s": round(run.elapsed_s, 1),
        "progress": round(run.progress, 4),
        **{key: round(value, 5) for key, value in figures.items()},
    }
    with (directory / "progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    left_s = run.elapsed_s / max(run.progress, 1e-6) * (1.0 - run.progress)
    said = " ".join(f"{key}={value:.4f}" for key, value in figures.items())
    log.info("training step=%d eta_s=%.0f %s", run.step, left_s, said)


def main(argv: list[str]) -> int:
    """Run `emcopilot train`."""
    parser = argparse.ArgumentParser(
        prog="emcopilot train",
        description="Train NPsSegNet from labelled images; a killed run resumes.",
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--masks", type=Path, required=True, help="folder of masks with the same stems"
    )
    parser.add_argument("--out", type=Path, required=True, help="becomes the model")
    parser.add_argument("--config", type=Path, help="TOML file of training settings")
    parser.add_argument("--start", help="model to go on from; random weights if none")
    parser.add_argument("--minutes", type=float, help="budget on the clock")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--batch", type=int, help="tiles in a step")
    parser.add_argument("--tile-px", type=int, help="side of a tile")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print the card's figures")
    options = parser.parse_args(argv)
    chosen = ("start", "minutes", "steps", "batch", "tile_px", "seed", "device")
    settings = load_settings(
        TrainSettings, options.config, {key: getattr(options, key) for key in chosen}
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    card = _train_folders(settings, options.images, options.masks, options.out)
    answer = (
        card.model_dump_json() if options.json else f"{card.model_id} {options.out}"
    )
    sys.stdout.write(answer + "\n")
    return 0


def _train_folders(
    settings: TrainSettings, images: Path, masks: Path, out: Path
) -> checkpoint.ModelCard:
    frames = load_frames(find_pairs(images, masks))
    held_out = [f for f in frames if is_held_out(f.name, seed=settings.seed)]
    kept = [f for f in frames if not is_held_out(f.name, seed=settings.seed)]
    if not any(frame.mask.any() for frame in kept):
        raise ConfigError(
            f"no particle in any of the {len(kept)} training masks of {masks}; a mask's pixels "
            "above 0 are particle"
        )
    recipe = Recipe(
        data={
            "training": [frame.name for frame in kept],
            "validation": [frame.name for frame in held_out],
            "split": f"4:1 by hash of the stem, seed {settings.seed}",
            "sha256": data_hash(frames),
        }
    )
    return train(settings, [Source(kept)], out, recipe=recipe, held_out=held_out)
