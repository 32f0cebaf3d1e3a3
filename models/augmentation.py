"""Tiles for training: cut at a random scale, then made to look like another microscope's.

Every random number comes from one generator per training step, so that a resumed run sees the
same tiles as an uninterrupted one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from models.datasets import LabelledFrame

Tile = NDArray[np.float32]
Mask = NDArray[np.bool_]
Look = Literal["other microscopes", "paper"]
"""How far augmentation goes: everything that differs between microscopes, or the paper's flips,
shift-scale-rotate and Gaussian noise, each with probability 0.5."""


@dataclass(frozen=True, slots=True)
class Source:
    """A set of labelled frames and how tiles are taken from it."""

    frames: Sequence[LabelledFrame]
    share: float = 1.0
    """Weight of this source among all: its part of the tiles."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Magnification is drawn between these, log-uniformly."""
    annotate: float = 0.0
    """Chance of burning in letters and a scale bar, for frames that carry none."""
    invert: float = 0.5
    """Chance of exchanging bright and dark. At 0.5 nothing but shape tells a particle from the
    gap between two; lower, a source also teaches what its kind of micrograph looks like."""
    has_true_edges: bool = True
    """Whether its masks are drawn well enough, or are the best there are, to centre the model's
    edges on them."""


def draw_batch(
    sources: Sequence[Source],
    *,
    count: int,
    tile_px: int,
    seed: tuple[int, ...],
    look: Look = "other microscopes",
) -> tuple[Tensor, Tensor]:
    """Cut and augment one training batch.

    Parameters
    ----------
    sources : sequence of Source
        Where tiles come from, in proportion to their shares.
    count : int
        B, tiles in the batch.
    tile_px : int
        Side of a tile.
    seed : tuple of int
        Decides every random number of this batch, e.g. (run seed, step).
    look : Look
        Which augmentation.

    Returns
    -------
    float32 tensor (B, 1, tile_px, tile_px), channels last, and int64 tensor (B, tile_px, tile_px)
    """
    rng = np.random.default_rng(seed)
    shares = np.array([source.share for source in sources])
    tiles: list[Tile] = []
    masks: list[Mask] = []
    draw = draw_tile if look == "other microscopes" else draw_tile_as_paper
    for choice in rng.choice(len(sources), size=count, p=shares / shares.sum()):
        tile, mask = draw(sources[choice], tile_px, rng)
        tiles.append(tile)
        masks.append(mask)
    batch = torch.from_numpy(np.stack(tiles)[:, None])
    return (
        batch.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack(masks).astype(np.int64)),
    )


def draw_tile(
    source: Source, tile_px: int, rng: np.random.Generator
) -> tuple[Tile, Mask]:
    """Return one augmented tile, float32 (tile_px, tile_px), and its mask."""
    frame = source.frames[int(rng.integers(len(source.frames)))]
    angle_deg = rng.uniform(0.0, 45.0) if rng.random() < 0.5 else 0.0
    tile, mask = _cut_turned(frame, tile_px, source.scale, angle_deg, rng)
    tile, mask = _quarter_turn_and_flip(tile, mask, rng)
    tile = _restyle(tile, rng)
    if rng.random() < source.invert:
        tile = -tile
    if rng.random() < source.annotate:
        tile, mask = _annotate(tile, mask, rng)
    return np.clip(tile, -10.0, 10.0), mask


def draw_tile_as_paper(
    source: Source, tile_px: int, rng: np.random.Generator
) -> tuple[Tile, Mask]:
    """Return one tile as the paper draws it: flip, shift-scale-rotate, noise, each at 0.5."""
    frame = source.frames[int(rng.integers(len(source.frames)))]
    is_moved = rng.random() < 0.5
    scale = (0.9, 1.1) if is_moved else (1.0, 1.0)
    angle_deg = rng.uniform(-45.0, 45.0) if is_moved else 0.0
    tile, mask = _cut_turned(frame, tile_px, scale, angle_deg, rng)
    if rng.random() < 0.5:
        axes = ((0,), (1,), (0, 1))[int(rng.integers(3))]
        tile, mask = np.flip(tile, axes), np.flip(mask, axes)
    if rng.random() < 0.5:
        # A variance of 10 to 50 in 8-bit counts, where a frame's range is 6.18 instead of 255.
        spread = np.sqrt(rng.uniform(10.0, 50.0)) * 6.18 / 255.0
        tile = tile + _float32(rng.normal(0.0, spread, tile.shape))
    return np.clip(tile, -10.0, 10.0), mask


