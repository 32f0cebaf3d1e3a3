"""What decides a training run beside its data, and the presets that people start from."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from emcopilot.config import Settings, load_settings, read_toml
from models.augmentation import Look
from models.losses import AreasOver
from models.npssegnet import NPSSEGNET, Architecture
from models.precision import Precision


class TrainSettings(Settings):
    """Everything that decides a training run, beside its data."""

    architecture: Architecture = Architecture()
    start: str | None = None
    """A model whose weights the run starts from, by name or directory; random if none."""
    minutes: float | None = Field(default=None, gt=0)
    """Budget on the clock; leaves `epochs` and `steps` out of account."""
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes: one draws as many tiles as there are frames. Leaves out `steps`."""
    steps: int = Field(default=20_000, ge=1)
    batch: int = Field(default=4, ge=2)
    """Tiles in a step; batch normalisation needs two or more."""
    tile_px: int = Field(default=256, ge=32, multiple_of=32)
    look: Look = "other microscopes"
    """How tiles are made to differ from the frames they are cut from."""
    areas_over: AreasOver = "tile"
    """Whether the Jaccard term weighs every tile alike or every pixel of a batch."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """At its peak: after the warm-up, before the decay."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How the rate falls: half a cosine to zero, or by a tenth every five epochs."""
    weight_decay: float = Field(default=5e-4, ge=0)
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Part of the budget over which the learning rate rises."""
    average: float = Field(default=0.995, ge=0, lt=1)
    """Decay per step of the moving average over weights; 0 keeps the last weights."""
    centre_edges: bool = True
    """Whether the finished model's edges are centred on the masks' (`edges.py`)."""
    precision: Precision = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 leaves the choice to torch."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that cut tiles; by default none beside a CPU, up to 8 beside a GPU."""
    seed: int = 0
    report_every: int = Field(default=50, ge=1)
    judge_every: int = Field(default=250, ge=1)
    """Steps between two looks at the held-out frames."""
    save_every_s: float = Field(default=300.0, gt=0)
    """State and a model of the moment are written this often, and at the end."""

    @model_validator(mode="after")
    def _steps_need_epochs(self) -> Self:
        if self.schedule == "steps" and self.epochs is None:
            raise ValueError('schedule "steps" counts epochs: give epochs')
        return self

    def for_frames(self, frames: int) -> Self:
        """Turn a budget in epochs over so many frames into steps."""
        if self.epochs is None:
            return self
        steps = math.ceil(self.epochs * frames / self.batch)
        return self.model_copy(update={"steps": max(1, steps)})

    def lasting(self) -> dict[str, object]:
        """Return what must not change when a run is resumed: all but budget, place and habits.

        `start` is a place; what must not change is the model there: see `models.training.Run`.
        """
        habits = {
            "start", "minutes", "steps", "device", "threads", "workers",
            "report_every", "judge_every", "save_every_s",
        }  # fmt: skip
        return self.model_dump(exclude=habits)


class Recipe(Settings):
    """What a model card says of the data and of the model's name."""

    name: str | None = None
    """Of the model; by default its network's."""
    licence: str = "the licence of the data it was trained on"
    data: dict[str, object] = Field(default_factory=dict[str, object])


PRESETS = {
    "standard": TrainSettings(architecture=NPSSEGNET),
    "paper": TrainSettings(
        architecture=Architecture(dropout=0.0),
        epochs=150,
        tile_px=512,
        look="paper",
        areas_over="batch",
        schedule="steps",
        warm_up=0.0,
        average=0.0,
        centre_edges=False,
    ),
}
"""`standard` trains NPsSegNet. `paper` trains what the paper did and as it did: plain UNet++,
without local contrast or dropout; AdamW at 3e-4, a tenth less every 5 epochs, 150 epochs, batches
of 4 at 512 x 512."""


BUDGETS = frozenset({"minutes", "epochs", "steps"})


def chosen_settings(
    preset: str, path: Path | None, overrides: dict[str, object]
) -> TrainSettings:
    """Lay a TOML file over a preset and the command line over both.

    A layer that names a budget replaces the budgets of the layers below it, whatever their kind.
    A baseline is shown no local contrast unless the file says so: that is NPsSegNet's own.

    Raises
    ------
    ConfigError
        If a key is unknown or a value out of range.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    file = read_toml(path) if path else {}
    base = PRESETS[preset].model_dump(exclude_unset=True)
    if BUDGETS & (file.keys() | given.keys()):
        base = {key: value for key, value in base.items() if key not in BUDGETS}
    if _network_named(given, file) not in (None, NPSSEGNET.name):
        plain = {"local_contrast_px": 0}
        base["architecture"] = PRESETS[preset].architecture.model_dump() | plain
    settings = load_settings(TrainSettings, path, given, base=base)
    if not BUDGETS & given.keys():
        return settings
    stale = BUDGETS - given.keys()
    return load_settings(
        TrainSettings, overrides=settings.model_dump(exclude=set(stale))
    )


def _network_named(*layers: Mapping[str, object]) -> object:
    """Return the name of the network in the first layer that gives one, None if none does."""
    for layer in layers:
        architecture = layer.get("architecture")
        if isinstance(architecture, Mapping) and "name" in architecture:
            return architecture["name"]
    return None


def network_name(architecture: Architecture) -> str:
    """Name a network; NPsSegNet is the UNet++ that is shown local contrast."""
    is_ours = architecture.name == NPSSEGNET.name and architecture.local_contrast_px
    return "npssegnet" if is_ours else architecture.name
