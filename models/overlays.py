"""Pictures for people: an image with the outlines of truth and answer, and its score."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from emcopilot.errors import ConfigError
from models.segmentation_metrics import Mask

TRUTH_RGB, MODEL_RGB, BOTH_RGB = (230, 159, 0), (86, 180, 233), (255, 255, 255)
"""Orange, sky blue and white: told apart by every kind of colour vision.

Source of the first two: Okabe and Ito, Color Universal Design (2002).
"""
LONGEST_SIDE_PX, SHORTEST_SIDE_PX = 2048, 960
_LETTER_PX, _STRIP_PX, _GAP_PX = 14, 26, 5
_DARK_PERCENT, _BRIGHT_PERCENT = 0.5, 99.5


def save_overlay(
    path: Path,
    pixels: NDArray[np.generic],
    *,
    truth: Mask,
    answer: Mask,
    caption: str,
) -> None:
    """Write one picture as PNG.

    Parameters
    ----------
    path : Path
    pixels : array, shape (H, W)
        Detector counts.
    truth, answer : bool arrays, shape (H, W)
        Pixels of the outlines.
    caption : str
        Said above the image, with the colours' meaning.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    picture = _with_caption(_drawn(pixels, truth, answer), caption)
    try:
        picture.save(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _drawn(pixels: NDArray[np.generic], truth: Mask, answer: Mask) -> Image.Image:
    factor = max(1, -(-max(pixels.shape) // LONGEST_SIDE_PX))
    grey = _blocks(_stretched(pixels), factor).mean(axis=(1, 3)).astype(np.uint8)
    # A mean would fade an outline, which is one pixel wide.
    ours, true = (
        _blocks(outline, factor).any(axis=(1, 3)) for outline in (answer, truth)
    )
    colours = np.stack([grey] * 3, axis=-1)  # (h, w, 3)
    colours[true], colours[ours], colours[true & ours] = TRUTH_RGB, MODEL_RGB, BOTH_RGB
    return _enlarged(Image.fromarray(colours), SHORTEST_SIDE_PX)


def _stretched(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Scale counts to 0..255 by robust percentiles; a constant image becomes mid-grey."""
    counts = np.asarray(pixels, np.float64)
    known = counts[np.isfinite(counts)]
    if known.size == 0 or known.min() == known.max():
        return np.full(counts.shape, 127, np.float32)
    low, high = np.percentile(known, (_DARK_PERCENT, _BRIGHT_PERCENT))
    if low == high:  # nearly constant: the few pixels that differ are the picture
        low, high = known.min(), known.max()
    filled = np.where(np.isfinite(counts), counts, low)
    return (np.clip((filled - low) / (high - low), 0, 1) * 255).astype(np.float32)


def _blocks(plane: NDArray[np.generic], factor: int) -> NDArray[np.generic]:
    """Cut (H, W) into squares: (h, factor, w, factor); the last repeat the edge."""
    pad = [(0, -side % factor) for side in plane.shape]
    padded = np.pad(plane, pad, mode="edge")
    height, width = padded.shape
    return padded.reshape(height // factor, factor, width // factor, factor)


def _enlarged(picture: Image.Image, side_px: int) -> Image.Image:
    """Show the pixels of a small image as squares."""
    factor = -(-side_px // max(picture.size))
    width, height = (side * factor for side in picture.size)
    return picture.resize((width, height), Image.Resampling.NEAREST)


def _with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """Put the words above the image, where they hide nothing."""
    font = ImageFont.load_default(_LETTER_PX)
    words = [(f"{caption}   ", (255, 255, 255)), ("truth  ", TRUTH_RGB)]
    words += [("model  ", MODEL_RGB), ("both", BOTH_RGB)]
    needed = int(sum(font.getlength(text) for text, _ in words)) + 2 * _GAP_PX
    size = (max(picture.width, needed), picture.height + _STRIP_PX)
    sheet = Image.new("RGB", size)
    sheet.paste(picture, (0, _STRIP_PX))
    pen, left = ImageDraw.Draw(sheet), float(_GAP_PX)
    for text, colour in words:
        pen.text((left, _GAP_PX), text, font=font, fill=colour)
        left += font.getlength(text)
    return sheet
