"""A model as one file: a stored zip of weights, card, manifest and golden masks.

An archive comes from anywhere. Names are checked against a list, sizes before anything is read,
checksums while it is copied; nothing in it is believed before all of that holds.
"""

import hashlib
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from emcopilot.errors import ModelError
from gpu_server.golden import Masks, masks_bytes, read_masks
from gpu_server.model_files import (
    CARD_FILE,
    WEIGHTS_FILE,
    UnfitModelError,
    checked_card,
    is_model_file,
    model_files,
    sha256_of,
    sync_folder,
)

MAX_ARCHIVE_BYTES = 2**30
"""Ten times the paper's network."""
MANIFEST, GOLDEN_FILE = "manifest.json", "golden.npz"

_MAX_MANIFEST_BYTES = 2**20
_MAX_ENTRIES = 32
_MAX_DIRECTORY_BYTES = 64 * 2**10
"""Of the zip's list of contents."""
_MAX_READ_BYTES = {GOLDEN_FILE: 4 * 2**20, "report.json": 16 * 2**20}
"""Of files that are read whole."""
_ZIP_END = struct.Struct("<4s8xLLH")
"""How a zip ends: a mark, counts, size and place of the list of contents, length of a comment."""
_ZIP64_MARK_BYTES = 20
_CHUNK_BYTES = 2**20


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: NonNegativeInt


