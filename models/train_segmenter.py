"""Step H: train NPsSegNet, or a baseline, on labelled frames: `emcopilot train`.

The learning rate follows progress, the part of the budget that is spent, so that a run given
`minutes` ends as well annealed as one given `steps`, however fast the machine is. What is saved as
the model is the moving average of the weights. A killed run goes on from its last state; with a
budget in steps or epochs it then ends, on a CPU, with the very weights of an uninterrupted one.
"""

import argparse
import logging
import multiprocessing
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch.utils.data import DataLoader, Dataset

from emcopilot.errors import ConfigError, ModelError
from emcopilot.leash import die_with_parent
from models import curves
from models.augmentation import Source, draw_batch
from models.checkpoint import STATE_FILE, ModelCard
from models.datasets import (
    LabelledFrame,
    data_hash,
    find_pairs,
    is_held_out,
    load_frames,
)
from models.edges import edge_offset, shift_decision
from models.npssegnet import DECODERS
from models.train_settings import PRESETS, Recipe, TrainSettings, chosen_settings
from models.training import Run, learn, set_learning_rate
from models.watch import Cancelled, Watch

log = logging.getLogger(__name__)

LONGEST_STEP_S = 120.0
"""No step takes longer; what does was not spent on training."""
EDGE_FRAMES = 24
"""Of each source: some seconds of inference on a CPU, and a median that is known to 2 %."""
STATE_IN_MODELS = 18
"""Disk that a run needs, in fp16 models: state 8 (network, average, two moments), model 1, and
each once more while it is replaced."""
_IS_LINUX = sys.platform.startswith("linux")


def train(
    settings: TrainSettings,
    sources: Sequence[Source],
    directory: Path,
    *,
    recipe: Recipe | None = None,
    held_out: Sequence[LabelledFrame] = (),
    watch: Watch | None = None,
) -> ModelCard:
    """Train to the end of the budget and leave a model in `directory`.

    Parameters
    ----------
    settings : TrainSettings
    sources : sequence of Source
        What tiles are cut from.
    directory : Path
        Receives state, model, `progress.jsonl`, `curves.csv` and `curves.png`; a state found
        there is resumed.
    recipe : Recipe, optional
        For the model card.
    held_out : sequence of LabelledFrame
        Frames whose loss, PA and MIoU are reported; never trained on, never selected on.
    watch : Watch, optional
        Of the job that this training is a stage of.

    Raises
    ------
    Cancelled
        If the watch said so; the state is saved.
    ConfigError
        If the disk cannot hold the run.
    ModelError
        If the loss is no longer finite, memory does not hold two tiles, or the directory holds
        another run.
    """
    recipe = recipe or Recipe()
    settings = settings.for_frames(sum(len(source.frames) for source in sources))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run = Run(settings, recipe.data)
    _require_space(directory, run)
    run.resume(directory)
    _take_steps(run, sources, directory, recipe, held_out=held_out, watch=watch)
    _save_on_the_way(run, directory, recipe)
    offset = None
    if settings.centre_edges:
        offset = edge_offset(run.average, edge_frames(sources))
    card = run.save_model(directory, recipe, edge_offset=offset)
    if offset is not None:
        shift_decision(run.average, offset)  # judged is the model that was saved
    _judge(directory, run, held_out, watch)
    return card


def _take_steps(
    run: Run,
    sources: Sequence[Source],
    directory: Path,
    recipe: Recipe,
    *,
    held_out: Sequence[LabelledFrame],
    watch: Watch | None,
) -> None:
    """Spend the budget: draw, learn, report, judge, save."""
    settings = run.settings
    seen, saved_s = time.monotonic(), run.elapsed_s
    losses: list[float] = []
    waits_s: list[float] = []
    batches = iter(tile_batches(run, sources))
    while run.progress < 1.0:
        if watch and watch.is_cancelled():
            run.save_state(directory)
            raise Cancelled(
                f"training was cancelled at step {run.step}; started again, it goes on there"
            )
        set_learning_rate(run.optimizer, settings, run.progress)
        asked = time.monotonic()
        tiles, masks = next(batches)
        waits_s.append(time.monotonic() - asked)
        losses.append(learn(run, tiles, masks))
        run.step += 1
        # A suspended machine or a stopped process spends no budget: it learns nothing.
        run.elapsed_s += min(time.monotonic() - seen, LONGEST_STEP_S)
        seen = time.monotonic()
        if run.step % settings.report_every == 0:
            # A device that waits for tiles wants more `workers`; one that does not, none.
            _report(directory, run, loss=fmean(losses), tile_wait_s=fmean(waits_s))
            if watch:
                watch.report("train", run.step, settings.steps, loss=fmean(losses))
            losses.clear()
            waits_s.clear()
        if run.step % settings.judge_every == 0:
            _judge(directory, run, held_out, watch)
        if run.elapsed_s - saved_s >= settings.save_every_s:
            _save_on_the_way(run, directory, recipe)
            saved_s = run.elapsed_s


