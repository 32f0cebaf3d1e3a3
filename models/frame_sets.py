"""Sets of frames on disk, as stages of a job leave them for the next: one archive a set.

An archive is written beside its name and moved there when it is whole: what is there under its own
name was finished.
"""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from emcopilot.durable import give_name
from emcopilot.errors import AdaptationError
from models.datasets import LabelledFrame


def save_frames(path: Path, frames: Sequence[LabelledFrame]) -> None:
    """Write a set; a disk that is full leaves nothing under its name.

    Raises
    ------
    AdaptationError
        If the disk does not take it.
    """
    part = path.with_suffix(".part")
    arrays = {"names": np.array([frame.name for frame in frames])}
    for number, frame in enumerate(frames):
        arrays[f"pixels{number}"] = frame.pixels
        arrays[f"shape{number}"] = np.array(frame.mask.shape)
        arrays[f"mask{number}"] = np.packbits(frame.mask)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        give_name(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise AdaptationError(
            f"cannot write {path}: {error.strerror}; free some room and start the job again: it "
            "goes on where it was"
        ) from error


def load_frames(path: Path) -> list[LabelledFrame]:
    """Read a set.

    Raises
    ------
    AdaptationError
        If there is no whole set in the file.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [
                LabelledFrame(
                    str(name),
                    arrays[f"pixels{number}"],
                    _unpacked(arrays[f"mask{number}"], arrays[f"shape{number}"]),
                )
                for number, name in enumerate(arrays["names"])
            ]
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise AdaptationError(
            f"{path} holds no set of frames: {error}; remove it, and the job makes it anew"
        ) from error


def _unpacked(
    bits: np.ndarray[tuple[int], np.dtype[np.uint8]],
    shape: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    height, width = (int(side) for side in shape)
    flat = np.unpackbits(bits, count=height * width)
    return flat.reshape(height, width).astype(bool)
