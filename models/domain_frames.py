"""The unlabelled frames that a job learns from: found, read, normalised, evenly chosen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import AdaptationError, ConfigError, DecodeError
from models.datasets import SUFFIXES, read_pixels
from models.preprocess import normalise

FEWEST = 5
"""Below it pix2pix has nothing to learn a look from, as in the paper."""
LEAST_SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class DomainFrame:
    """One real frame of the domain."""

    name: str
    """The file's stem."""
    file: str
    pixels: NDArray[np.float32]
    """Shape (H, W), normalised."""


def frame_files(folder: Path, most: int) -> list[Path]:
    """Find the frames of a folder, in order of their names; of more than `most`, evenly spread.

    Raises
    ------
    ConfigError
        If there is no such folder, or two files share a stem.
    AdaptationError
        If it holds fewer than 5 files that may be frames.
    """
    if not folder.is_dir():
        raise ConfigError(f"no such folder of frames: {folder}")
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    stems = [path.stem for path in files]
    if doubled := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise ConfigError(
            f"{folder} holds {doubled} more than once, as files of several kinds; keep one: else "
            "a frame would be learnt from and judged by"
        )
    if len(files) < FEWEST:
        raise AdaptationError(
            f"{folder} holds {len(files)} frames; a domain is learnt from {FEWEST} or more: "
            "acquire some, or name another folder"
        )
    chosen = np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)
    return [files[n] for n in chosen]


def read_domain(files: list[Path]) -> tuple[list[DomainFrame], dict[str, str]]:
    """Read and normalise frames; returns them, and why each of the others is left out, by name.

    Raises
    ------
    AdaptationError
        If fewer than 5 are of use: the message names the first that is not, and why.
    """
    frames: list[DomainFrame] = []
    left_out: dict[str, str] = {}
    for path in files:
        try:
            pixels = read_pixels(path)
        except DecodeError as error:
            left_out[path.name] = str(error)
            continue
        if reason := _why_useless(pixels):
            left_out[path.name] = reason
        else:
            frames.append(DomainFrame(path.stem, path.name, normalise(pixels)))
    if len(frames) < FEWEST:
        first = next(iter(left_out.items()))
        raise AdaptationError(
            f"{len(frames)} of {len(files)} frames are of use, expected {FEWEST} or more; "
            f"{first[0]}: {first[1]}"
        )
    return frames, left_out


def _why_useless(pixels: NDArray[np.generic]) -> str:
    """Return what keeps a frame from being learnt from, empty if nothing does."""
    if min(pixels.shape) < LEAST_SIDE_PX:
        return f"{pixels.shape[1]} x {pixels.shape[0]} px, expected {LEAST_SIDE_PX} or more a side"
    values = np.asarray(pixels, np.float64)
    finite = values[np.isfinite(values)]
    if finite.size < values.size / 2:
        return "most pixels are no numbers"
    low, high = np.percentile(finite, (0.5, 99.5))
    if high <= low:
        return "blank: all pixels are alike"
    if np.mean(finite == finite.max()) > 0.5 or np.mean(finite == finite.min()) > 0.5:
        return "saturated: more than half of the pixels are at one end"
    return ""
