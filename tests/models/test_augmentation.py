"""Tiles for training: still the same particles, whatever was done to them."""

import numpy as np
import pytest
import torch

from models import augmentation
from models.augmentation import Source, cut, draw_batch, draw_tile
from models.datasets import LabelledFrame, label


def disc_frame(side: int = 160, radius: float = 24) -> LabelledFrame:
    y, x = np.ogrid[:side, :side]
    mask = (y - side / 2) ** 2 + (x - side / 2) ** 2 <= radius**2
    noise = np.random.default_rng(0).normal(0, 5, (side, side))
    return label("disc", noise + 100.0 * mask, mask)


def test_a_batch_has_the_networks_shape() -> None:
    source = Source([disc_frame()], annotate=0.5)
    tiles, masks = draw_batch([source], count=3, tile_px=64, seed=(0, 0))
    assert tiles.shape == (3, 1, 64, 64)
    assert tiles.dtype == torch.float32
    assert tiles.is_contiguous(memory_format=torch.channels_last)
    assert masks.shape == (3, 64, 64)
    assert masks.dtype == torch.int64
    assert set(masks.unique().tolist()) <= {0, 1}


def test_the_same_step_draws_the_same_batch() -> None:
    source = Source([disc_frame(), disc_frame(radius=9)], annotate=0.5)
    one, again, other = (
        draw_batch([source], count=4, tile_px=64, seed=seed)[0]
        for seed in ((7, 3), (7, 3), (7, 4))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_tiles_stay_finite_and_within_the_range_of_normalised_frames() -> None:
    flat = label("flat", np.full((50, 40), 9.0), np.zeros((50, 40), bool))
    source = Source([flat, disc_frame()], scale=(0.2, 3.0), annotate=1.0)
    tiles, _ = draw_batch([source], count=48, tile_px=64, seed=(1, 1))
    assert torch.isfinite(tiles).all()
    assert tiles.abs().max() <= 10


@pytest.mark.parametrize("magnification", [0.4, 1.0, 2.5])
def test_cutting_at_a_scale_keeps_the_true_area(magnification: float) -> None:
    frame = disc_frame()
    tile_px = round(160 * magnification)
    scale = (magnification, magnification)
    _, mask = cut(frame, tile_px, scale, np.random.default_rng(0))
    # An edge drawn to half a pixel: 1 % of the area at the smallest radius of 10 px.
    true_area = frame.mask.sum() * magnification**2
    assert mask.sum() == pytest.approx(true_area, rel=0.015)


def test_a_frame_smaller_than_the_tile_is_mirrored_not_stretched() -> None:
    frame = disc_frame(side=40, radius=8)
    tile, mask = cut(frame, 128, (1.0, 1.0), np.random.default_rng(2))
    assert tile.shape == mask.shape == (128, 128)
    # A window of 3.2 frames a side holds between 9 and 16 copies of the disc.
    assert 6 * frame.mask.sum() < mask.sum() < 16 * frame.mask.sum()


def test_pixels_and_mask_turn_together() -> None:
    corner = np.zeros((64, 64), bool)
    corner[4:20, 4:40] = True
    frame = label("corner", 100.0 * corner, corner)
    source = Source([frame], scale=(1.0, 1.0))
    rng = np.random.default_rng(5)
    for _ in range(40):
        tile, mask = draw_tile(source, 64, rng)
        inside, outside = tile[mask].mean(), tile[~mask].mean()
        # Even light and noise together leave the drawn contrast of 6 well above 1.
        assert abs(inside - outside) > 1


def test_both_polarities_are_drawn() -> None:
    source = Source([disc_frame(side=64, radius=20)], scale=(1.0, 1.0))
    rng = np.random.default_rng(6)
    signs = [
        np.sign(tile[mask].mean() - tile[~mask].mean())
        for tile, mask in (draw_tile(source, 64, rng) for _ in range(60))
    ]
    # Binomial: 30 +- 4 bright.
    assert 15 < signs.count(1.0) < 45


def test_a_burnt_in_label_is_background() -> None:
    everything = np.ones((128, 128), bool)
    frame = label("full", np.random.default_rng(0).normal(size=(128, 128)), everything)
    source = Source([frame], scale=(1.0, 1.0), annotate=1.0)
    _, mask = draw_tile(source, 128, np.random.default_rng(1))
    assert 0.3 < mask.mean() < 0.999


def test_sources_are_drawn_by_their_shares() -> None:
    nothing = label("none", np.ones((64, 64)), np.zeros((64, 64), bool))
    whole = label("all", np.ones((64, 64)), np.ones((64, 64), bool))
    sources = [Source([nothing], share=3.0), Source([whole], share=1.0)]
    _, masks = draw_batch(sources, count=200, tile_px=32, seed=(0,))
    # Binomial: 50 +- 6 of 200.
    assert 25 <= int((masks.float().mean(dim=(1, 2)) > 0.5).sum()) <= 75


def test_scan_lines_change_whole_lines_only() -> None:
    tile = np.zeros((64, 64), np.float32)
    for seed in range(8):
        lines = augmentation._scan_lines(tile, np.random.default_rng(seed))
        assert lines.dtype == np.float32
        assert min(np.ptp(lines, axis=0).max(), np.ptp(lines, axis=1).max()) == 0
        assert np.ptp(lines) > 0


def test_saturation_clips_one_end_and_keeps_the_rest() -> None:
    rng = np.random.default_rng(3)
    tile = rng.standard_normal((64, 64), np.float32)
    for seed in range(8):
        clipped = augmentation._saturate(tile, np.random.default_rng(seed))
        changed = clipped != tile
        assert 0 < changed.mean() < 0.25
        assert len(np.unique(clipped[changed])) == 1
