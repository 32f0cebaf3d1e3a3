"""One training run: its settings, its network and average, one step, and its state on disk."""

import copy
import logging
import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from emcopilot.config import Settings
from emcopilot.errors import ConfigError, ModelError
from models import checkpoint
from models.edges import shift_decision
from models.losses import focal_and_jaccard
from models.npssegnet import Architecture, build

log = logging.getLogger(__name__)


class TrainSettings(Settings):
    """Everything that decides a training run, beside its data."""

    architecture: Architecture = Architecture()
    start: str | None = None
    """A model whose weights the run starts from, by name or directory; random if none."""
    minutes: float | None = Field(default=None, gt=0)
    """Budget on the clock; leaves `steps` out of account."""
    steps: int = Field(default=20_000, ge=1)
    batch: int = Field(default=4, ge=2)
    """Tiles in a step; batch normalisation needs two or more."""
    tile_px: int = Field(default=256, ge=32, multiple_of=32)
    learning_rate: float = Field(default=3e-4, gt=0)
    """At its peak: after the warm-up, before the cosine decay."""
    weight_decay: float = Field(default=5e-4, ge=0)
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Part of the budget over which the learning rate rises."""
    average: float = Field(default=0.995, ge=0, lt=1)
    """Decay per step of the moving average over weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 leaves the choice to torch."""
    seed: int = 0
    report_every: int = Field(default=50, ge=1)
    save_every_s: float = Field(default=300.0, gt=0)
    """State and a model of the moment are written this often, and at the end."""

    def lasting(self) -> dict[str, object]:
        """Return what must not change when a run is resumed: all but budget and habits."""
        habits = {
            "minutes",
            "steps",
            "device",
            "threads",
            "report_every",
            "save_every_s",
        }
        return self.model_dump(exclude=habits)


class Recipe(Settings):
    """What a model card says of the data and of the model's name."""

    name: str = "npssegnet"
    licence: str = "the licence of the data it was trained on"
    data: dict[str, object] = Field(default_factory=dict[str, object])


class Run:
    """A run in progress: the network, its average, its optimiser and how far it has come."""

    def __init__(self, settings: TrainSettings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = _device(settings)
        self.network = _first_network(settings).to(self.device)
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
        theirs = TrainSettings.model_validate_json(str(state["settings"]))
        if (ours := self.settings.lasting()) != theirs.lasting():
            raise ModelError(
                f"{directory} holds a run with other settings; got {ours}, expected "
                f"{theirs.lasting()}; choose another --out or give the same settings"
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
            name=recipe.name,
            architecture=self.settings.architecture,
            data=recipe.data,
            training={
                **self.settings.model_dump(mode="json", exclude={"architecture"}),
                "steps_done": self.step,
                "minutes_spent": round(self.elapsed_s / 60, 1),
                "device": str(self.device),
                "edge_offset": edge_offset,
            },
            licence=recipe.licence,
        )


def _first_network(settings: TrainSettings) -> nn.Module:
    if settings.start is None:
        return build(settings.architecture)
    network, card = checkpoint.load(settings.start)
    if card.architecture != settings.architecture:
        raise ConfigError(
            f"the model to start from, {card.model_id}, is {card.architecture}; expected "
            f"{settings.architecture}; choose another --start or architecture"
        )
    return network


def learn(run: Run, tiles: torch.Tensor, masks: torch.Tensor) -> float:
    """Take one optimiser step on a batch and return its loss."""
    tiles, masks = tiles.to(run.device), masks.to(run.device)
    run.network.train()
    with torch.autocast(run.device.type, torch.bfloat16, enabled=_is_mixed(run)):
        logits = run.network(tiles)  # (B, 2, H, W)
    loss = focal_and_jaccard(logits, masks)
    loss.total.backward()
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise ModelError(
            f"the loss became {loss.total.item()} at step {run.step}; the last saved state is "
            "sound: lower the learning rate, or look for broken images, and start again"
        )
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    blend(run.average, run.network, _decay(run))
    return loss.total.item()


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, progress: float
) -> None:
    """Warm up linearly, then fall as half a cosine to zero at progress 1."""
    if progress < settings.warm_up:
        factor = (progress + 0.01) / (settings.warm_up + 0.01)
    else:
        part = (progress - settings.warm_up) / (1.0 - settings.warm_up)
        factor = 0.5 * (1.0 + math.cos(math.pi * part))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network by 1 - decay, normalisation statistics too."""
    ours, theirs = average.state_dict(), network.state_dict()
    for key, value in theirs.items():
        if value.is_floating_point():
            ours[key].lerp_(value, 1.0 - decay)
        else:
            ours[key].copy_(value)


def _decay(run: Run) -> float:
    """Average over few steps at first, so that random initial weights are soon forgotten."""
    return min(run.settings.average, (1.0 + run.step) / (10.0 + run.step))


def _is_mixed(run: Run) -> bool:
    if run.settings.precision != "auto":
        return run.settings.precision == "bfloat16"
    # Without its instructions a CPU emulates bfloat16, slower than float32.
    return run.device.type == "cuda" or torch.backends.mkldnn.is_available()


def _device(settings: TrainSettings) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ConfigError(
            "device cuda was asked for but torch finds no GPU; use --device cpu"
        )
    if settings.device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    return torch.device(settings.device)
