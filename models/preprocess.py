"""The one door between detector counts and the network, in training and in live inference.

A network sees contrast, not counts. Each frame is centred on its median and divided by its robust
range, so that exposure, gain, offset and bit depth drop out, and inverting a frame's contrast
inverts the result: bright and dark particles stay mirror images of each other.
"""

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Raised whenever `normalise` changes: weights trained with another version are refused."""

_TAIL_PERCENT = 0.1
"""Left out at each end: more hot and dead pixels than a working camera has, fewer pixels than one
particle of 36 px in a 1024 x 1024 frame, so that a lone particle still sets the range."""
_RANGE_IN_SIGMAS = 6.18
"""Distance of the two tail percentiles of a Gaussian: pure noise comes out with unit spread."""
_LIMIT = 10.0
"""What is clipped: only the tails, since everything else lies within +-6.18 by construction."""
_LARGEST = 1e30
"""Counts beyond this are a broken detector; kept finite so that the arithmetic is, too."""
_SAMPLE_PX = 2**19
"""Percentiles are read from about this many pixels; more would cost time and tell the same."""


def normalise(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Standardise one whole frame for the network.

    Parameters
    ----------
    pixels : real array, shape (H, W), any dtype
        Detector counts. The whole frame: its tiles would each get another scale.

    Returns
    -------
    float32 array, shape (H, W)
        0 is the frame's median, 1 about a sixth of its robust range; within -10..10 and finite
        for every input: pixels that are not finite become the median, a constant frame zero.

    Notes
    -----
    Invariant to gain and offset, odd under contrast inversion (to float32 rounding).
    """
    counts = np.asarray(pixels)
    wide = (
        counts.dtype.itemsize > 2
    )  # float32 holds 16-bit counts exactly; others may not fit
    values = counts.astype(np.float64 if wide else np.float32)
    is_finite = np.isfinite(values)
    if not is_finite.all():
        values = _fill(values, is_finite)
    np.clip(values, -_LARGEST, _LARGEST, out=values)
    if values.size == 0:
        return values.astype(np.float32)
    centre, spread = _centre_and_spread(values)
    scaled = (values - centre) / spread
    return np.clip(scaled, -_LIMIT, _LIMIT).astype(np.float32)


def _fill(
    values: NDArray[np.floating], is_finite: NDArray[np.bool_]
) -> NDArray[np.floating]:
    known = values[is_finite]
    return np.where(is_finite, values, np.median(known) if known.size else 0.0)


def _centre_and_spread(values: NDArray[np.floating]) -> tuple[float, float]:
    stride = max(1, int(np.sqrt(values.size / _SAMPLE_PX)))
    sample = values[::stride, ::stride]
    levels = (_TAIL_PERCENT, 50.0, 100.0 - _TAIL_PERCENT)
    low, centre, high = (float(level) for level in np.percentile(sample, levels))
    if (
        high <= low
    ):  # one value fills 99.8 % of the frame: a nearly empty mask-like frame
        low, high = float(values.min()), float(values.max())
    spread = (high - low) / _RANGE_IN_SIGMAS
    # Rounding noise of a constant frame must not be blown up to look like texture.
    is_flat = spread <= 1e-6 * max(abs(low), abs(high))
    return centre, 1.0 if is_flat else spread
