"""What one frame looks like, as a few numbers: the statistics that have a meaning for people.

They need no mask and no metadata, so they hold whatever network is live. The network's part of a
look comes from `models.look`; both travel as one vector.
"""
# scipy carries no types: its values are typed where they enter.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]

NETWORK_WIDTH = 12
"""Numbers that the feature network gives; see `benchmarks/frame_looks.py`."""
STATISTICS = ("polarity", "noise", "sharpness", "structure", "slope", "grain_px")
"""The other numbers, in order; `measure_statistics` says what they mean."""
LOOK_WIDTH = NETWORK_WIDTH + len(STATISTICS)

WINDOW_PX = 320
"""Side of the middle part that statistics are taken of, at native pixels."""
LEAST_SIDE_PX = 32
_BANDS = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])
"""Edges in cycles per px: octaves of structures."""
_EDGE_BLUR_PX, _GROUND_PX = 1.5, 49
_MOST_AT_THE_TOP, _MOST_AT_THE_BOTTOM = 0.1, 0.6
"""As `models.rough_mask` holds them: few electrons leave many pixels at none."""
BLANK_STRUCTURE = 0.25
"""log10 of coarse over fine power below which a frame holds nothing but noise: 0 is white noise,
a detector's blur gives 0.1, and the emptiest support of 300 simulated frames 0.45."""


@dataclass(frozen=True, slots=True)
class FrameLook:
    """One frame's look."""

    vector: FloatArray
    """float32, shape (LOOK_WIDTH,): the network's numbers, then the statistics."""

    @property
    def network(self) -> FloatArray:
        """What the feature network gives, shape (NETWORK_WIDTH,).

        One unit is the usual difference between two frames of one domain.
        """
        return self.vector[:NETWORK_WIDTH]

    def __getitem__(self, statistic: str) -> float:
        return float(self.vector[NETWORK_WIDTH + STATISTICS.index(statistic)])

    def to_bytes(self) -> bytes:
        """Return the vector as little-endian float32."""
        return self.vector.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> "FrameLook":
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError
            If it has another length: another release wrote it.
        """
        vector = np.frombuffer(content, "<f4").astype(np.float32)
        if vector.shape != (LOOK_WIDTH,):
            raise ValueError(
                f"a look has {LOOK_WIDTH} numbers, got {vector.size}; made by another release?"
            )
        return cls(vector)


def window(pixels: NDArray[np.generic], side_px: int) -> NDArray[np.generic]:
    """Return the middle of a frame, at most `side_px` a side."""
    height, width = pixels.shape
    top, left = max(0, (height - side_px) // 2), max(0, (width - side_px) // 2)
    return pixels[top : top + side_px, left : left + side_px]


def ruined(pixels: NDArray[np.generic]) -> str | None:
    """Say why a frame shows nothing that could be learnt: "blank", "saturated", or None.

    Parameters
    ----------
    pixels : array, shape (H, W)
        Detector counts; noise without structure is found by `measure_statistics` alone.
    """
    if min(pixels.shape) < LEAST_SIDE_PX:
        return "blank"
    finite = pixels[np.isfinite(pixels)]
    if finite.size < pixels.size / 2:
        return "blank"
    low, high = finite.min(), finite.max()
    if high <= low:
        return "blank"
    if np.mean(finite == high) > _MOST_AT_THE_TOP:
        return "saturated"
    return "saturated" if np.mean(finite == low) > _MOST_AT_THE_BOTTOM else None


def measure_statistics(frame: FloatArray) -> FloatArray:
    """Measure what has a name for people, without a mask.

    Parameters
    ----------
    frame : float32 array, shape (H, W)
        A normalised frame, or the middle of one: its robust range is 6.18.

    Returns
    -------
    float32 array, shape (len(STATISTICS),)
        polarity
            -1..1: whether what stands out of its surroundings is bright or dark.
        noise
            log10 of the noise's deviation, 1 being a sixth of the frame's range.
        sharpness
            log10 of the steepest slopes over the range, per px.
        structure
            log10 of the greatest power of structures beyond 8 px over that of 4 to 8 px.
        slope
            Of log power over log frequency: 0 for noise, -3 for smooth textures.
        grain_px
            log2 of the usual size of structures.
    """
    part = np.asarray(window(frame, WINDOW_PX), np.float32)
    smooth = np.asarray(ndimage.gaussian_filter(part, _EDGE_BLUR_PX), np.float32)
    power = _band_power(part)
    fine = float(max(power[-1], 1e-9))
    excess = np.maximum(power[:-1] - fine, 1e-9)
    middles = np.sqrt(_BANDS[:-1] * _BANDS[1:])
    # Energy of an octave: its density times its area in the plane of frequencies.
    energy = excess * middles[:-1] ** 2
    coarse_px = float(np.sum(energy * np.log2(0.5 / middles[:-1])) / np.sum(energy))
    return np.array(
        [
            _polarity(smooth),
            0.5 * math.log10(fine),
            _sharpness(smooth),
            math.log10(max(float(power[:3].max()), 1e-9) / max(float(power[3]), 1e-9)),
            float(np.polyfit(np.log10(middles), np.log10(power + 1e-9), 1)[0]),
            coarse_px,
        ],
        np.float32,
    )


def _band_power(part: FloatArray) -> NDArray[np.float64]:
    """Return the power density of each octave; white noise of deviation 1 has 1 in all."""
    height, width = part.shape
    taper = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    spectrum = np.fft.rfft2((part - part.mean()) * taper)
    power = np.square(np.abs(spectrum)) / float(np.square(taper).sum())
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    )
    octave = np.digitize(frequency, _BANDS)
    count = np.bincount(octave.ravel(), minlength=len(_BANDS) + 1)
    total = np.bincount(octave.ravel(), power.ravel(), minlength=len(_BANDS) + 1)
    return (total / np.maximum(count, 1))[1:-1]


def _polarity(smooth: FloatArray) -> float:
    """Return how much farther the bright tail reaches than the dark one, -1..1."""
    ground = np.asarray(ndimage.uniform_filter(smooth, _GROUND_PX), np.float32)
    low, middle, high = np.percentile(smooth - ground, (1, 50, 99))
    return float((high + low - 2 * middle) / max(high - low, 1e-6))


def _sharpness(smooth: FloatArray) -> float:
    rise, run = np.gradient(smooth)
    low, high = np.percentile(smooth, (0.5, 99.5))
    steepest = float(np.percentile(np.hypot(rise, run), 99))
    return math.log10(max(steepest, 1e-6) / max(float(high - low), 1e-6))
