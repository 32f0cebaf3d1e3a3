"""What pix2pix and CycleGAN share: one step of learning, the buffer of made images, the state.

Every random number of a step comes from (seed, step) and none from torch's global stream, so a
run that was killed goes on from its state and ends, on a CPU, with the very bits of an
uninterrupted one.
"""

import copy
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from emcopilot.errors import AdaptationError, ConfigError, ModelError
from models import checkpoint, curves
from models.augmentation import cut
from models.datasets import LabelledFrame
from models.gan_networks import Generator
from models.gan_settings import GanSettings
from models.precision import is_mixed
from models.training import is_out_of_memory, named_device
from models.watch import Cancelled, Watch

log = logging.getLogger(__name__)

Side = Literal["generators", "discriminators"]
Judge = Callable[[Generator], float]
"""Gives a generator a figure that is lower the better."""


class Terms(NamedTuple):
    """What one side's loss is made of, for one batch or a part of it."""

    total: Tensor
    """Scalar that carries gradients; weighs all tiles alike."""
    figures: dict[str, Tensor]
    """Scalars to report."""
    made: tuple[Tensor, ...] = ()
    """Images that came out on the way, without gradients, each (B, C, H, W)."""


class Best(NamedTuple):
    """The generator that the judge liked most so far."""

    judged: float
    step: int
    weights: dict[str, Tensor]


class Buffer:
    """Images made lately, some of which a discriminator sees again.

    A discriminator that only sees the last ones forgets the faults that generators return to.
    Source: Shrivastava et al. 2017, section 2.3; half of a batch is exchanged as in CycleGAN.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []
        """Half precision, each (C, H, W)."""

    def exchange(self, made: Tensor, rng: np.random.Generator) -> Tensor:
        """Keep some of the images (B, C, H, W) and return as many, some of them older."""
        shown: list[Tensor] = []
        for image in made:
            place = int(rng.integers(max(1, self.size)))
            if len(self.images) < self.size:
                self.images.append(image.half())
                shown.append(image)
            elif self.size and rng.random() < 0.5:
                shown.append(self.images[place].to(image.dtype))
                self.images[place] = image.half()
            else:
                shown.append(image)
        return torch.stack(shown)


class GanRun:
    """A GAN in training: networks, optimisers, buffers, and how far it has come."""

    def __init__(
        self,
        stage: str,
        settings: GanSettings,
        generators: Mapping[str, Generator],
        discriminators: Mapping[str, nn.Module],
        data: str,
    ) -> None:
        self.stage, self.settings, self.data = stage, settings, data
        self.device = named_device(settings.device)
        self.kept = next(iter(generators))
        """The first generator is the one that is judged and returned."""
        self.generator = generators[self.kept].to(self.device)
        self.networks: dict[Side, Mapping[str, nn.Module]] = {
            "generators": generators,
            "discriminators": discriminators,
        }
        for network in itertools.chain(generators.values(), discriminators.values()):
            network.to(self.device).train()
        self.optimizers: dict[Side, torch.optim.Adam] = {
            side: torch.optim.Adam(
                self.parameters(side), settings.learning_rate, settings.betas
            )
            for side in self.networks
        }
        self.buffers = {name: Buffer(settings.buffer) for name in discriminators}
        self.step = 0
        self.best: Best | None = None
        self.parts = 1
        """Into how many a batch is cut because memory does not hold it whole."""
        self.saved_s = time.monotonic()

    def parameters(self, side: Side) -> list[nn.Parameter]:
        """Return what one side learns."""
        return [p for net in self.networks[side].values() for p in net.parameters()]

    def rng(self) -> np.random.Generator:
        """Return the generator of this step's random numbers."""
        return np.random.default_rng((self.settings.seed, self.step))

    def resume(self, directory: Path) -> None:
        """Go on from the state in `directory`, if there is one of this very run.

        Raises
        ------
        ConfigError
            If it holds another stage, or a run with other settings or on other data.
        """
        directory.mkdir(parents=True, exist_ok=True)
        state = checkpoint.load_state(directory)
        if state is None:
            return
        for what, ours in self._identity().items():
            if (theirs := state.get(what)) != ours:
                raise ConfigError(
                    f"{directory} holds a GAN with other {what}; got {ours}, expected "
                    f"{theirs}; choose another directory or give the same {what}"
                )
        self.step = int(str(state["step"]))
        if self.step < self.settings.steps:
            self._load(state)
        else:
            self.generator.load_state_dict(state["kept"])  # pyright: ignore[reportArgumentType]
        log.info("%s resumed step=%d", self.stage, self.step)

    def _load(self, state: dict[str, object]) -> None:
        for side, networks in self.networks.items():
            weights: dict[str, dict[str, Tensor]] = state[side]  # pyright: ignore[reportAssignmentType]
            for name, network in networks.items():
                network.load_state_dict(weights[name])
        optimizers: dict[Side, dict[str, object]] = state["optimizers"]  # pyright: ignore[reportAssignmentType]
        for side, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizers[side])
        images: dict[str, list[Tensor]] = state["buffers"]  # pyright: ignore[reportAssignmentType]
        for name, buffer in self.buffers.items():
            buffer.images = [image.to(self.device) for image in images[name]]
        self.best = Best(*state["best"]) if state["best"] else None  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]

    def save(self, directory: Path) -> None:
        """Write all that a killed run needs to go on."""
        state: dict[str, object] = {
            **self._identity(),
            "step": self.step,
            **{
                side: {name: net.state_dict() for name, net in networks.items()}
                for side, networks in self.networks.items()
            },
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "buffers": {name: b.images for name, b in self.buffers.items()},
            "best": tuple(self.best) if self.best else None,
        }
        checkpoint.save_state(directory, state)
        self.saved_s = time.monotonic()

    def finish(self, directory: Path) -> Generator:
        """Leave the best generator, or the last if none was judged, alone on disk."""
        if self.best is not None:
            self.generator.load_state_dict(self.best.weights)
            log.info(
                "%s kept step=%d judged=%.4g",
                self.stage, self.best.step, self.best.judged,
            )  # fmt: skip
        kept = self.generator.state_dict()
        checkpoint.save_state(
            directory, {**self._identity(), "step": self.step, "kept": kept}
        )
        return self.finished()

    def finished(self) -> Generator:
        """Return the generator for use."""
        return self.generator.eval().requires_grad_(False)

    def _identity(self) -> dict[str, str]:
        settings = json.dumps(self.settings.lasting(), sort_keys=True)
        return {"stage": self.stage, "settings": settings, "data": self.data}


