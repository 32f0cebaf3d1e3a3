"""A model's folder as the API process sees it: names, sizes, checksums; never tensors.

Whether code, card and weights work together is found out in an inference child: this process
never loads torch.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emcopilot.durable import sync
from emcopilot.errors import ModelError

WEIGHTS_FILE, CARD_FILE = "model.safetensors", "card.json"
STAGED = ".part"
"""Ends the name of a folder that is being written: never a model, and gone after a restart."""
MAX_CARD_BYTES = 4 * 2**20

_FILE = re.compile(
    r"(model\.safetensors|card\.json|(seen|report|replay)\.[a-z0-9]{1,12})"
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Card(BaseModel):
    """What the registry reads of a model's card; the child reads all of it."""

    model_config = ConfigDict(
        frozen=True, extra="allow", protected_namespaces=(), str_max_length=2**20
    )

    model_id: str = Field(pattern=rf"^{_ID.pattern}$")
    """Becomes a folder's name, so nothing in it may lead elsewhere."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class UnfitModelError(ModelError):
    """A folder or archive that is not a whole, working model: refused, nothing is kept."""


def is_model_file(name: str) -> bool:
    """Say whether a file of this name belongs to a model."""
    return _FILE.fullmatch(name) is not None


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model: weights and card, and what was seen and reported."""
    return sorted(
        path for path in folder.iterdir() if is_model_file(path.name) and path.is_file()
    )


def read_card(folder: Path) -> Card:
    """Read a card without believing it yet.

    Raises
    ------
    UnfitModelError
        If there is none, or it names no model.
    """
    path = folder / CARD_FILE
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise UnfitModelError(
                f"card {path.name} has {path.stat().st_size} bytes, expected at most "
                f"{MAX_CARD_BYTES}: that is no model's card"
            )
        return Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UnfitModelError(
            f"no model in {folder.name}: {CARD_FILE}: {error.strerror}; expected "
            f"{WEIGHTS_FILE} and {CARD_FILE}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UnfitModelError(
            f"{CARD_FILE} is not the card of a model: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; export the model again"
        ) from error


def checked_card(folder: Path) -> Card:
    """Read a card whose weights have the checksum that it names.

    Raises
    ------
    UnfitModelError
        If weights or card are missing, damaged or strangers to each other.
    """
    card = read_card(folder)
    try:
        got = sha256_of(folder / WEIGHTS_FILE)
    except OSError as error:
        raise UnfitModelError(
            f"model {card.model_id} has no weights: {WEIGHTS_FILE}: {error.strerror}"
        ) from error
    if got != card.sha256:
        raise UnfitModelError(
            f"weights of {card.model_id} have sha256 {got[:16]}..., its card expects "
            f"{card.sha256[:16]}...: they are damaged or another model's; copy both again"
        )
    return card


def sha256_of(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_model(source: Path, staged: Path) -> None:
    """Copy a model's files into a new folder, on disk when this returns.

    Raises
    ------
    ModelError
        If the disk does not take them; nothing of it stays.
    """
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        for path in model_files(source):
            shutil.copyfile(path, staged / path.name)
        sync_folder(staged)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ModelError(
            f"cannot write a model to {staged.parent}: {error.strerror}; is the disk full?"
        ) from error


def sync_folder(folder: Path) -> None:
    """Have a folder's files and names on disk."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def put_in_place(staged: Path, folder: Path) -> None:
    """Give a staged folder its name, in one step and on disk; what had the name before goes.

    Raises
    ------
    ModelError
        If the disk refuses.
    """
    try:
        if folder.exists():  # without a row, or of a deleted model: nobody's
            aside = folder.with_name(f"{folder.name}.old{STAGED}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        staged.rename(folder)
        sync(folder.parent)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ModelError(f"cannot name {folder}: {error.strerror}") from error


def shipped_folders() -> Iterator[tuple[str, Path]]:
    """Yield name and folder of each model that came with the product."""
    # Found, not imported: importing it would load torch.
    found = find_spec("models")
    if found is None or not found.submodule_search_locations:
        return
    weights = Path(found.submodule_search_locations[0]) / "weights"
    for path in sorted(weights.glob(f"*/{CARD_FILE}")):
        yield path.parent.name, path.parent
