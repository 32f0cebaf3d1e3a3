"""Looking at several magnifications, with stand-ins for the network whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.leads import (
    Lead,
    Window,
    lead_of,
    mean_lead,
    most_seen_window,
    probability_of,
    surest_lead,
    typical_diameter_px,
    with_insides,
    with_specks,
)
from models.npssegnet import LocalContrast
from models.predict import predict, predict_together
from models.scales import LIVE, NATIVE, Scales, magnified, resized
from models.tiling import Tiling, to_uint8


def discs(side_px: int, diameter_px: float, apart_px: int) -> NDArray[np.float32]:
    """Return bright discs on a square grid, grey levels 0 and 1."""
    y, x = np.mgrid[:side_px, :side_px] % apart_px - apart_px / 2
    return (np.hypot(y, x) <= diameter_px / 2).astype(np.float32)


def threshold(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Answer for a network that says 0.95 where it is bright and 0.05 where not."""
    return np.where(tiles[:, 0] > 0, 0.95, 0.05).astype(np.float32)


def unasked(window: Window, magnification: float) -> Lead:
    pytest.fail(f"a glimpse at {window}, {magnification} times, was not needed")


@pytest.mark.parametrize("diameter_px", [9.0, 20.0, 40.0])
def test_the_typical_diameter_is_that_of_what_is_found(
    diameter_px: float,
) -> None:
    lead = np.where(discs(300, diameter_px, 60), 3, -3).astype(np.float32)
    assert typical_diameter_px(lead) == pytest.approx(diameter_px, abs=0.5)


def test_specks_beside_large_particles_do_not_make_them_small() -> None:
    lead = np.where(discs(240, 60, 120), 3, -3).astype(np.float32)
    lead[10::20, 10::20] = 3  # specks of 3 x 3 px, a hundred of them
    lead[11::20, 10::20] = lead[10::20, 11::20] = lead[11::20, 11::20] = 3
    lead[12::20, 10:13:1] = 3
    assert typical_diameter_px(lead) > 55


def test_nothing_found_is_not_small() -> None:
    empty = np.full((64, 64), -5, np.float32)
    assert typical_diameter_px(empty) == float("inf")
    rule = Scales(always=(0.5,), when_small=(2.0,), small_px=12)
    assert rule.beside(empty, unasked) == (0.5,)


def test_small_particles_are_enlarged_and_others_are_not() -> None:
    rule = Scales(always=(0.5,), when_small=(2.0,), small_px=12)
    for diameter_px, expected in ((9.0, (2.0,)), (20.0, (0.5,))):
        lead = np.where(discs(240, diameter_px, 60), 3, -3).astype(np.float32)
        assert rule.beside(lead, unasked) == expected
    assert not NATIVE.beside(np.ones((64, 64), np.float32), unasked)


HAZE = np.where(
    discs(240, 9.0, 30) > 0, 3, np.where(discs(240, 20.0, 30) > 0, -1, -3)
).astype(np.float32)
"""What a lost model says: more doubt than particles."""
RESCUED = Scales(
    always=(0.5,),
    when_small=(2.0,),
    small_px=12,
    most_doubtful=1.6,
    rescue_at=(2.0, 3.0),
    most_doubtful_glimpse=1.25,
)


def test_what_a_model_is_lost_in_at_any_size_is_not_enlarged() -> None:
    asked: list[float] = []

    def lost(window: Window, magnification: float) -> Lead:
        asked.append(magnification)
        return HAZE[window]

    assert RESCUED.beside(HAZE, lost) == (0.5,)
    assert asked == [2.0, 3.0]
    without = replace(RESCUED, rescue_at=())
    assert without.beside(HAZE, unasked) == (0.5,)


@pytest.mark.parametrize("at_home", [2.0, 3.0])
def test_particles_too_small_for_the_native_look_are_enlarged(at_home: float) -> None:
    sure = np.where(discs(240, 9.0, 30), 3, -3).astype(np.float32)

    def glimpse(window: Window, magnification: float) -> Lead:
        return (sure if magnification == at_home else HAZE)[window]

    assert RESCUED.beside(HAZE, glimpse) == (at_home,)
    hardly_seen = np.where(sure > 0, -1, -4).astype(np.float32)  # and none found
    assert RESCUED.beside(hardly_seen, glimpse) == (at_home,)
    wide = np.tile(HAZE, (1, 10))  # 2400 px, 4800 at double
    assert RESCUED.beside(wide, unasked) == (0.5,)


