import math
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from scipy import ndimage

from emcopilot.dynamics import Dynamics
from emcopilot.optics import Optics
from emcopilot.population import Population
from emcopilot.simulate import (
    Micrograph,
    Scene,
    demo_scene,
    draw_backdrop,
    film,
    random_scene,
    render,
    render_micrograph,
)
from emcopilot.specimen import Body, ellipse_outline

CLEAR = {"haadf": Optics(dose=300), "bf": Optics(dose=300, defocus_px2=-5)}


def scene(mode: str = "haadf", size: int = 256) -> Scene:
    return Scene(
        (size, size), mode, Population(12, 30, touching=0, overlapping=0), CLEAR[mode]
    )


def disc_frame(
    diameter_px: float, y: float, x: float, mode: str = "haadf"
) -> Micrograph:
    here = scene(mode)
    rng = np.random.default_rng(1)
    body = Body(7, y, x, ellipse_outline(1.0, 0.0), diameter_px)
    return render(here, [body], draw_backdrop(here, here.shape, rng), rng)


@pytest.mark.parametrize("diameter_px", [4, 6, 10, 40, 200])
def test_labels_of_a_disc_have_its_area(diameter_px: float) -> None:
    rng = np.random.default_rng(int(diameter_px))
    areas = [
        (disc_frame(diameter_px, *rng.uniform(120, 136, 2)).labels == 1).sum()
        for _ in range(30)
    ]
    # The count of pixel centres scatters by about sqrt(diameter)/3 px around the area.
    tolerance = 5 * 0.35 * math.sqrt(diameter_px) / math.sqrt(30)
    assert np.mean(areas) == pytest.approx(math.pi * diameter_px**2 / 4, abs=tolerance)


def test_truth_of_a_disc_is_analytic() -> None:
    frame = disc_frame(33.3, 100.2, 90.7)
    (particle,) = frame.particles
    assert particle.particle == 7
    assert particle.area_px == math.pi * 33.3**2 / 4
    assert particle.equivalent_diameter_px == pytest.approx(33.3)
    assert particle.equivalent_diameter_nm == pytest.approx(33.3 * 0.2)
    assert (particle.centroid_y_px, particle.centroid_x_px) == (100.2, 90.7)
    assert not particle.touches_border
    assert frame.mean_diameter_nm == pytest.approx(33.3 * 0.2)


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_the_drawn_edge_is_the_true_edge(mode: str) -> None:
    """Half-way between particle and support lies the outline, to half a pixel."""
    here = replace(scene(mode), optics=Optics(
        dose=1e5, support_contrast=0.0, flatness=0.0, inner_contrast=0, illumination=0,
        grain=0, jitter_px=0, line_noise=0, particle_contrast=0.3, gain=0.3, tail=0,
    ))  # fmt: skip
    rng = np.random.default_rng(2)
    body = Body(1, 128, 128, ellipse_outline(1.3, 0.5), 60)
    frame = render(here, [body], draw_backdrop(here, here.shape, rng), rng)
    grey = frame.pixels.astype(float)
    half_way = (grey[128, 128] + grey[20, 20]) / 2
    is_particle = grey > half_way if mode == "haadf" else grey < half_way
    diameter_px = math.sqrt(4 * is_particle.sum() / math.pi)
    assert diameter_px == pytest.approx(60, abs=0.5)


@pytest.mark.parametrize(("mode", "brighter"), [("haadf", True), ("bf", False)])
def test_particles_are_bright_in_haadf_and_dark_in_bright_field(
    mode: str, brighter: bool
) -> None:
    frame = render_micrograph(scene(mode), np.random.default_rng(3))
    inside = frame.pixels[frame.labels > 0].mean()
    assert bool(inside > frame.pixels[frame.labels == 0].mean()) is brighter


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_one_seed_gives_one_frame(mode: str) -> None:
    frames = [
        render_micrograph(scene(mode), np.random.default_rng(s)) for s in (4, 4, 5)
    ]
    assert np.array_equal(frames[0].pixels, frames[1].pixels)
    assert frames[0].particles == frames[1].particles
    assert not np.array_equal(frames[0].pixels, frames[2].pixels)


def test_labels_have_no_gaps_and_match_the_truth() -> None:
    rng = np.random.default_rng(6)
    for _ in range(12):
        frame = render_micrograph(random_scene(rng, shape=(192, 256)), rng)
        assert frame.labels.dtype == np.int32
        labels = np.unique(frame.labels[frame.labels > 0])
        assert labels.tolist() == [p.label for p in frame.particles]
        assert labels.tolist() == list(range(1, len(labels) + 1))
        counted = np.bincount(frame.labels.ravel(), minlength=len(labels) + 1)[1:]
        areas = np.array([p.area_px for p in frame.particles])
        # Pixel centres against area: about 0.35 sqrt(diameter) each; 8 deviations and 2 px
        # for slivers that the border leaves.
        spread = 0.35 * np.sqrt([p.equivalent_diameter_px for p in frame.particles])
        assert (np.abs(counted - areas) < 8 * spread + 2).all()