class Manifest(BaseModel):
    """What an archive holds: every other file, its size and checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: str = Field(default="emcopilot-model", pattern="^emcopilot-model$")
    version: int = Field(default=1, ge=1, le=1)
    model_id: str
    files: dict[str, _Entry] = Field(max_length=_MAX_ENTRIES)


def write_archive(target: Path, folder: Path, masks: Masks) -> None:
    """Write the model in `folder` to one file, whole or not at all.

    Raises
    ------
    ModelError
        If the model is not whole, or the disk does not take the file.
    """
    card = checked_card(folder)
    golden = masks_bytes(masks)
    entries = {
        path.name: _Entry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in model_files(folder)
    }
    entries[GOLDEN_FILE] = _Entry(
        sha256=hashlib.sha256(golden).hexdigest(), bytes=len(golden)
    )
    manifest = Manifest(model_id=card.model_id, files=entries)
    part = target.with_name(f"{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            # First, so that a look at the beginning tells what it is.
            archive.writestr(MANIFEST, manifest.model_dump_json(indent=1))
            archive.writestr(GOLDEN_FILE, golden)
            for path in model_files(folder):
                archive.write(path, path.name)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(
            f"cannot write {target}: {error.strerror}; is the disk full?"
        ) from error


def unpack(source: Path, staged: Path) -> Masks | None:
    """Lay a checked archive's model out in a new folder.

    Returns
    -------
    dict of bool arrays, or None
        What the model made of the golden frames where it comes from, if the archive says.

    Raises
    ------
    UnfitModelError
        If it is no archive of a model, or damaged.
    ModelError
        If the disk does not take it. Either way nothing of it stays.
    """
    try:
        _require_short_list(source)
        staged.mkdir(parents=True)
        with zipfile.ZipFile(source) as archive:
            masks = _lay_out(archive, staged)
        sync_folder(staged)
    except zipfile.BadZipFile as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise UnfitModelError(f"not a whole model archive: {error}") from error
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ModelError(
            f"cannot unpack a model: {error.strerror or error}; is the disk full?"
        ) from error
    except ModelError:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return masks


def _require_short_list(source: Path) -> None:
    """Refuse a list of contents of millions, before `zipfile` makes an object of each."""
    with source.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _ZIP_END.size - _ZIP64_MARK_BYTES))
        tail = file.read()
    if len(tail) < _ZIP_END.size:
        raise UnfitModelError(f"not a whole model archive: it has {length} bytes")
    mark, list_bytes, _, comment_bytes = _ZIP_END.unpack(tail[-_ZIP_END.size :])
    # A longer, 64-bit end before this one would tell other sizes.
    if mark != b"PK\5\6" or comment_bytes or tail.startswith(b"PK\6\7"):
        raise UnfitModelError(
            "not a whole model archive: its end is not one that `emcopilot models export` writes"
        )
    if list_bytes > _MAX_DIRECTORY_BYTES:
        raise UnfitModelError(
            f"its list of contents has {list_bytes} bytes, expected at most "
            f"{_MAX_DIRECTORY_BYTES}: that is no model's archive"
        )


def _lay_out(archive: zipfile.ZipFile, staged: Path) -> Masks | None:
    entries = _checked_entries(archive)
    manifest = _manifest(archive, entries)
    _require_same_names(set(manifest.files), set(entries) - {MANIFEST})
    for name, told in manifest.files.items():
        entry = entries[name]
        if entry.file_size != told.bytes:
            raise UnfitModelError(
                f"{name} has {entry.file_size} bytes, the manifest says {told.bytes}"
            )
        _copy(archive, entry, staged / name, told.sha256)
    card = checked_card(staged)
    if card.model_id != manifest.model_id:
        raise UnfitModelError(
            f"the card is of {card.model_id}, the manifest of {manifest.model_id}"
        )
    golden = staged / GOLDEN_FILE
    if not golden.exists():
        return None
    data = golden.read_bytes()
    golden.unlink()
    return read_masks(data)


def _checked_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name, none of which leads anywhere or grows when it is read."""
    found = archive.infolist()
    if len(found) > _MAX_ENTRIES:
        raise UnfitModelError(f"{len(found)} files, expected at most {_MAX_ENTRIES}")
    for entry in found:
        if not (
            is_model_file(entry.filename) or entry.filename in {MANIFEST, GOLDEN_FILE}
        ):
            raise UnfitModelError(
                f"{entry.filename[:80]!r} does not belong in a model's archive; expected "
                f"{WEIGHTS_FILE}, {CARD_FILE}, {MANIFEST} and {GOLDEN_FILE}"
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
            raise UnfitModelError(
                f"{entry.filename} is compressed or encrypted; expected stored files, as "
                "`emcopilot models export` writes them"
            )
        if entry.file_size > _MAX_READ_BYTES.get(entry.filename, entry.file_size):
            raise UnfitModelError(
                f"{entry.filename} has {entry.file_size} bytes, too many for what it is"
            )
    total = sum(entry.file_size for entry in found)
    if total > MAX_ARCHIVE_BYTES:
        raise UnfitModelError(
            f"{total} bytes in all, expected at most {MAX_ARCHIVE_BYTES}"
        )
    names = {entry.filename: entry for entry in found}
    if len(names) != len(found):
        raise UnfitModelError("a name stands in it twice; export the model again")
    return names


def _manifest(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]
) -> Manifest:
    if MANIFEST not in entries:
        raise UnfitModelError(
            f"no {MANIFEST}: this is no model; make one with `emcopilot models export`"
        )
    if entries[MANIFEST].file_size > _MAX_MANIFEST_BYTES:
        raise UnfitModelError(f"{MANIFEST} is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        return Manifest.model_validate_json(archive.read(entries[MANIFEST]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UnfitModelError(f"{MANIFEST}: {where}: {first['msg']}") from error


def _require_same_names(listed: set[str], there: set[str]) -> None:
    if listed != there:
        raise UnfitModelError(
            f"{MANIFEST} lists {json.dumps(sorted(listed))[:400]}, the archive holds "
            f"{sorted(there)}"
        )
    if missing := {WEIGHTS_FILE, CARD_FILE} - there:
        raise UnfitModelError(f"no {sorted(missing)[0]} in the archive")
    # Only after the names are known to be ours: they become file names.


def _copy(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, sha256: str
) -> None:
    digest = hashlib.sha256()
    with archive.open(entry) as source, target.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != sha256:
        raise UnfitModelError(
            f"{entry.filename} has sha256 {digest.hexdigest()[:16]}..., the manifest expects "
            f"{sha256[:16]}...; it was damaged on its way: copy the archive again"
        )
