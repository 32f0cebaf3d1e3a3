"""Frames of any size through a network that wants even tiles; no seams.

Strategy: a frame up to `one_pass_px` a side goes through whole, reflected out to a bucketed size
so that a compiled engine meets few shapes. A larger one is cut into equal tiles that overlap; each
tile's probability is faded smoothly over the overlap and the weighted sum is divided by the summed
weights, so every pixel is judged mostly by the tile in which it lies deepest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import normalise

MARGIN_PX = 32
"""Mirrored rim round every frame. Convolutions pad with zeros, and a network trained on the inside
of pictures says "background" where it sees them: measured on simulated frames, it found 20 % of
the particle pixels in the outermost rows without the rim and 97 % with it."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(B, 1, H, W) normalised tiles -> (B, H, W) probability 0..1; sides divide by 32."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a frame is cut."""

    one_pass_px: int = 1536
    """Frames up to this side are not cut."""
    tile_px: int = 1024
    """Side of a square tile; divides by 32."""
    overlap_px: int = 256
    """What neighbours share: wide enough that the deeper tile sees a particle's context."""
    batch: int = 1
    """Tiles given to the engine at once."""


def predict(
    pixels: NDArray[np.generic], run: Run, tiling: Tiling | None = None
) -> NDArray[np.uint8]:
    """Return the particle probability of every pixel of one frame.

    Parameters
    ----------
    pixels : array, shape (H, W), any real dtype
        Detector counts. The whole frame is normalised before it is cut: tiles normalised one by
        one would disagree about the background where they meet.
    run : callable
        The engine: (B, 1, h, w) float32 -> (B, h, w) float32 probability.
    tiling : Tiling, optional
        How to cut large frames.

    Returns
    -------
    uint8 array, shape (H, W)
        Probability scaled to 0..255; 128 and above is particle.
    """
    return to_uint8(predict_normalised(normalise(pixels), run, tiling or Tiling()))


def predict_normalised(
    pixels: NDArray[np.float32], run: Run, tiling: Tiling
) -> NDArray[np.float32]:
    """Return the probability 0..1 of a frame that is normalised already, both (H, W)."""
    frame = _with_margin(pixels)
    is_small = max(pixels.shape) <= tiling.one_pass_px
    probability = _one_pass(frame, run) if is_small else _tiled(frame, run, tiling)
    return _without_margin(probability)


def predict_together(
    frames: list[NDArray[np.generic]], run: Run
) -> list[NDArray[np.uint8]]:
    """Predict several frames of one shape (H, W) in a single pass; returns uint8 maps."""
    height, width = (side + 2 * MARGIN_PX for side in frames[0].shape)
    batch = np.stack(
        [
            _reflect_to(_with_margin(normalise(pixels)), bucket(height), bucket(width))
            for pixels in frames
        ]
    )
    maps = run(batch[:, None])[:, :height, :width]
    return [to_uint8(_without_margin(one)) for one in maps]


def bucket(side_px: int) -> int:
    """Return the padded side an engine is compiled for: multiples of 32, then of 64.

    Small frames keep to 32 because padding would dominate their cost; above 256 px a coarser step
    keeps the number of compiled shapes low at a few per cent more work.
    """
    step = 32 if side_px <= 256 else 64
    return -(-side_px // step) * step


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale probability 0..1, shape (H, W), to uint8; 0.5 becomes 128."""
    return np.clip(np.rint(probability * 255.0), 0, 255).astype(np.uint8)


def _with_margin(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(frame, MARGIN_PX, mode="symmetric")


def _without_margin(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    return probability[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]


def _one_pass(frame: NDArray[np.float32], run: Run) -> NDArray[np.float32]:
    height, width = frame.shape
    padded = _reflect_to(frame, bucket(height), bucket(width))
    return run(padded[None, None])[0, :height, :width]


def _tiled(frame: NDArray[np.float32], run: Run, tiling: Tiling) -> NDArray[np.float32]:
    height, width = frame.shape
    tile = tiling.tile_px
    # A film strip of 4096 x 200 px is cut along one side only; the other is padded.
    padded = _reflect_to(frame, max(height, tile), max(width, tile))
    total = np.zeros(padded.shape, np.float32)
    weight = np.zeros(padded.shape, np.float32)
    fade = _fade(tile, tiling.overlap_px)
    corners = list(_corners(padded.shape, tile, tiling.overlap_px))
    for start in range(0, len(corners), tiling.batch):
        group = corners[start : start + tiling.batch]
        tiles = np.stack([padded[y : y + tile, x : x + tile] for y, x in group])
        for (y, x), probability in zip(group, run(tiles[:, None]), strict=True):
            total[y : y + tile, x : x + tile] += probability * fade
            weight[y : y + tile, x : x + tile] += fade
    return (total / weight)[:height, :width]


def _corners(
    shape: tuple[int, int], tile: int, overlap: int
) -> Iterator[tuple[int, int]]:
    for y in _starts(shape[0], tile, overlap):
        for x in _starts(shape[1], tile, overlap):
            yield y, x


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Spread equal tiles evenly over a side; they overlap by at least `overlap`."""
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _fade(tile: int, overlap: int) -> NDArray[np.float32]:
    """Return the (tile, tile) weight of a tile's pixels: 1 inside, falling towards the rim."""
    rim = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1.0
    # Squared sine: flat at the rim, where the context is cut off and the answer worst.
    ramp = np.sin(np.clip(rim / overlap, 0.0, 1.0) * np.pi / 2) ** 2
    ramp = ramp.astype(np.float32)
    return np.outer(ramp, ramp)


def _reflect_to(
    frame: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Extend to (height, width) at the bottom and right; repeats the mirror if need be."""
    pad = ((0, height - frame.shape[0]), (0, width - frame.shape[1]))
    return np.pad(frame, pad, mode="symmetric") if any(map(any, pad)) else frame
