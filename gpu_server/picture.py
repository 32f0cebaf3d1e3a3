"""Detector counts -> the 8-bit picture that people look at; measuring never uses it."""

import io
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

T = TypeVar("T", bound=np.generic)
Picture = NDArray[np.uint8]
"""Shape (h, w), 0 black .. 255 white, for eyes only."""

MAX_SHOWN_PX = 2048
"""Longest side of the live picture; a 4k frame is shown at half its size."""
JPEG_QUALITY = 85
# Wide enough that a few hot pixels or a beam stop do not decide the contrast, narrow enough
# that particles covering 1 % of the frame keep theirs.
_DARK_PERCENT, _BRIGHT_PERCENT = 0.2, 99.8
_SAMPLED_PX = 2**18  # percentiles of this many pixels are within noise of all of them
_STRIP_ROWS = 1024  # bounds the float copy of a 16384 px frame to 64 MiB

_OUTLINE_RGB = (0, 229, 255)
_BORDER_RGB = (150, 150, 150)  # cut by the border: seen, not sized
_REJECTED_RGB = (255, 82, 82)


def shown_factor(shape: tuple[int, int]) -> int:
    """Return by how much a frame is reduced for viewers: 1 up to MAX_SHOWN_PX a side."""
    return max(1, -(-max(shape) // MAX_SHOWN_PX))


def picture(pixels: NDArray[np.generic], factor: int = 1) -> Picture:
    """Scale one frame to 8 bits by robust percentiles, reduced by block means.

    Parameters
    ----------
    pixels : array, shape (H, W)
        Detector counts of any real dtype; what is not finite is shown black.
    factor : int
        Side of the square of pixels that becomes one pixel of the picture.

    Returns
    -------
    uint8 array, shape (ceil(H / factor), ceil(W / factor))
        A constant frame comes out mid-grey.
    """
    if factor == 1:
        if pixels.dtype == np.uint8:
            return _looked_up(pixels.astype(np.uint8, copy=False))
        if pixels.dtype == np.uint16:
            return _looked_up(pixels.astype(np.uint16, copy=False))
    counts = reduced(pixels, factor)
    dark, bright = _display_range(counts)
    if not bright > dark:
        return np.full(counts.shape, 127, np.uint8)
    return _scaled(counts, dark, bright)


def _scaled(counts: NDArray[np.float32], dark: float, bright: float) -> Picture:
    scaled = (counts - np.float32(dark)) * np.float32(255.0 / (bright - dark))
    return np.nan_to_num(np.clip(scaled, 0, 255), nan=0.0).astype(np.uint8)


def _looked_up(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Picture:
    """Do the same for whole counts of 8 or 16 bits by a table: a third of the time.

    What cameras write most; at 1024 x 1024 px 5 ms instead of 16, each for every live frame.
    """
    possible = np.iinfo(pixels.dtype).max + 1
    sample = _sampled(pixels).ravel()
    so_far = np.cumsum(np.bincount(sample, minlength=possible))
    dark, bright = (
        _percentile(so_far, share) for share in (_DARK_PERCENT, _BRIGHT_PERCENT)
    )
    if not bright > dark:
        # Nearly constant: the few pixels that differ are the picture.
        dark, bright = float(sample.min()), float(sample.max())
    if not bright > dark:
        return np.full(pixels.shape, 127, np.uint8)
    return _scaled(np.arange(possible, dtype=np.float32), dark, bright)[pixels]


def _percentile(so_far: NDArray[np.integer], percent: float) -> float:
    """Return a percentile of whole numbers, given how many are that large or smaller."""
    place = percent / 100.0 * (int(so_far[-1]) - 1)
    below = int(place)
    low, high = np.searchsorted(so_far, (below, below + 1), side="right")
    return float(low + (place - below) * (min(high, len(so_far) - 1) - low))


def reduced(pixels: NDArray[np.generic], factor: int) -> NDArray[np.float32]:
    """Return block means as float32; blocks cut by the edge average what they have."""
    if factor == 1:
        return pixels.astype(np.float32)
    height = pixels.shape[0]
    rows = max(factor, _STRIP_ROWS // factor * factor)
    strips = [
        _block_means(pixels[top : top + rows], factor) for top in range(0, height, rows)
    ]
    return np.concatenate(strips)


def _block_means(strip: NDArray[np.generic], factor: int) -> NDArray[np.float32]:
    height, width = strip.shape
    padded = np.pad(
        strip.astype(np.float32),
        ((0, -height % factor), (0, -width % factor)),
        mode="edge",  # zeros would draw a dark rim that the specimen does not have
    )
    blocks = padded.reshape(-(-height // factor), factor, -(-width // factor), factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _sampled(counts: NDArray[T]) -> NDArray[T]:
    step = max(1, int(np.sqrt(counts.size / _SAMPLED_PX)))
    return counts[::step, ::step]


def _display_range(counts: NDArray[np.float32]) -> tuple[float, float]:
    sample = _sampled(counts)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 0.0
    dark, bright = np.percentile(sample, (_DARK_PERCENT, _BRIGHT_PERCENT))
    if bright > dark:
        return float(dark), float(bright)
    # Nearly constant: the few pixels that differ are the picture.
    return float(sample.min()), float(sample.max())


def jpeg(shown: Picture) -> bytes:
    """Encode for the live view: ten times smaller and quicker than PNG."""
    target = io.BytesIO()
    Image.fromarray(shown).save(target, "JPEG", quality=JPEG_QUALITY)
    return target.getvalue()


def png(shown: NDArray[np.uint8]) -> bytes:
    """Encode without loss, shape (h, w) or (h, w, 3); level 1 is quick and near the best."""
    target = io.BytesIO()
    Image.fromarray(shown).save(target, "PNG", compress_level=1)
    return target.getvalue()


def overlay(
    shown: Picture,
    polygons: Iterable[NDArray[np.floating]],
    *,
    touches_border: NDArray[np.bool_],
    rejected: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Draw outlines over a picture.

    Parameters
    ----------
    shown : uint8 array, shape (h, w)
    polygons : arrays, shape (K, 2)
        Closed outlines as (x, y) in px of `shown`, one a particle; (0, 0) is the centre of
        the top left pixel, for the pen as for the outlines.
    touches_border, rejected : bool arrays, shape (P,)
        Drawn grey and red; what counts is cyan.

    Returns
    -------
    uint8 array, shape (h, w, 3)
    """
    image = Image.fromarray(shown).convert("RGB")
    pen = ImageDraw.Draw(image)
    for outline, is_cut, is_out in zip(polygons, touches_border, rejected, strict=True):
        colour = _BORDER_RGB if is_cut else _OUTLINE_RGB
        corners = [(float(x), float(y)) for x, y in outline]
        if len(corners) > 1:
            pen.line([*corners, corners[0]], fill=_REJECTED_RGB if is_out else colour)
    return np.asarray(image)