def test_layers_leave_all_other_scenes_as_they_were() -> None:
    for seed in range(20):
        without, some = (
            random_scene(np.random.default_rng(seed), layers=share)
            for share in (0.0, 0.5)
        )
        if some.population.layer_gap_px is None:
            assert some == without
        else:
            assert replace(some, population=without.population) == without
    layer = random_scene(
        np.random.default_rng(2), shape=(160, 160), median_diameter_px=7, layers=1.0
    )
    frame = render_micrograph(layer, np.random.default_rng(2))
    assert len(frame.particles) > 30
    assert 0.05 < (frame.labels > 0).mean() < 0.7


def test_thick_supports_leave_all_other_scenes_as_they_were() -> None:
    thick = 0
    for seed in range(40):
        without, some = (
            random_scene(np.random.default_rng(seed), layers=0.5, thick=share)
            for share in (0.0, 0.5)
        )
        if some == without:
            continue
        thick += 1
        assert some.mode == "bf"
        assert replace(some, optics=without.optics) == without
        assert some.optics.support_contrast >= 0.35 > without.optics.support_contrast
        assert some.optics.particle_contrast >= 0.6 * some.optics.support_contrast
    assert 4 <= thick <= 20  # a half of the half that is bright field


@pytest.mark.parametrize("seed", range(4))
def test_particles_on_a_thick_support_are_darker_than_what_surrounds_them(
    seed: int,
) -> None:
    scene = random_scene(
        np.random.default_rng(seed), mode="bf", median_diameter_px=30, thick=1.0
    )
    frame = render_micrograph(scene, np.random.default_rng(seed))
    inside = frame.labels > 0
    around = ndimage.binary_dilation(inside, iterations=8)
    around &= ~ndimage.binary_dilation(inside, iterations=2)
    assert frame.pixels[inside].mean() < 0.9 * frame.pixels[around].mean()


def test_the_upper_of_two_particles_owns_what_they_share() -> None:
    here = scene()
    rng = np.random.default_rng(7)
    lower = Body(1, 128, 110, ellipse_outline(1.0, 0.0), 50)
    upper = Body(2, 128, 140, ellipse_outline(1.0, 0.0), 50)
    frame = render(here, [lower, upper], draw_backdrop(here, here.shape, rng), rng)
    assert frame.labels[128, 125] == 2
    below, above = frame.particles
    assert below.is_covered
    assert not above.is_covered
    assert below.area_px < above.area_px == math.pi * 25**2


def test_an_empty_field_is_a_frame_too() -> None:
    empty = replace(scene(), population=Population(0, 20))
    frame = render_micrograph(empty, np.random.default_rng(8))
    assert not frame.labels.any()
    assert frame.particles == ()
    assert math.isnan(frame.mean_diameter_nm)


def test_a_film_is_the_same_for_the_same_seed_and_differs_by_frame() -> None:
    here = demo_scene("haadf", size=256)
    first, again = (list(islice(film(here, 5), 3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.particles == other.particles
    assert not np.array_equal(first[0].pixels, first[1].pixels)
    other_seed = next(film(here, 6))
    assert not np.array_equal(first[0].pixels, other_seed.pixels)


def test_a_film_tells_of_merges_vanishings_and_births() -> None:
    here = demo_scene("bf", size=512)
    lively = Dynamics(nucleation=2, attraction_px=15, ripening_px2=40)
    frames = list(islice(film(here, 3, lively), 25))
    events = [event for frame in frames for event in frame.events]
    assert {event.kind for event in events} == {"merge", "vanish", "nucleate"}
    for before, after in pairwise(frames):
        now = {p.particle for p in after.particles}
        known = {p.particle for p in before.particles}
        for event in after.events:
            if event.kind == "merge":
                assert event.particles[1] not in now
            elif event.kind == "vanish":
                assert event.particles[0] not in now
            else:
                assert event.particles[0] not in known


def test_a_film_drifts_slowly() -> None:
    frames = list(islice(film(demo_scene("haadf", size=256), 2), 12))
    tracks = [{p.particle: p for p in frame.particles} for frame in frames]
    common = set.intersection(*(set(track) for track in tracks))
    assert common
    steps = np.array([
        [later[n].centroid_y_px - now[n].centroid_y_px for n in common]
        for now, later in pairwise(tracks)
    ])  # fmt: skip
    # 24 px and 90 frames: the stage moves at most 24 * pi / 90 = 0.8 px a frame.
    assert np.abs(np.median(steps, axis=1)).max() < 1.2
    assert np.abs(np.median(steps, axis=1)).max() > 0.05


def test_demo_particles_stay_in_the_sizes_that_the_demo_promises() -> None:
    for mode in ("haadf", "bf"):
        frame = next(film(demo_scene(mode), 1))
        whole = [p for p in frame.particles if not p.touches_border]
        assert 40 <= len(whole) <= 120
        diameters = [p.equivalent_diameter_px for p in whole]
        assert 12 <= min(diameters) <= max(diameters) <= 75
        assert frame.pixels.shape == (1024, 1024)
