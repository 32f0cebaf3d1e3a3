"""Statistics of rough masks: what is known of a simulated domain comes back."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emcopilot.errors import AdaptationError
from emcopilot.population import Population, populate
from emcopilot.specimen import (
    ellipse_outline,
    polygon_area,
    signed_distance,
    window,
)
from models.mask_statistics import CORNERS, MaskStatistics, unit_outline

Mask = NDArray[np.bool_]
SIDE, AROUND = 384, 128
apart = partial(Population, touching=0.0, overlapping=0.0)


def frame(population: Population, seed: int, side: int = SIDE) -> Mask:
    """Cut a frame out of a wider specimen, so that its border is like any other line."""
    wide = side + 2 * AROUND
    count = round(population.count * (wide / side) ** 2)
    mask = np.zeros((side, side), bool)
    rng = np.random.default_rng(seed)
    for body in populate(replace(population, count=count), (wide, wide), rng):
        seen = body.moved(-AROUND, -AROUND)
        part = window(seen, mask.shape)
        y = np.arange(part[0].start, part[0].stop, dtype=np.float64)[:, None]
        x = np.arange(part[1].start, part[1].stop, dtype=np.float64)[None]
        if y.size and x.size:
            mask[part] |= signed_distance(seen, y, x)[0] > 0
    return mask


def frames(population: Population, count: int) -> list[Mask]:
    return [frame(population, seed) for seed in range(count)]


def disc(mask: Mask, y: float, x: float, diameter_px: float) -> None:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask |= (rows - y) ** 2 + (columns - x) ** 2 <= diameter_px**2 / 4


def grid_of_discs(diameter_px: float = 14, pitch_px: int = 40) -> Mask:
    mask = np.zeros((SIDE, SIDE), bool)
    for y in range(30, SIDE - 20, pitch_px):
        for x in range(30, SIDE - 20, pitch_px):
            disc(mask, y, x, diameter_px)
    return mask


def test_density_and_diameters_of_a_domain_are_found() -> None:
    population = apart(40, 18, spread=0.2)
    statistics = MaskStatistics.of(frames(population, 12))
    # 480 particles by chance in or out of the frame: 5 % twice over.
    assert statistics.counts.mean() == pytest.approx(40, rel=0.1)
    mean = float(statistics.weights @ statistics.diameters_px)
    # exp(0.2^2 / 2) above the median; 480 of them are known to 1 %.
    assert mean == pytest.approx(18 * np.exp(0.02), rel=0.03)
    assert statistics.touching < 0.02


def test_large_particles_that_the_border_excludes_are_weighed_up() -> None:
    # Discs of 30 and 90 px, as often, anywhere: of those whose centre is in the frame 42 in 100
    # large ones lie wholly within, and 78 small ones.
    rng = np.random.default_rng(0)
    masks = [np.zeros((256, 256), bool) for _ in range(120)]
    for number, mask in enumerate(masks):
        y, x = rng.uniform(-45, 301, 2)
        disc(mask, y, x, 90 if number % 2 else 30)
    statistics = MaskStatistics.of(masks)
    large = statistics.diameters_px > 60
    assert large.mean() < 0.4
    # 30 large discs are whole by chance: their share is known to 6 %.
    assert statistics.weights[large].sum() == pytest.approx(0.5, abs=0.13)


def test_discs_side_by_side_touch_and_a_deep_pair_overlaps() -> None:
    mask = grid_of_discs()
    mask[:, SIDE // 2 :] = False
    alone = MaskStatistics.of([mask])
    assert alone.touching == 0
    for step in range(8):
        disc(mask, 30 + 40 * step, 250, 20)
        disc(mask, 30 + 40 * step, 250 + (20 if step < 4 else 16), 20)
    joined = MaskStatistics.of([mask])
    particles = joined.group_sizes.sum()
    assert joined.touching == pytest.approx(16 / particles)
    assert joined.overlapping == pytest.approx(0.5)


def test_specks_and_a_blob_are_left_out() -> None:
    clean = grid_of_discs(diameter_px=24)
    faulty = clean.copy()
    for y in range(5, SIDE, 12):
        faulty[y : y + 4, 2:6] = True
    faulty[:, -80:] = True
    kept = SIDE - 80 - 2
    whole = clean[:, :kept]
    expected = MaskStatistics.of([np.pad(whole, ((0, 0), (0, 82)))])
    measured = MaskStatistics.of([faulty])
    assert measured.diameters_px.max() < 26
    assert measured.diameters_px.min() > 20
    assert len(measured.diameters_px) <= len(expected.diameters_px)


def test_even_placement_stays_even_and_clusters_show() -> None:
    even = apart(45, 12)
    clustered = replace(even, clustering=1.0)
    assert (MaskStatistics.of(frames(even, 8)).placement == 1).all()
    placement = MaskStatistics.of(frames(clustered, 8)).placement
    assert placement.std() > 0.5
    assert placement.min() > 0
    assert placement.mean() == pytest.approx(1, abs=0.01)


def test_a_bare_half_of_the_frame_stays_nearly_bare() -> None:
    masks = frames(apart(60, 10), 5)
    for mask in masks:
        mask[:, : SIDE // 2] = False
    placement = MaskStatistics.of(masks).placement
    left, right = placement[:, :, :24].mean(), placement[:, :, 40:].mean()
    assert left < 0.25 * right


def test_the_core_is_the_pitch_of_an_ordered_film() -> None:
    statistics = MaskStatistics.of([grid_of_discs(diameter_px=20, pitch_px=30)])
    assert statistics.core == pytest.approx(
        1.5, rel=0.03
    )  # the disc's edge is +-0.5 px


def test_outlines_have_area_one_about_their_centre() -> None:
    statistics = MaskStatistics.of(frames(apart(40, 18), 3))
    assert statistics.outlines.shape[1:] == (CORNERS, 2)
    assert (np.diff(statistics.outline_diameters_px) >= 0).all()
    for outline in statistics.outlines:
        assert polygon_area(outline.astype(float)) == pytest.approx(1, rel=1e-4)
        angles = np.arctan2(*(outline.T))
        turned = np.abs(np.diff(np.unwrap(np.append(angles, angles[0]))).sum())
        assert turned == pytest.approx(2 * np.pi)  # the centre lies inside


def test_an_outline_that_is_not_star_shaped_keeps_its_bay() -> None:
    horseshoe = np.array(
        [(0, 0), (40, 0), (40, 30), (30, 30), (30, 10), (10, 10), (10, 30), (0, 30)]
    )
    outline = unit_outline(horseshoe.astype(float)).astype(float)
    width, height = np.ptp(outline[:, 1]), np.ptp(outline[:, 0])
    # 800 of the 1,200 px of its box; the corners of the even spacing cut a few.
    assert 1 / (width * height) == pytest.approx(800 / 1200, rel=0.05)


def test_an_ellipse_comes_back_as_an_ellipse() -> None:
    vertices = 12 * ellipse_outline(3.0, 0.4)
    outline = unit_outline(vertices[:, ::-1]).astype(float)
    spread = np.linalg.svd(outline, compute_uv=False)
    # Corners evenly along the outline weigh the ends less than the area does.
    assert 2.3 < spread[0] / spread[1] < 3.2


def test_uint8_maps_say_what_their_masks_say() -> None:
    masks = frames(apart(40, 18), 2)
    of_masks = MaskStatistics.of(masks)
    of_maps = MaskStatistics.of(mask.astype(np.uint8) * 255 for mask in masks)
    assert np.array_equal(of_masks.diameters_px, of_maps.diameters_px)


def test_frames_without_particles_count_as_density_zero() -> None:
    masks = [*frames(apart(40, 18), 2), np.zeros((100, 300), bool)]
    statistics = MaskStatistics.of(masks)
    assert statistics.densities_per_mpx[2] == 0
    assert statistics.shapes_px[2].tolist() == [100, 300]


@pytest.mark.parametrize("discs", [0, 1, 9])
def test_too_few_particles_are_an_error_that_says_what_to_do(discs: int) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    for number in range(discs):
        disc(mask, 30, 30 + 35 * number, 16)
    with pytest.raises(AdaptationError, match=f"hold {discs} whole.*10.*add frames"):
        MaskStatistics.of([mask])
    with pytest.raises(AdaptationError):
        MaskStatistics.of([])


def test_a_full_mask_is_an_error_too() -> None:
    with pytest.raises(AdaptationError):
        MaskStatistics.of([np.ones((64, 64), bool)])


def test_statistics_are_saved_and_loaded_unchanged(tmp_path: Path) -> None:
    statistics = MaskStatistics.of(frames(Population(40, 18, clustering=1.0), 4))
    path = tmp_path / "statistics.npz"
    statistics.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = MaskStatistics.load(path)
    for name in MaskStatistics.__dataclass_fields__:
        before, after = getattr(statistics, name), getattr(loaded, name)
        assert np.array_equal(before, after), name
        assert np.asarray(before).dtype == np.asarray(after).dtype, name


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other"])
def test_a_damaged_file_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "statistics.npz"
    MaskStatistics.of([grid_of_discs()]).save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "text":
        path.write_text("no archive")
    else:
        np.savez(path, other=1)
    with pytest.raises(AdaptationError, match="cannot read mask statistics"):
        MaskStatistics.load(path)
