"""Whatever a file stores as one image -> a 2-D array of a plain number type."""

from typing import cast

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray

from emcopilot.errors import DecodeError

PLAIN_TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8")
"""Sample types of a Frame; everything else is converted, and said so."""
_LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of red, green, blue: ITU-R BT.709."""

Pixels = NDArray[np.generic]


def as_image(stored: Pixels) -> tuple[Pixels, tuple[str, ...]]:
    """Convert one stored image to (H, W) numbers in native byte order.

    Parameters
    ----------
    stored : array, shape (H, W) or (H, W, S)
        As the reader gives it: any byte order, RGB(A) as samples or as fields, complex.

    Returns
    -------
    array, shape (H, W)
        One of `PLAIN_TYPES`, C-contiguous; values unchanged unless a note says so.
    tuple of str
        What was converted or looks odd.

    Raises
    ------
    DecodeError
        If the samples are no numbers, or there are more than four a pixel.
    """
    notes: list[str] = []
    pixels = stored
    if stored.dtype.names:  # red, green, blue as named fields
        pixels = structured_to_unstructured(cast(NDArray[np.void], stored))
    if pixels.ndim == 3:
        pixels = _one_sample(pixels, notes)
    if pixels.ndim != 2:
        raise DecodeError(f"got {pixels.ndim} dimensions, expected the 2 of an image")
    if np.iscomplexobj(pixels):
        pixels = np.abs(pixels)
        notes.append("complex values: the magnitude is used")
    pixels = _plain(pixels, notes)
    if pixels.dtype.kind == "f":
        bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        if bad:
            notes.append(f"{bad} of {pixels.size} px are NaN or infinite")
    return np.ascontiguousarray(pixels), tuple(notes)


def plain_type(stored: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Predict the type that `as_image` gives for a stored sample type."""
    first = next(iter(stored.fields.values()))[0] if stored.fields else stored
    field = cast(np.dtype[np.generic], first)
    kind, size = field.kind, field.itemsize
    if kind == "b":
        return np.dtype(np.uint8)
    if kind == "c":
        return np.dtype(np.float32 if size <= 8 else np.float64)
    if kind == "f" and size == 2:
        return np.dtype(np.float32)
    if f"{kind}{size}" in PLAIN_TYPES:
        return field.newbyteorder("=")
    if kind in "iuf":
        return np.dtype(np.float64)
    raise DecodeError(f"samples of type {field} are no numbers")


def _plain(pixels: Pixels, notes: list[str]) -> Pixels:
    target = plain_type(pixels.dtype)
    if pixels.dtype.kind in "iu" and target.kind == "f":
        notes.append(f"{pixels.dtype} counts are kept as float64")
    return pixels.astype(target, copy=False)


def _one_sample(pixels: Pixels, notes: list[str]) -> Pixels:
    samples = pixels.shape[-1]
    if samples == 1:
        return pixels[..., 0]
    if samples == 2:
        notes.append("grey with alpha: alpha is left out")
        return pixels[..., 0]
    if samples > 4:
        raise DecodeError(f"got {samples} samples a pixel, expected grey or RGB")
    red, green, blue = (pixels[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        notes.append("RGB with equal channels: one of them is used")
        return red
    notes.append("RGB converted to luminance")
    return _luminance(pixels)


def _luminance(pixels: Pixels) -> Pixels:
    total = np.zeros(pixels.shape[:2], np.float32)
    for channel, weight in enumerate(_LUMINANCE):
        total += np.float32(weight) * pixels[..., channel].astype(np.float32)
    if pixels.dtype.kind in "iu":
        np.rint(total, out=total)
        # float32 above 2**24 can round past the largest integer: clip before the cast.
        limits = np.iinfo(pixels.dtype.name)
        return np.clip(total, limits.min, limits.max).astype(pixels.dtype)
    return total