def take_turn(
    run: GanRun, side: Side, batch: Sequence[Tensor], terms_of: Callable[..., Terms]
) -> tuple[dict[str, float], list[Tensor]]:
    """Let one side take one step of its optimiser; the other side stands still.

    A batch that memory does not hold is cut in two until it fits. No statistics are taken over a
    batch, so the sum of the gradients is the same but for the terms that are not means over tiles
    (edges, harm, a discriminator's rest) and for spectral norms, estimated at every pass.

    Parameters
    ----------
    run : GanRun
    side : {"generators", "discriminators"}
    batch : sequence of tensors, each (B, ...)
    terms_of : callable
        Takes the tensors, or equal parts of them, and returns `Terms`.

    Returns
    -------
    dict and list of tensors (B, C, H, W)
        The figures, and the images that were made.

    Raises
    ------
    AdaptationError
        If the loss is no longer finite or memory does not hold one tile.
    """
    optimizer = run.optimizers[side]
    for network in run.networks["discriminators"].values():
        network.requires_grad_(side == "discriminators")
    while True:
        try:
            figures, made = _add_gradients(run, batch, terms_of)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            optimizer.zero_grad(set_to_none=True)
            _cut_batches_smaller(run, len(batch[0]), error)
    gradients = [p.grad for p in run.parameters(side) if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        raise AdaptationError(
            f"the loss of the {side} of {run.stage} was no longer a finite number at step "
            f"{run.step}: {figures}; the last saved state is sound: lower the learning rate, or "
            "look for broken images, and start again in another directory"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return figures, made


def _add_gradients(
    run: GanRun, batch: Sequence[Tensor], terms_of: Callable[..., Terms]
) -> tuple[dict[str, float], list[Tensor]]:
    """Send a batch through, forward and back, in `run.parts`."""
    totals: dict[str, Tensor] = {}
    made: list[tuple[Tensor, ...]] = []
    mixed = is_mixed(run.device, run.settings.precision)
    for pieces in zip(*(t.tensor_split(run.parts) for t in batch), strict=True):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=mixed):
            terms = terms_of(*pieces)
        weight = len(pieces[0]) / len(batch[0])
        (terms.total * weight).backward()
        for name, value in terms.figures.items():
            totals[name] = totals.get(name, torch.zeros(())) + value.detach() * weight
        made.append(terms.made)
    figures = {name: value.item() for name, value in totals.items()}
    return figures, [torch.cat(images) for images in zip(*made, strict=True)]


def _cut_batches_smaller(run: GanRun, batch: int, error: Exception) -> None:
    if run.parts >= batch:
        raise AdaptationError(
            f"out of memory with a single tile of {run.settings.tile_px} px on {run.device}; the "
            "last saved state is sound: free the device and start again, or lower tile_px and "
            "start in another directory"
        ) from error
    run.parts = min(batch, 2 * run.parts)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    log.warning("out of memory: batches of %d go through in %d parts", batch, run.parts)


def set_learning_rate(run: GanRun) -> None:
    """Hold the rate, then let it fall linearly to zero over the last part of the steps."""
    settings = run.settings
    decay_steps = settings.steps * (1.0 - settings.decay_from)
    factor = min(1.0, (settings.steps - run.step) / decay_steps)
    for optimizer in run.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor


def draw_tiles(
    frames: Sequence[LabelledFrame], settings: GanSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a batch of tiles at native scale, each turned by quarters and flipped at random.

    Returns
    -------
    float32 array (B, tile_px, tile_px) and bool array of the same shape
        Pixels and masks. Nothing else is varied: grain and contrast are what is to be learnt.
    """
    tiles: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for choice in rng.integers(len(frames), size=settings.batch):
        layers = np.stack(cut(frames[choice], settings.tile_px, (1.0, 1.0), rng))
        layers = np.rot90(layers, int(rng.integers(4)), axes=(1, 2))
        pixels, mask = layers[..., ::-1] if rng.integers(2) else layers
        tiles.append(pixels)
        masks.append(mask > 0.5)
    return np.stack(tiles), np.stack(masks)


def stop_if_cancelled(run: GanRun, directory: Path, watch: Watch) -> None:
    """Save and leave, if somebody wants the run to stop.

    Raises
    ------
    Cancelled
        If so.
    """
    if watch.is_cancelled():
        run.save(directory)
        raise Cancelled(
            f"{run.stage} was cancelled at step {run.step} of {run.settings.steps}; start it "
            "again to go on from there"
        )


def after_step(
    run: GanRun,
    directory: Path,
    watch: Watch,
    figures: dict[str, float],
    judge: Judge | None,
) -> None:
    """Count a step; report, judge and save where it is time to."""
    run.step += 1
    settings = run.settings
    is_last = run.step == settings.steps
    if run.step % settings.report_every == 0 or is_last:
        _note(run, directory, watch, figures)
    if judge is not None and (run.step % settings.judge_every == 0 or is_last):
        _note(run, directory, watch, {"judged": _judge(run, judge)})
    if time.monotonic() - run.saved_s >= settings.save_every_s and not is_last:
        try:
            run.save(directory)
        except (ModelError, OSError) as error:  # a full disk may have room next time
            log.warning("nothing saved at step=%d: %s", run.step, error)
            run.saved_s = time.monotonic()


def _note(
    run: GanRun, directory: Path, watch: Watch, figures: dict[str, float]
) -> None:
    line = {"step": run.step, **{k: round(v, 6) for k, v in figures.items()}}
    curves.record(directory, line)
    watch.report(run.stage, run.step, run.settings.steps, **figures)


def _judge(run: GanRun, judge: Judge) -> float:
    """Ask the judge about the generator, and keep its weights if it never was better."""
    run.generator.eval()
    judged = float(judge(run.generator))
    run.generator.train()
    if math.isfinite(judged) and (run.best is None or judged < run.best.judged):
        weights = copy.deepcopy(run.generator.state_dict())
        run.best = Best(judged, run.step, weights)
    return judged


def weights_hash(network: nn.Module | None) -> str:
    """Return a sha256 over a network's weights, empty for none."""
    digest = hashlib.sha256()
    if network is None:
        return ""
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