def test_the_side_of_a_rescue_is_bounded_as_it_is_looked_at() -> None:
    asked: list[float] = []

    def lost(window: Window, magnification: float) -> Lead:
        asked.append(magnification)
        return HAZE[:128, :128]

    wide = np.tile(HAZE, (1, 7))  # 1680 px: 3360 at double, 5040 at three times
    assert RESCUED.beside(wide, lost) == (0.5,)
    assert asked == [2.0]


def test_grain_that_a_glimpse_takes_for_a_particle_enlarges_nothing() -> None:
    few = np.full((240, 240), -5, np.float32)
    few[100:104, 100:104] = few[100:104, 140:144] = 5
    hardly_seen = np.minimum(few, -1)
    assert RESCUED.beside(hardly_seen, lambda window, _: few[window]) == (0.5,)
    nothing = np.full((240, 240), -5, np.float32)
    assert RESCUED.beside(nothing, unasked) == (0.5,)


def test_a_glimpse_is_of_the_part_in_which_most_is_seen() -> None:
    seen = np.full((300, 200), -5, np.float32)
    seen[180:260, 20:100] = -1
    rows, columns = most_seen_window(seen, 100)
    assert (seen[rows, columns] > -2).sum() == 80 * 80
    assert seen[rows, columns].shape == (100, 100)
    assert seen[most_seen_window(seen, 400)].shape == seen.shape
    assert seen[most_seen_window(seen, 250)].shape == (250, 200)


def test_a_look_that_doubts_less_counts_more() -> None:
    true = discs(120, 9.0, 30) > 0
    sure = np.where(true, 3, -5).astype(np.float32)
    lost = np.full_like(sure, -5)
    lost[:8] = 1  # a strip, and all of it in doubt
    assert ((mean_lead([sure, lost]) >= 0) != true).any()
    meant = surest_lead([sure, lost])
    assert ((meant >= 0) == true).all()
    assert meant.dtype == np.float32


def test_a_native_look_that_finds_nothing_has_no_part_in_the_answer() -> None:
    true = (
        discs(240, 17.0, 30) > 0
    )  # no specks, of which the enlarged look decides alone
    enlarged = np.where(true, 1.5, -4).astype(np.float32)
    native = np.full_like(enlarged, -9)
    native[3, 3] = -1  # one doubtful pixel
    y, x = np.argwhere(true)[0] + 4
    native[y : y + 2, x : x + 2] = 5  # and a sure one, too small to be a particle
    rule = replace(RESCUED, specks_px=8.0)
    meant = rule.meant({1.0: native, 2.0: enlarged})
    assert ((meant >= 0) == true).all()


