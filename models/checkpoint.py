"""Models on disk: `model.safetensors` (fp16) beside `card.json`; training state beside both.

The card is the model's passport: what the weights are, what they learnt from, how well they did.
A model is loaded only if weights, card and code belong together.
"""

import hashlib
import json
import logging
import os
import pickle
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from emcopilot import __version__
from emcopilot.confidence import ParticleConfidence
from emcopilot.config import default_data_dir
from emcopilot.durable import give_name
from emcopilot.errors import ModelError
from models import preprocess
from models.npssegnet import Architecture, build

log = logging.getLogger(__name__)

WEIGHTS_FILE, CARD_FILE, STATE_FILE = "model.safetensors", "card.json", "state.pt"
SHIPPED = Path(__file__).parent / "weights"
"""Where the models that come with the product lie, one folder each."""


class Score(BaseModel):
    """One figure, with what it was measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    split: str
    """Which images, e.g. "emps_tem validation by DOI"."""
    count: int
    """How many images."""
    mean: float
    std: float
    """Spread over the images."""


class ModelCard(BaseModel):
    """What a model is, what made it, and what it reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str
    """Name and first 8 digits of the weights' sha256: other weights, another id."""
    sha256: str
    """Of the weights file."""
    architecture: Architecture
    preprocess_version: int
    code_version: str
    licence: str
    data: dict[str, object]
    """Sources, splits and hashes of what was trained on."""
    training: dict[str, object]
    """Settings, seed, steps, minutes."""
    particle_confidence: ParticleConfidence | None = None
    """The map from what these weights show of a particle to the chance that it is one; None where
    none was fitted: the mean probability inside stands for it."""
    scores: tuple[Score, ...] = ()
    limits: str = ""
    """What the model is known to do badly."""


def save(
    directory: Path,
    network: nn.Module,
    *,
    name: str,
    architecture: Architecture,
    data: dict[str, object],
    training: dict[str, object],
    licence: str = "MIT",
    particle_confidence: ParticleConfidence | None = None,
) -> ModelCard:
    """Write weights as fp16 and their card; returns the card.

    The map of confidence holds for the very weights it was fitted to: other weights need another.
    The card goes last and each file is replaced in one step: a kill in between leaves a pair
    that `load` refuses, never one that it takes for a model.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({key: _half(t) for key, t in network.state_dict().items()})
    sha256 = hashlib.sha256(weights).hexdigest()
    card = ModelCard(
        model_id=f"{name}-{sha256[:8]}",
        sha256=sha256,
        architecture=architecture,
        preprocess_version=preprocess.VERSION,
        code_version=__version__,
        licence=licence,
        data=data,
        training=training,
        particle_confidence=particle_confidence,
    )
    write_atomically(directory / WEIGHTS_FILE, weights)
    write_card(directory, card)
    return card


def write_card(directory: Path, card: ModelCard) -> None:
    """Write (or replace) the card of the model in `directory`."""
    text = json.dumps(card.model_dump(mode="json"), indent=1) + "\n"
    write_atomically(directory / CARD_FILE, text.encode())


def load(model: str | Path) -> tuple[nn.Module, ModelCard]:
    """Return a network ready for inference (float32, CPU) and its card.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model ("base") or a directory that holds weights and card.

    Raises
    ------
    ModelError
        If there is no such model, or weights, card and this code do not belong together.
    """
    directory = find(model)
    card = _read_card(directory)
    weights = _read_weights(directory, card)
    network = build(card.architecture)
    expected = network.state_dict()
    if unfit := _differences(expected, weights):
        raise ModelError(
            f"weights of {card.model_id} in {directory} do not fit the network its card names: "
            f"{unfit}; use the weights and card of one training run"
        )
    network.load_state_dict(
        {key: t.to(expected[key].dtype) for key, t in weights.items()}
    )
    return network.eval(), card


def find(model: str | Path) -> Path:
    """Return the directory of a model given by shipped name, by path, or by a registry's id."""
    of_registry = default_data_dir() / "models" / str(model)
    for directory in (SHIPPED / str(model), Path(model), of_registry):
        if (directory / CARD_FILE).is_file():
            return directory
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD_FILE}"))
    raise ModelError(
        f"no model {str(model)!r}: expected a directory with {WEIGHTS_FILE} and {CARD_FILE}, "
        f"one of the shipped models {shipped}, or an id of `emcopilot models list`"
    )


