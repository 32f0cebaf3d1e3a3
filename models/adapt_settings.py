"""What decides an adaptation job, and the presets that people start from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from emcopilot.config import Settings, load_settings, read_toml
from models.gan_settings import CYCLEGAN, PIX2PIX, GanSettings
from models.npssegnet import NPSSEGNET
from models.train_settings import BUDGETS, TrainSettings

Preset = Literal["quick", "standard", "paper"]
How = Literal["auto", "incumbent", "sam", "classical"]


_PLACES = ("frames", "out", "sam", "inception")
_MODELS = ("model", "incumbent")
_PASSING = ("device", "domain", "domain_key")


class AdaptSettings(Settings):
    """Everything that decides an adaptation job, beside the frames' content."""

    frames: Path
    """Folder of unlabelled frames of one domain."""
    out: Path
    """The job's folder; it becomes the candidate, a model directory."""
    domain: str = Field(default="", max_length=200)
    """What the domain is called, for people; by default, after its frames' content."""
    domain_key: str = Field(default="", max_length=200)
    """What tells the domain from others of its name, where a server keeps them: its frozen frames
    are kept by it. By default, the name."""
    preset: Preset = "standard"
    """Where the other settings start."""
    model: str = "base"
    """By name or directory: rough masks and training start from it."""
    incumbent: str | None = None
    """The live model, where that is another: the candidate is judged against it."""
    rough: How = "auto"
    """Who makes the rough masks; "auto" takes the incumbent's where they hold up."""
    sam: Path | None = None
    """Folder of SAM's weights, for `rough = "sam"`."""
    inception: Path | None = None
    """Weights of Inception v3, for FID and IS; without, distances are taken in the incumbent's
    features."""
    most_frames: int = Field(default=200, ge=5)
    """Of more, so many are taken, evenly spread."""
    painted: int = Field(default=8, ge=5)
    """Subset 1: frames whose rough masks pix2pix learns from."""
    held_back: int = Field(default=8, ge=2)
    """Frames that no network learns from: by them checkpoints are chosen, and the candidate is
    judged."""
    synthetic: int = Field(default=200, ge=8)
    """Frames of the labelled synthetic set."""
    crowded: float = Field(default=0.15, ge=0, lt=0.5)
    """Share of them, at most, that may hold many more particles than rough masks say; never more
    than the share of frames in which nothing was found, for on crowded ones cuts fail first."""
    side_px: int = Field(default=512, ge=96, multiple_of=32)
    """Of a synthetic frame."""
    most_lost: float = Field(default=0.05, ge=0, le=1)
    """Overlap with its mask that a frame may lose in translation; with more it is left out."""
    rehearsal: float = Field(default=0.5, ge=0, lt=1)
    """Share of training tiles that show simulated frames of any kind, against forgetting."""
    real: float = Field(default=0.5, ge=0, lt=1)
    """Share of the other tiles that show the domain's real frames with their rough masks, beside
    synthetic ones: a few painted frames do not show all that a domain holds."""
    rounds: int = Field(default=1, ge=1, le=5)
    """Each makes its rough masks with the model of the one before."""
    pix2pix: GanSettings = GanSettings()
    cyclegan: GanSettings = GanSettings()
    train: TrainSettings = TrainSettings()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=0, ge=0)

    def lasting(self) -> dict[str, object]:
        """Return what must not change when a job is resumed: all but places and device.

        What lies in the places must not change either: see `models.job_folder`.
        """
        stages = {"pix2pix", "cyclegan", "train"}
        plain = self.model_dump(
            mode="json", exclude={*_PASSING, *_PLACES, *_MODELS, *stages}
        )
        return plain | {name: getattr(self, name).lasting() for name in sorted(stages)}


_TRAIN = TrainSettings(architecture=NPSSEGNET, learning_rate=2e-4, save_every_s=120)

PRESETS: dict[Preset, dict[str, object]] = {
    "quick": {
        "most_frames": 100,
        "painted": 8,
        "held_back": 6,
        "synthetic": 64,
        "side_px": 256,
        "pix2pix": PIX2PIX["quick"],
        "cyclegan": CYCLEGAN["quick"],
        "train": _TRAIN.model_copy(update={"steps": 320, "tile_px": 256, "batch": 4}),
    },
    "standard": {
        "painted": 12,
        "synthetic": 300,
        "pix2pix": PIX2PIX["standard"],
        "cyclegan": CYCLEGAN["standard"],
        "train": _TRAIN.model_copy(
            update={"steps": 1200, "tile_px": 384, "batch": 8, "workers": 8}
        ),
    },
    "paper": {
        "painted": 5,
        "synthetic": 1000,
        "crowded": 0.0,
        "rehearsal": 0.0,
        "pix2pix": PIX2PIX["paper"],
        "cyclegan": CYCLEGAN["paper"],
        "train": TrainSettings(
            architecture=NPSSEGNET,
            epochs=150,
            tile_px=512,
            look="paper",
            areas_over="batch",
            schedule="steps",
            warm_up=0.0,
            average=0.0,
        ),
    },
}
"""`paper` follows the paper's figures; `standard` is for one GPU, `quick` for two CPU cores."""


def chosen_job(path: Path | None, given: dict[str, object]) -> AdaptSettings:
    """Lay a TOML file over its preset and the command line over both.

    Relative places in the file are taken from the file's own folder, so that a job's folder can be
    moved, and run wherever it lies.

    Raises
    ------
    ConfigError
        If a key is unknown or a value out of range.
    """
    file = read_toml(path) if path else {}
    placed = _placed(file, path.resolve().parent) if path else {}
    preset = given.get("preset") or file.get("preset") or "standard"
    known: dict[str, object] = dict(PRESETS.get(str(preset), {}))  # pyright: ignore[reportArgumentType, reportCallIssue]
    base: dict[str, object] = {}
    for key, value in known.items():
        if not isinstance(value, Settings):
            base[key] = value
            continue
        table, above = value.model_dump(exclude_unset=True), file.get(key)
        # A budget in the file replaces the preset's, whatever its kind.
        stale = BUDGETS if isinstance(above, dict) and BUDGETS & above.keys() else set()
        base[key] = {name: part for name, part in table.items() if name not in stale}
    said = {key: value for key, value in given.items() if value is not None}
    job = load_settings(AdaptSettings, path, placed | said, base=base)
    return _with_seed_and_device(job)


def _placed(file: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return the places that a file names, as seen from its folder."""
    placed: dict[str, object] = {
        key: str(folder / place)
        for key in _PLACES
        if isinstance(place := file.get(key), str)
    }
    for key in _MODELS:
        name = file.get(key)
        # A shipped model's name is no place.
        if isinstance(name, str) and (folder / name).is_dir():
            placed[key] = str(folder / name)
    return placed


def _with_seed_and_device(job: AdaptSettings) -> AdaptSettings:
    """Hand the job's seed and device down to its stages, which have fields of their own."""
    down = {"seed": job.seed, "device": job.device}
    stages = {
        name: getattr(job, name).model_copy(update=down)
        for name in ("pix2pix", "cyclegan", "train")
    }
    return job.model_copy(update=stages)
