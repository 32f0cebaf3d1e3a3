"""Labelled micrographs: found by stem, split by origin, kept ready for cutting tiles.

Frames are normalised once, whole, by the same function as in live inference, and tiles are cut
from them; a tile is never normalised by itself.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from emcopilot.errors import ConfigError, DecodeError
from models.preprocess import normalise

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_LUMINANCE = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 weights of red, green and blue."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where one image and its mask lie."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """The stem that both files share."""
        return self.image.stem


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """One normalised frame and what is particle in it."""

    name: str
    pixels: NDArray[np.float16]
    """Shape (H, W), normalised; half precision because hundreds are held in memory."""
    mask: NDArray[np.bool_]
    """Shape (H, W), True where there is a particle."""


def find_pairs(images: Path, masks: Path) -> list[Pair]:
    """Match the images of one folder with the masks of another by file stem.

    Raises
    ------
    ConfigError
        If a folder is missing, a stem is doubled, or an image has no mask: training or
        judging on a part of what was meant would give a figure nobody asked for.
    """
    image_files, mask_files = _by_stem(images), _by_stem(masks)
    lonely = sorted(image_files.keys() - mask_files.keys())
    if not image_files or lonely:
        found = f"{len(image_files)} images, {len(lonely)} of them without a mask"
        example = f" (first: {lonely[0]})" if lonely else ""
        raise ConfigError(
            f"images in {images} and masks in {masks} must share their stems; got {found}"
            f"{example}; name the mask of a.tif a.png or a.tif"
        )
    return [Pair(image_files[stem], mask_files[stem]) for stem in sorted(image_files)]


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in files:
            raise ConfigError(
                f"{files[path.stem].name} and {path.name} in {folder} share a stem; "
                "keep one of them"
            )
        files[path.stem] = path
    return files


def read_pixels(path: Path) -> NDArray[np.generic]:
    """Read one image or mask file as (H, W) in its own dtype; colour becomes luminance.

    Raises
    ------
    DecodeError
        If the file is not a readable 2-D image.
    """
    try:
        if path.suffix.lower() in {".tif", ".tiff"}:
            pixels = tifffile.imread(path, key=0)
        else:
            with Image.open(path) as picture:
                is_palette = picture.mode in {"P", "1"}
                pixels = np.asarray(picture.convert("L") if is_palette else picture)
    except (OSError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise DecodeError(f"cannot read the image {path}: {error}") from error
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        return pixels[..., :3] @ _LUMINANCE
    if pixels.ndim == 3:  # grey with alpha
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise DecodeError(f"{path} is not a 2-D image: its shape is {pixels.shape}")
    return pixels


def read_pair(pair: Pair) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Return the detector counts (H, W) and the mask (H, W), any value above 0 is particle.

    Raises
    ------
    DecodeError
        If a file is unreadable or the two shapes differ.
    """
    pixels, marks = read_pixels(pair.image), read_pixels(pair.mask)
    if pixels.shape != marks.shape:
        raise DecodeError(
            f"{pair.image.name} is {pixels.shape} px but its mask is {marks.shape}; "
            "draw the mask at the image's own size"
        )
    return pixels, np.asarray(marks, np.float64) > 0


def label(
    name: str, pixels: NDArray[np.generic], mask: NDArray[np.bool_]
) -> LabelledFrame:
    """Normalise a frame and keep it with its mask."""
    return LabelledFrame(name, normalise(pixels).astype(np.float16), mask)


def load_frames(pairs: Iterable[Pair], threads: int = 2) -> list[LabelledFrame]:
    """Read, normalise and keep every pair, in order."""

    def load(pair: Pair) -> LabelledFrame:
        return label(pair.name, *read_pair(pair))

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(load, pairs))


def is_held_out(origin: str, *, seed: int = 0, fraction: float = 0.2) -> bool:
    """Say whether everything of one origin (a paper, a sample, a stem) is validation data.

    Decided by a hash of the origin alone, so that adding images never moves one across.
    """
    digest = hashlib.sha256(f"{seed}:{origin}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def data_hash(frames: Sequence[LabelledFrame]) -> str:
    """Return a sha256 over names, pixels and masks: what a model was trained on."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.name.encode())
        digest.update(np.ascontiguousarray(frame.pixels).tobytes())
        digest.update(np.packbits(frame.mask).tobytes())
    return digest.hexdigest()