def _read_card(directory: Path) -> ModelCard:
    path = directory / CARD_FILE
    try:
        card = ModelCard.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"unreadable model card {path}: {error}") from error
    if card.preprocess_version != preprocess.VERSION:
        raise ModelError(
            f"{card.model_id} was trained with preprocessing {card.preprocess_version}, this "
            f"program has {preprocess.VERSION}; use a matching model or train it again"
        )
    return card


def _read_weights(directory: Path, card: ModelCard) -> dict[str, Tensor]:
    path = directory / WEIGHTS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read weights {path}: {error.strerror}") from error
    if (got := hashlib.sha256(content).hexdigest()) != card.sha256:
        raise ModelError(
            f"weights {path} have sha256 {got[:16]}..., their card expects {card.sha256[:16]}...; "
            "the file is damaged or belongs to another model: copy both files again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error


def _differences(expected: dict[str, Tensor], got: dict[str, Tensor]) -> str:
    """Say what keeps `got` from fitting; empty if it fits."""
    if unknown := sorted(got.keys() - expected.keys()):
        return f"unknown tensor {unknown[0]} and {len(unknown) - 1} more"
    if missing := sorted(expected.keys() - got.keys()):
        return f"no tensor {missing[0]} and {len(missing) - 1} more"
    for key, tensor in expected.items():
        if tensor.shape != got[key].shape:
            return f"{key}: got {tuple(got[key].shape)}, expected {tuple(tensor.shape)}"
    return ""


def save_state(directory: Path, state: dict[str, object]) -> None:
    """Write what a training run needs to go on after a kill.

    Raises
    ------
    ModelError
        If the disk does not take it; the state before stays.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / STATE_FILE
    part = path.with_suffix(".part")
    try:
        torch.save(state, part)
        give_name(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        part.unlink(missing_ok=True)
        raise ModelError(
            f"cannot write the state of training to {path}: {error}; is the disk full?"
        ) from error


def load_state(directory: Path) -> dict[str, object] | None:
    """Return the state of an interrupted run, or None if there is none to go on from.

    A file that is damaged is set aside: a run that begins anew ends, one that is refused at every
    start never does.

    Raises
    ------
    ModelError
        If the file is whole, but no state, or memory does not hold it.
    """
    path = directory / STATE_FILE
    if not path.is_file():
        return None
    # First: torch checks no sums, and would go on from damaged weights without a word.
    if damage := _damage(path):
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.warning(
            "state of training damaged path=%s reason=%.90s: this training begins anew, the file "
            "is kept as %s",
            path,
            damage,
            aside.name,
        )
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(OSError, EOFError, RuntimeError, ValueError),
        pickle.UnpicklingError,
    ) as error:
        raise ModelError(
            f"the state of training in {path} cannot be loaded: {error!r:.90}; free some "
            "memory and start again, or remove the file to begin this training anew"
        ) from error


def _damage(path: Path) -> str | None:
    """Return what is wrong with an archive's bytes; None: it is whole."""
    try:
        with ZipFile(path) as archive:
            torn = archive.testzip()
    except (
        *(OSError, EOFError, BadZipFile, zlib.error),
        # What single bytes in its lists make of them: methods, flags and places that are not.
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        return repr(error)
    return f"the sum of {torn} is another" if torn else None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, and a power cut, leave the old content or the new."""
    part = path.with_suffix(f".part{os.getpid()}")
    part.write_bytes(content)
    give_name(part, path)


def _half(tensor: Tensor) -> Tensor:
    """Halve the kernels; the few numbers per channel (normalisation) keep their range."""
    values = tensor.detach().cpu().contiguous()
    return values.half() if values.is_floating_point() and values.ndim > 1 else values