def test_a_rescued_frame_is_looked_at_enlarged_beside_one_that_is_not() -> None:
    """Natively, at 300 px and its rim, this stand-in is in doubt of all that is bright."""
    shapes: list[tuple[int, ...]] = []

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        shapes.append(tiles.shape)
        sharp = np.where(tiles[:, 0] > 0.5, 0.99, 0.01)
        said = 0.3 * (sharp > 0.5) if tiles.shape[2] == 384 else sharp
        return said.astype(np.float32)

    rule = replace(RESCUED, always=())
    small, empty = discs(300, 9.0, 30), np.zeros((300, 300), np.float32)
    alone = [predict(frame, run, scales=rule) for frame in (small, empty)]
    together = predict_together([empty, small], run, scales=rule)
    for one, other in zip(alone, reversed(together), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ((alone[0] >= 128) == (small > 0)).mean() > 0.97
    assert not (alone[1] >= 128).any()
    # Two native looks, one glimpse of 128 px and one look at the whole, each with its rim.
    assert shapes[-3:] == [(2, 1, 384, 384), (1, 1, 320, 320), (1, 1, 704, 704)]


def test_leads_and_probabilities_are_each_others_inverse() -> None:
    probability = np.linspace(1e-4, 1 - 1e-4, 64, dtype=np.float32).reshape(8, 8)
    back = probability_of(lead_of(probability))
    np.testing.assert_allclose(back, probability, rtol=1e-4)
    assert np.isfinite(lead_of(np.array([[0, 1]], np.float32))).all()


def test_a_sure_look_outweighs_an_unsure_one() -> None:
    sure, unsure = np.full((4, 4), 6, np.float32), np.full((4, 4), -1, np.float32)
    assert (probability_of(mean_lead([sure, unsure])) > 0.9).all()


def test_shrinking_averages_and_enlarging_keeps_levels() -> None:
    grain = np.random.default_rng(0).normal(0, 1, (128, 96)).astype(np.float32)
    half = magnified(grain, 0.5)
    assert half.shape == (64, 48)
    # A bilinear kernel over 4 x 4 px leaves about a third of white noise's deviation.
    assert half.std() < 0.5
    ramp = np.tile(np.arange(40, dtype=np.float32), (40, 1))
    np.testing.assert_allclose(
        resized(magnified(ramp, 2.0), ramp.shape), ramp, atol=0.3
    )
    assert magnified(grain, 1.0) is grain


def test_the_answer_means_the_leads_of_all_looks() -> None:
    seen: list[tuple[int, ...]] = []

    def by_size(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say 0.9 to the native look and 0.2 to the smaller one."""
        seen.append(tiles.shape[2:])
        value = 0.9 if tiles.shape[2] > 200 else 0.2
        return np.full((len(tiles), *tiles.shape[2:]), value, np.float32)

    frame = np.random.default_rng(1).normal(100, 10, (256, 300))
    shown = predict(frame, by_size, scales=Scales(always=(0.5,)))
    lead = (np.log(0.9 / 0.1) + np.log(0.2 / 0.8)) / 2
    assert np.unique(shown).tolist() == [round(255 / (1 + np.exp(-lead)))]
    assert len(seen) == 2


def test_frames_together_choose_each_its_own_magnifications() -> None:
    rule = Scales(always=(0.5,), when_small=(2.0,), small_px=12)
    frames = [discs(256, 9, 64), discs(256, 30, 64), discs(256, 10, 32)]
    together = predict_together(frames, threshold, scales=rule)
    for frame, shown in zip(frames, together, strict=True):
        np.testing.assert_array_equal(shown, predict(frame, threshold, scales=rule))
        assert (shown >= 128).mean() == pytest.approx(frame.mean(), rel=0.1)


def test_what_is_enlarged_past_one_pass_is_cut_into_tiles() -> None:
    sides: list[int] = []

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        sides.append(max(tiles.shape[2:]))
        return threshold(tiles)

    tiling = Tiling(one_pass_px=300, tile_px=256, overlap_px=64)
    frame = discs(280, 9, 40)
    whole = predict(frame, threshold, scales=LIVE)
    tiled = predict(frame, run, tiling, Scales((), (2.0,), 12))
    assert sides[1:] == [256] * len(sides[1:])
    assert len(sides) > 2
    assert ((whole >= 128) == (tiled >= 128)).mean() > 0.99


def test_large_frames_are_not_enlarged() -> None:
    rule = Scales(when_small=(2.0,), small_px=12, enlarged_up_to_px=200)
    for side_px, expected in ((200, (2.0,)), (240, ())):
        lead = np.where(discs(side_px, 9, 40), 3, -3).astype(np.float32)
        assert rule.beside(lead, unasked) == expected


def test_local_contrast_knows_no_tile() -> None:
    """It reaches 64 px, a quarter of what tiles share: tiles agree with one pass."""
    layer = LocalContrast(16)

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return layer(torch.from_numpy(tiles))[:, 1].sigmoid().numpy()

    frame = np.random.default_rng(3).normal(0, 1, (700, 640)).astype(np.float32)
    tiled = predict(frame, run, Tiling(512, 512, 256), NATIVE).astype(int)
    whole = predict(frame, run, Tiling(4096), NATIVE).astype(int)
    assert np.abs(tiled - whole).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (33, 7)])
def test_tiny_frames_are_looked_at_like_others(shape: tuple[int, int]) -> None:
    def in_doubt(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(tiles[:, 0], 0.3)

    for run in (threshold, in_doubt):
        assert predict(np.ones(shape), run, scales=LIVE).shape == shape
    shown = predict(np.ones(shape), threshold, scales=LIVE)
    assert shown.dtype == to_uint8(np.ones((1, 1), np.float32)).dtype


def test_a_speck_that_only_the_enlarged_look_shows_is_kept() -> None:
    native, enlarged = (np.full((60, 60), -6, np.float32) for _ in range(2))
    enlarged[10:14, 10:14] = 2  # 4.5 px in diameter
    enlarged[30:45, 30:45] = 2  # 17 px: the looks are meant
    shown = with_specks(mean_lead([native, enlarged]), enlarged, 8.0)
    assert (shown[10:14, 10:14] == 2).all()
    assert (shown[30:45, 30:45] == -2).all()
    assert shown.dtype == np.float32
    rule = Scales(when_small=(2.0,), small_px=12, specks_px=8.0)
    native[50:53, 50:53] = 6  # else it would have no part
    together = rule.meant({1.0: native, 2.0: enlarged})
    assert (together[10:14, 10:14] == 2).all()
    assert (together[30:45, 30:45] < 0).all()


def test_specks_change_nothing_where_no_look_is_enlarged() -> None:
    native, half = np.full((9, 9), 1, np.float32), np.full((9, 9), -3, np.float32)
    assert (LIVE.meant({1.0: native, 0.5: half}) == -1).all()
    assert (LIVE.meant({1.0: native}) == 1).all()


LARGE = 100.0


def sides(diameter_px: float, apart_px: int = 256) -> NDArray[np.bool_]:
    return discs(256, diameter_px, apart_px) > 0


def lead_where(mask: NDArray[np.bool_], sure: float = 3.0) -> NDArray[np.float32]:
    return np.where(mask, sure, -sure).astype(np.float32)


def test_the_reduced_look_fills_a_large_particle_and_leaves_its_outline() -> None:
    truth = sides(160)
    hollow = lead_where(truth & ~sides(90))
    from_afar = lead_where(sides(168), 5.0)  # coarse: its edge lies too far out
    shown = with_insides(hollow, from_afar, LARGE, 4)
    assert ((shown >= 0) == truth).mean() > 0.995
    assert shown[sides(80)].min() >= 5


def test_the_gaps_of_a_cluster_stay_open() -> None:
    # 6 px between neighbours, 16 px where four leave room.
    cluster = discs(256, 18, 24) > 0
    from_afar = lead_where(sides(220), 5.0)
    shown = with_insides(lead_where(cluster), from_afar, LARGE, 4)
    assert ((shown >= 0) == cluster).mean() > 0.98


def test_what_is_small_or_not_seen_from_afar_is_left_as_it_was() -> None:
    for seen in (sides(60), np.zeros((256, 256), np.bool_)):
        mean = lead_where(sides(60) & ~sides(40))
        assert with_insides(mean, lead_where(seen), LARGE, 4) is mean


def test_a_hole_at_the_rim_of_the_frame_is_filled_to_the_rim() -> None:
    half = sides(160)[:, 128:]
    hollow = lead_where(half & ~sides(90)[:, 128:])
    shown = with_insides(hollow, lead_where(half, 5.0), LARGE, 4)
    assert ((shown >= 0) == half).mean() > 0.995


@pytest.mark.parametrize("shape", [(255, 301), (97, 130)])
def test_any_shape_has_insides(shape: tuple[int, int]) -> None:
    every = np.ones(shape, np.float32)
    np.testing.assert_array_equal(with_insides(every, 5 * every, LARGE, 4), 5 * every)


def test_the_reduced_look_is_asked_for_insides_alone() -> None:
    rule = Scales(
        always=(0.5,), when_small=(2.0,), small_px=12, inside=0.25, large_px=LARGE
    )
    assert rule.beside(lead_where(sides(160)), unasked) == (0.5, 0.25)
    assert rule.beside(lead_where(discs(240, 9, 60) > 0), unasked) == (2.0,)
    native, half = lead_where(sides(160), 4.0), lead_where(sides(160), 2.0)
    afar = lead_where(sides(40), 9.0)  # no large particle
    shown = rule.meant({1.0: native, 0.5: half, 0.25: afar})
    np.testing.assert_array_equal(shown, mean_lead([native, half]))


def test_what_is_unsure_or_seen_from_afar_alone_is_no_large_particle() -> None:
    hollow = lead_where(sides(160) & ~sides(90))
    assert with_insides(hollow, lead_where(sides(160), 2.0), LARGE, 4) is hollow
    nothing = lead_where(np.zeros((256, 256), np.bool_))
    assert with_insides(nothing, lead_where(sides(160), 5.0), LARGE, 4) is nothing