def cut(
    frame: LabelledFrame,
    tile_px: int,
    scale: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Tile, Mask]:
    """Cut a window at a random place and scale; a frame too small for it is mirrored."""
    magnification = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    window_px = max(8, round(tile_px / magnification))
    rows, columns = (_mirrored(side, window_px, rng) for side in frame.mask.shape)
    window = np.ix_(rows, columns)
    layers = np.stack([frame.pixels[window], frame.mask[window]]).astype(np.float32)
    if window_px != tile_px:
        # Antialiased: shrinking by skipping pixels would turn texture into noise.
        layers = functional.interpolate(
            torch.from_numpy(layers)[None],
            size=(tile_px, tile_px),
            mode="bilinear",
            antialias=True,
        )[0].numpy()
    return layers[0], layers[1] > 0.5


def _mirrored(side: int, window_px: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return window_px consecutive indices along one side, reflected at its ends."""
    if side >= window_px:
        start = int(rng.integers(side - window_px + 1))
    else:
        start = -int(rng.integers(window_px - side + 1))
    index = np.arange(start, start + window_px) % (2 * side)
    return np.where(index < side, index, 2 * side - 1 - index)


def _cut_turned(
    frame: LabelledFrame,
    tile_px: int,
    scale: tuple[float, float],
    angle_deg: float,
    rng: np.random.Generator,
) -> tuple[Tile, Mask]:
    """Cut a window turned by up to 45 degrees either way; returns (tile_px, tile_px)."""
    if angle_deg == 0.0:
        return cut(frame, tile_px, scale, rng)
    angle = abs(np.deg2rad(angle_deg))
    wide_px = int(np.ceil(tile_px * (np.cos(angle) + np.sin(angle))))
    wide, wide_mask = cut(frame, wide_px, scale, rng)
    tile, mask = (
        ndimage.rotate(layer, angle_deg, reshape=False, order=1, mode="reflect")
        for layer in (wide, wide_mask.astype(np.float32))
    )
    start = (wide_px - tile_px) // 2
    middle = np.s_[start : start + tile_px, start : start + tile_px]
    return _float32(tile[middle]), mask[middle] > 0.5


def _quarter_turn_and_flip(
    tile: Tile, mask: Mask, rng: np.random.Generator
) -> tuple[Tile, Mask]:
    quarter_turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    tile, mask = np.rot90(tile, quarter_turns), np.rot90(mask, quarter_turns)
    return (tile[:, ::-1], mask[:, ::-1]) if flip else (tile, mask)


def _restyle(tile: Tile, rng: np.random.Generator) -> Tile:
    """Change everything about a tile that is not its particles."""
    side = tile.shape[0]
    if rng.random() < 0.25:
        tile = _float32(ndimage.gaussian_filter(tile, rng.uniform(0.4, 1.6)))
    if rng.random() < 0.5:
        tile = _bend(tile, gamma=float(np.exp(rng.normal(0.0, 0.3))))
    if rng.random() < 0.5:
        tile = tile * float(np.exp(rng.normal(0.0, 0.3))) + float(rng.normal(0.0, 0.4))
    if rng.random() < 0.4:
        tile = tile + _uneven_light(side, rng)
    if rng.random() < 0.5:
        grain = _float32(rng.standard_normal(tile.shape, np.float32))
        weight = float(rng.uniform(0.05, 0.8)) * _grain_weight(tile, rng)
        tile = _float32(tile + grain * weight)
    if rng.random() < 0.1:
        tile = _scan_lines(tile, rng)
    if rng.random() < 0.15:
        tile = _saturate(tile, rng)
    if rng.random() < 0.1:
        tile = _hot_pixels(tile, rng)
    return tile


def _bend(tile: Tile, gamma: float) -> Tile:
    """Apply a monotone tone curve between the tile's darkest and brightest pixel."""
    low, high = float(tile.min()), float(tile.max())
    if high <= low:
        return tile
    return _float32(((tile - low) / (high - low)) ** gamma * (high - low) + low)


def _uneven_light(side: int, rng: np.random.Generator) -> Tile:
    """Return a slowly varying background (side, side): bent film, thickness, vignetting."""
    knots = torch.from_numpy(rng.standard_normal((1, 1, 4, 4), np.float32))
    smooth = functional.interpolate(
        knots, size=(side, side), mode="bicubic", align_corners=True
    )
    return _float32(smooth[0, 0].numpy() * float(rng.uniform(0.1, 1.2)))


def _grain_weight(tile: Tile, rng: np.random.Generator) -> Tile:
    """Return how strong grain is where: even, or growing with the signal as counting does."""
    if rng.random() < 0.5:
        return np.ones_like(tile)
    low, high = float(tile.min()), float(tile.max())
    return _float32(np.sqrt((tile - low) / max(high - low, 1e-6)) * 1.4)


def _scan_lines(tile: Tile, rng: np.random.Generator) -> Tile:
    """Give each line, or each column of a turned tile, its own brightness, as charging does."""
    side = tile.shape[0]
    shape = (side, 1) if rng.random() < 0.5 else (1, side)
    lines = rng.standard_normal(shape, np.float32)
    if rng.random() < 0.5:  # charge stays for some lines
        lines = ndimage.gaussian_filter1d(lines, 2.0, axis=int(shape[0] == 1)) * 2.0
    return _float32(tile + lines * float(rng.uniform(0.05, 0.5)))


def _saturate(tile: Tile, rng: np.random.Generator) -> Tile:
    """Clip the brightest or darkest pixels, as a badly set gain does."""
    level = float(np.quantile(tile[::4, ::4], rng.uniform(0.9, 0.995)))
    if rng.random() < 0.5:
        return np.minimum(tile, np.float32(level))
    low = float(np.quantile(tile[::4, ::4], rng.uniform(0.005, 0.1)))
    return np.maximum(tile, np.float32(low))


def _hot_pixels(tile: Tile, rng: np.random.Generator) -> Tile:
    count = int(rng.integers(1, 60))
    rows, columns = rng.integers(tile.shape[0], size=(2, count))
    tile = tile.copy()
    tile[rows, columns] = rng.uniform(3.0, 10.0) * rng.choice([-1.0, 1.0])
    return tile


def _annotate(tile: Tile, mask: Mask, rng: np.random.Generator) -> tuple[Tile, Mask]:
    """Burn in a label or a scale bar, as journals and camera software do; it is background."""
    side = tile.shape[0]
    canvas = Image.new("L", (side, side), 0)  # 0 untouched, 128 box, 255 ink
    pen = ImageDraw.Draw(canvas)
    x, y = (int(v) for v in rng.integers(0, int(side * 0.7), 2))
    size = float(rng.uniform(10, 44))
    if rng.random() < 0.5:
        pen.rectangle((x, y, x + size * 3.2, y + size * 1.6), fill=128)
    if rng.random() < 0.6:
        length, thick = rng.uniform(20, side * 0.4), rng.uniform(2, 12)
        pen.rectangle((x + 4, y + size, x + 4 + length, y + size + thick), fill=255)
    text = str(rng.choice(["50 nm", "(a)", "b", "C", "20 nm", "5 um", "100 nm", "(d)"]))
    pen.text((x + 4, y), text, fill=255, font=ImageFont.load_default(size))
    drawn = np.asarray(canvas)
    ink = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(3.0, 8.0))
    tile = np.where(drawn > 191, ink, np.where(drawn > 64, -ink, tile))
    return tile.astype(np.float32), mask & (drawn <= 64)


def _float32(values: NDArray[np.floating]) -> Tile:
    return np.asarray(values, np.float32)