class _Steps(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The batch of each step, whichever process draws it."""

    def __init__(self, settings: TrainSettings, sources: Sequence[Source]) -> None:
        self.settings, self.sources = settings, sources

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw_batch(
            self.sources,
            count=self.settings.batch,
            tile_px=self.settings.tile_px,
            seed=(self.settings.seed, step),
            look=self.settings.look,
        )


def tile_batches(
    run: Run, sources: Sequence[Source]
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Draw the batches from the run's step on, ahead of time where processes are to spare."""
    workers = run.settings.workers
    if workers is None:
        # A GPU takes a step in the time in which one core draws a tile.
        workers = min(8, torch.get_num_threads()) if run.device.type == "cuda" else 0
    return DataLoader(
        _Steps(run.settings, sources),
        batch_size=None,
        sampler=range(run.step, sys.maxsize),
        num_workers=workers,
        # Forked where that is sound: the frames are shared, and the leash knows its parent.
        multiprocessing_context="fork" if workers and _IS_LINUX else None,
        worker_init_fn=_end_with_the_run,
        pin_memory=run.device.type == "cuda",
        # Its own: the loader draws a seed, and dropout's stream must not notice.
        generator=torch.Generator(),
    )


def _end_with_the_run(_worker: int) -> None:
    """Leash a worker: torch's own watch sees to nothing while the job is stopped."""
    run = multiprocessing.parent_process()
    die_with_parent(run.pid if run else None)


def edge_frames(sources: Sequence[Source]) -> list[LabelledFrame]:
    """Pick the training frames on which edges are centred, as many from each good source."""
    return [
        frame
        for source in sources
        if source.has_true_edges
        for frame in source.frames[:: max(1, -(-len(source.frames) // EDGE_FRAMES))]
    ]


def _require_space(directory: Path, run: Run) -> None:
    """Refuse a run whose state the disk cannot hold before hours are spent."""
    directory.mkdir(parents=True, exist_ok=True)
    model = 2 * sum(p.numel() for p in run.network.parameters())
    old = directory / STATE_FILE
    there = old.stat().st_size if old.exists() else 0
    needed = STATE_IN_MODELS * model - there
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ConfigError(
            f"{directory} has {free / 1e6:.0f} MB free; a run of this network needs "
            f"{needed / 1e6:.0f} MB for its state and model: free some or choose another --out"
        )


def _save_on_the_way(run: Run, directory: Path, recipe: Recipe) -> None:
    """Save state and model; a disk that is full now may have room at the next save."""
    try:
        run.save_state(directory)
        run.save_model(directory, recipe)
    except (ModelError, OSError) as error:
        log.warning("nothing saved at step=%d: %s; training goes on", run.step, error)


def _judge(
    directory: Path,
    run: Run,
    held_out: Sequence[LabelledFrame],
    watch: Watch | None,
) -> None:
    if held_out:
        figures = curves.judge(run.average, held_out)
        _report(directory, run, **figures)
        if watch:
            watch.report("train", run.step, run.settings.steps, **figures)
    if (directory / curves.RECORD_FILE).exists():
        curves.write_curves(directory)


def _report(directory: Path, run: Run, **figures: float) -> None:
    line = {
        "step": run.step,
        "elapsed_s": round(run.elapsed_s, 1),
        "progress": round(run.progress, 4),
        **{key: round(value, 5) for key, value in figures.items()},
    }
    curves.record(directory, line)
    left_s = run.elapsed_s / max(run.progress, 1e-6) * (1.0 - run.progress)
    said = " ".join(f"{key}={value:.4f}" for key, value in figures.items())
    log.info("training step=%d eta_s=%.0f %s", run.step, left_s, said)


def main(argv: list[str]) -> int:
    """Run `emcopilot train`."""
    options = _parser().parse_args(argv)
    chosen = (
        "start",
        "minutes",
        "epochs",
        "steps",
        "batch",
        "tile_px",
        "seed",
        "device",
    )
    overrides = {key: getattr(options, key) for key in chosen}
    if options.network:
        overrides["architecture"] = {"name": options.network}
    settings = chosen_settings(options.preset, options.config, overrides)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    card = _train_folders(settings, options.images, options.masks, options.out)
    answer = (
        card.model_dump_json() if options.json else f"{card.model_id} {options.out}"
    )
    sys.stdout.write(answer + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot train",
        description="Train NPsSegNet from labelled images; a killed run resumes. Leaves a model "
        "directory, progress.jsonl, curves.csv and curves.png.",
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--masks", type=Path, required=True, help="folder of masks with the same stems"
    )
    parser.add_argument("--out", type=Path, required=True, help="becomes the model")
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="standard",
        help="where settings start: ours, for NPsSegNet, or the paper's, for plain UNet++ (150 "
        "epochs of 512 x 512)",
    )
    parser.add_argument("--config", type=Path, help="TOML file of training settings")
    parser.add_argument(
        "--network",
        choices=sorted(DECODERS),
        help="unetplusplus: the decoder of NPsSegNet, which also is shown local contrast (not in "
        "the paper's preset); the others: baselines, shown none",
    )
    parser.add_argument("--start", help="model to go on from; random weights if none")
    parser.add_argument("--minutes", type=float, help="budget on the clock")
    parser.add_argument("--epochs", type=float, help="budget in passes over the images")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--batch", type=int, help="tiles in a step")
    parser.add_argument("--tile-px", type=int, help="side of a tile")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print the card's figures")
    return parser


def _train_folders(
    settings: TrainSettings, images: Path, masks: Path, out: Path
) -> ModelCard:
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
