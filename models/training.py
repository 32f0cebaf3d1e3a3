"""One training run: its network and average, one step of learning, and its state on disk."""

import copy
import json
import logging
import math
from pathlib import Path

import torch
from torch import nn

from emcopilot.errors import ConfigError, ModelError
from models import checkpoint
from models.edges import shift_decision
from models.losses import focal_and_jaccard
from models.npssegnet import build, widened
from models.precision import is_mixed
from models.train_settings import Recipe, TrainSettings, network_name

log = logging.getLogger(__name__)

_NO_MEMORY = (
    "CPUAllocator",
    "bad_alloc",
    "could not create a",
    "can't start new thread",
)


class Run:
    """A run in progress: the network, its average, its optimiser and how far it has come."""

    def __init__(
        self, settings: TrainSettings, data: dict[str, object] | None = None
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.data = json.dumps(data or {}, sort_keys=True, default=str)
        """What the card says of the data: a run goes on with the same only."""
        self.device = named_device(settings.device)
        network, self.started_from = _first_network(settings)
        self.network = network.to(self.device)
        # Channels last: half of the paper's layers run faster so, none slower.
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = build(settings.architecture).to(self.device).eval()
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.step = 0
        self.elapsed_s = 0.0
        self.parts = 1
        """Into how many a batch is cut because memory does not hold it whole."""

    @property
    def progress(self) -> float:
        """How much of the budget is spent, 0..1."""
        if self.settings.minutes:
            return min(1.0, self.elapsed_s / (60.0 * self.settings.minutes))
        return min(1.0, self.step / self.settings.steps)

    def resume(self, directory: Path) -> None:
        """Go on from the state in `directory`, if there is one of the same settings."""
        state = checkpoint.load_state(directory)
        if state is None:
            return
        theirs = _settings_of(state)
        if (ours := self.settings.lasting()) != theirs.lasting():
            raise ModelError(
                f"{directory} holds a run with other settings; got {ours}, expected "
                f"{theirs.lasting()}; choose another --out or give the same settings"
            )
        # A run that an earlier release began does not say.
        if (began := state.get("started_from", self.started_from)) != self.started_from:
            raise ModelError(
                f"{directory} holds a run that began with {began or 'random weights'}; got "
                f"{self.started_from or 'random weights'}; choose another --out or give the same"
            )
        if state["data"] != self.data:
            raise ModelError(
                f"{directory} holds a run on other data; got {self.data[:200]}, expected "
                f"{str(state['data'])[:200]}; choose another --out or give the same data"
            )
        self.network.load_state_dict(state["network"])  # pyright: ignore[reportArgumentType]
        self.average.load_state_dict(state["average"])  # pyright: ignore[reportArgumentType]
        self.optimizer.load_state_dict(state["optimizer"])  # pyright: ignore[reportArgumentType]
        self.step = int(str(state["step"]))
        self.elapsed_s = float(str(state["elapsed_s"]))
        torch.set_rng_state(state["dropout"])  # pyright: ignore[reportArgumentType]
        log.info("training resumed step=%d elapsed_s=%.0f", self.step, self.elapsed_s)

    def save_state(self, directory: Path) -> None:
        """Write all that a killed run needs to go on."""
        checkpoint.save_state(
            directory,
            {
                "settings": self.settings.model_dump_json(),
                "started_from": self.started_from,
                "data": self.data,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "dropout": torch.get_rng_state(),
            },
        )

    def save_model(
        self, directory: Path, recipe: Recipe, *, edge_offset: float | None = None
    ) -> checkpoint.ModelCard:
        """Write the averaged weights as a model; with an offset, their edges are centred."""
        network = copy.deepcopy(self.average)
        if edge_offset is not None:
            shift_decision(network, edge_offset)
        return checkpoint.save(
            directory,
            network,
            name=recipe.name or network_name(self.settings.architecture),
            architecture=self.settings.architecture,
            data=recipe.data,
            training={
                **self.settings.model_dump(mode="json", exclude={"architecture"}),
                "start": self.started_from,
                "steps_done": self.step,
                "minutes_spent": round(self.elapsed_s / 60, 1),
                "device": device_name(self.device),
                "edge_offset": edge_offset,
            },
            licence=recipe.licence,
        )


def _settings_of(state: dict[str, object]) -> TrainSettings:
    """Return the settings that a saved run was trained with."""
    saved = json.loads(str(state["settings"]))
    # Before there was a choice, areas were summed over the batch.
    return TrainSettings.model_validate({"areas_over": "batch", **saved})


def _first_network(settings: TrainSettings) -> tuple[nn.Module, str | None]:
    """Return the network to begin with and the id of the model it is, if it is one."""
    if settings.start is None:
        return build(settings.architecture), None
    network, card = checkpoint.load(settings.start)
    narrower = settings.architecture.model_copy(update={"local_contrast_px": 0})
    if card.architecture == narrower != settings.architecture:
        wider = build(settings.architecture)
        wider.load_state_dict(widened(network.state_dict(), wider))
        return wider, card.model_id
    if card.architecture != settings.architecture:
        raise ConfigError(
            f"the model to start from, {card.model_id}, is {card.architecture}; expected "
            f"{settings.architecture}; choose another --start or architecture"
        )
    return network, card.model_id


def learn(run: Run, tiles: torch.Tensor, masks: torch.Tensor) -> float:
    """Take one optimiser step on a batch and return its loss.

    A batch that memory does not hold is cut in two until it fits. Batch normalisation then sees
    fewer tiles at a time, and with `areas_over` "batch" the Jaccard term sums areas over a part
    only; but for these two the sum of the gradients is the same.
    """
    run.network.train()
    tiles = tiles.to(run.device, non_blocking=True)
    masks = masks.to(run.device, non_blocking=True)
    while True:
        try:
            loss = _add_gradients(run, tiles, masks)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            run.optimizer.zero_grad(set_to_none=True)
            _cut_batches_smaller(run, len(tiles), error)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise ModelError(
            f"the loss became {loss} at step {run.step}; the last saved state is sound: lower "
            "the learning rate, or look for broken images, and start again"
        )
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    blend(run.average, run.network, _decay(run))
    return loss


def _add_gradients(run: Run, tiles: torch.Tensor, masks: torch.Tensor) -> float:
    """Send a batch through, forward and back, in `run.parts`; returns its mean loss."""
    total = 0.0
    mixed = is_mixed(run.device, run.settings.precision)
    pieces = tiles.tensor_split(run.parts), masks.tensor_split(run.parts)
    for piece, piece_masks in zip(*pieces, strict=True):
        # Tiles have one shape: timing cuDNN's algorithms pays here, not on held-out frames.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=mixed):
                logits = run.network(piece)  # (B / parts, 2, H, W)
            weight = len(piece) / len(tiles)
            loss = focal_and_jaccard(logits, piece_masks, run.settings.areas_over).total
            loss = loss * weight
            loss.backward()
        total += loss.item()
    return total


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Say whether a GPU's or the CPU's memory was too small."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On the CPU torch raises a plain RuntimeError that names its allocator, or oneDNN's object.
    return any(sign in str(error) for sign in _NO_MEMORY)


def _cut_batches_smaller(run: Run, batch: int, error: Exception) -> None:
    if batch // (2 * run.parts) < 2:  # batch normalisation needs two tiles
        settings = run.settings
        raise ModelError(
            f"out of memory with {batch // run.parts} tiles of {settings.tile_px} px on "
            f"{run.device}; free the device or lower tile_px"
        ) from error
    run.parts *= 2
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    log.warning("out of memory: batches of %d go through in %d parts", batch, run.parts)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, progress: float
) -> None:
    """Warm up linearly, then fall: as half a cosine to zero, or by a tenth every 5 epochs."""
    if progress < settings.warm_up:
        factor = (progress + 0.01) / (settings.warm_up + 0.01)
    elif settings.schedule == "steps" and settings.epochs is not None:
        # The epoch that is running; rounded, since 1/30 of 150 epochs may fall short of 5.
        factor = 0.9 ** (round(progress * settings.epochs, 6) // 5)
    else:
        part = (progress - settings.warm_up) / (1.0 - settings.warm_up)
        factor = 0.5 * (1.0 + math.cos(math.pi * part))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network by 1 - decay, normalisation statistics too."""
    ours, theirs = average.state_dict(), network.state_dict()
    real = [key for key, value in theirs.items() if value.is_floating_point()]
    # Together: on a GPU some three hundred launches would cost as much as a tile.
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        [ours[key] for key in real], [theirs[key] for key in real], 1.0 - decay
    )
    for key in theirs.keys() - set(real):
        ours[key].copy_(theirs[key])


def _decay(run: Run) -> float:
    """Average over few steps at first, so that random initial weights are soon forgotten."""
    return min(run.settings.average, (1.0 + run.step) / (10.0 + run.step))


def device_name(device: torch.device) -> str:
    """Name a device for people: the card, where it is one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def named_device(name: str) -> torch.device:
    """Return the device asked for; "auto" is the GPU where there is one.

    Raises
    ------
    ConfigError
        If "cuda" is asked for and PyTorch sees none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError(
            "device cuda was asked for but PyTorch sees no NVIDIA GPU on this machine; use "
            "--device cpu"
        )
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
