"""Labelled micrographs: found by stem, split by origin, kept ready for cutting tiles.

Frames are normalised once, whole, by the same function as in live inference, and tiles are cut
from them; a tile is never normalised by itself.
"""

import hashlib
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emcopilot.decode import open_frames
from emcopilot.errors import ConfigError, DecodeError
from emcopilot.formats.pixels import as_image
from emcopilot.formats.sniff import EXTENSIONS
from models.preprocess import normalise

BITMAP = ".bmp"
"""No microscope writes it, so `decode` does not read it; tools that draw masks do."""
PICTURES = frozenset({".png", ".jpg", ".jpeg", BITMAP})
SUFFIXES = frozenset({f".{name}" for name in EXTENSIONS} | {BITMAP}) - {".emi"}
"""What a folder is searched for; the images of an .emi lie in the .ser beside it."""

_decoding = threading.Lock()
"""`decode` silences its parsers for the whole process, and may do so for one file at a time."""
_MOST_NAMED = 5
"""Bad files that an error spells out; the others are counted."""
_MOST_EXACT = 2.0**53
"""Below it every whole number has a float64 of its own."""


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
    found = match_stems(images, masks, SUFFIXES, truth="mask")
    return [Pair(image, mask) for image, mask in found]


def match_stems(
    images: Path, truths: Path, suffixes: frozenset[str], *, truth: str
) -> list[tuple[Path, Path]]:
    """Match images with the files of another folder by stem; `truth` names those to people.

    Raises
    ------
    ConfigError
        As `find_pairs`.
    """
    image_files, truth_files = _by_stem(images, SUFFIXES), _by_stem(truths, suffixes)
    lonely = sorted(image_files.keys() - truth_files.keys())
    if not image_files or lonely:
        found = f"{len(image_files)} images, {len(lonely)} of them without a {truth}"
        example = f" (first: {lonely[0]})" if lonely else ""
        endings = " or ".join(
            f"a{s}" for s in (".png", ".tif", ".csv") if s in suffixes
        )
        raise ConfigError(
            f"images in {images} and {truth}s in {truths} must share their "
            f"stems; got {found}{example}; name the {truth} of a.tif {endings}"
        )
    return [(image_files[stem], truth_files[stem]) for stem in sorted(image_files)]


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # A name that starts with a dot is a file system's own: "._a.tif" is no image.
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise ConfigError(
                f"{files[path.stem].name} and {path.name} in {folder} share a stem; "
                "keep one of them"
            )
        files[path.stem] = path
    return files


def read_pixels(path: Path) -> NDArray[np.generic]:
    """Read the first frame of a file as the live path does: (H, W) in its own dtype.

    Raises
    ------
    DecodeError
        If the file is not a readable 2-D image.
    """
    if path.suffix.lower() == BITMAP:
        return as_image(_read_picture(path))[0]
    try:
        with _decoding, open_frames(path) as file:
            return file.read(0).pixels
    except DecodeError as error:
        raise DecodeError(f"cannot read the image {path}: {error}") from error


def read_marks(path: Path) -> NDArray[np.generic]:
    """Read a mask file as (H, W); what was drawn is above 0, and numbers stay as they are.

    Colour counts as drawn whatever its hue: luminance would round a dark blue to nothing.
    Whole numbers come as integers even if the file holds them as floats.

    Raises
    ------
    DecodeError
        If the file is not a readable 2-D image.
    """
    if path.suffix.lower() in PICTURES:
        marks = _read_picture(path)
        return marks if marks.ndim == 2 else _brightest_colour(marks)
    marks = read_pixels(path)
    if not np.issubdtype(marks.dtype, np.floating):
        return marks
    is_whole = (marks == np.rint(marks)) & (np.abs(marks) < _MOST_EXACT)
    return marks.astype(np.int64) if is_whole.all() else marks


def _read_picture(path: Path) -> NDArray[np.generic]:
    """Read a picture as stored, (H, W) or (H, W, samples); a palette becomes its colours."""
    try:
        with Image.open(path) as picture:
            is_coded = picture.mode in {"P", "CMYK", "YCbCr"}
            return np.asarray(picture.convert("RGB") if is_coded else picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"cannot read the image {path}: {error}") from error


def _brightest_colour(samples: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return (H, W) of (H, W, samples); the last of two or four is alpha."""
    colours = samples.shape[2] - (samples.shape[2] % 2 == 0)
    return samples[..., :colours].max(axis=2)


def read_pair(pair: Pair) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Return the detector counts (H, W) and the mask (H, W), any value above 0 is particle.

    Raises
    ------
    DecodeError
        If a file is unreadable or the two shapes differ.
    """
    pixels, marks = read_marked(pair)
    return pixels, np.greater(marks, 0)


def read_marked(pair: Pair) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return the detector counts and the values of the mask file, both (H, W).

    Raises
    ------
    DecodeError
        If a file is unreadable or the two shapes differ.
    """
    pixels, marks = read_pixels(pair.image), read_marks(pair.mask)
    if pixels.shape != marks.shape:
        raise DecodeError(
            f"{pair.image.name} is {pixels.shape} px but its mask is {marks.shape}; "
            "draw the mask at the image's own size"
        )
    return pixels, marks


def label(
    name: str, pixels: NDArray[np.generic], mask: NDArray[np.bool_]
) -> LabelledFrame:
    """Normalise a frame and keep it with its mask."""
    return LabelledFrame(name, normalise(pixels).astype(np.float16), mask)


def load_frames(pairs: Iterable[Pair], threads: int = 2) -> list[LabelledFrame]:
    """Read, normalise and keep every pair, in order.

    Raises
    ------
    DecodeError
        If any pair cannot be read, after all were tried: the message names every bad file
        at once, because a person would rather not mend a thousand one by one.
    """

    def load(pair: Pair) -> LabelledFrame | DecodeError:
        try:
            return label(pair.name, *read_pair(pair))
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        loaded = list(pool.map(load, pairs))
    bad = [str(item) for item in loaded if isinstance(item, DecodeError)]
    if bad:
        more = f"; and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise DecodeError(
            f"{len(bad)} of {len(loaded)} images are of no use: "
            f"{'; '.join(bad[:_MOST_NAMED])}{more}; mend or remove them"
        )
    return [item for item in loaded if isinstance(item, LabelledFrame)]


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
