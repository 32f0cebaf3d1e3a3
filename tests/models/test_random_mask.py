"""Random masks: a simulated domain, measured and drawn anew, is the same domain."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emcopilot.errors import AdaptationError
from emcopilot.labels import label_particles
from emcopilot.particles import measure_particles
from emcopilot.population import Population, populate
from emcopilot.runs import Labels
from emcopilot.specimen import signed_distance, window
from models.mask_statistics import MaskStatistics
from models.random_mask import RandomMask, draw_mask

Mask = NDArray[np.bool_]
SIDE, AROUND, FRAMES = 320, 80, 12
apart = partial(Population, touching=0.0, overlapping=0.0)
DOMAINS = {
    "sparse": apart(10, 16),
    "dense": Population(75, 18, spread=0.2, touching=0.2, overlapping=0.0),
    "clustered": Population(35, 12, clustering=1.0, touching=0.1, overlapping=0.0),
    "large": apart(6, 55),
    "elongated": apart(30, 20, 0.2, 4, 220, (1, 0, 0), 4.0),
}


def frame(population: Population, seed: int) -> Mask:
    """Cut a frame out of a wider specimen, so that its border is like any other line."""
    wide = SIDE + 2 * AROUND
    count = round(population.count * (wide / SIDE) ** 2)
    mask = np.zeros((SIDE, SIDE), bool)
    rng = np.random.default_rng(seed)
    for body in populate(replace(population, count=count), (wide, wide), rng):
        seen = body.moved(-AROUND, -AROUND)
        part = window(seen, mask.shape)
        y = np.arange(part[0].start, part[0].stop, dtype=np.float64)[:, None]
        x = np.arange(part[1].start, part[1].stop, dtype=np.float64)[None]
        if y.size and x.size:
            mask[part] |= signed_distance(seen, y, x)[0] > 0
    return mask


@dataclass(frozen=True)
class Redrawn:
    """A domain as it was, and as it is drawn anew."""

    masks: list[Mask]
    before: MaskStatistics
    drawn: list[RandomMask]
    after: MaskStatistics


@cache
def redrawn(kind: str) -> Redrawn:
    masks = [frame(DOMAINS[kind], seed) for seed in range(FRAMES)]
    before = MaskStatistics.of(masks)
    rng = np.random.default_rng(1)
    drawn = [draw_mask(before, (SIDE, SIDE), rng) for _ in range(2 * FRAMES)]
    return Redrawn(masks, before, drawn, MaskStatistics.of(one.mask for one in drawn))


def aspect_ratios(masks: Sequence[Mask]) -> NDArray[np.float64]:
    ratios: list[NDArray[np.float64]] = []
    for mask in masks:
        labels = label_particles(mask)
        table = measure_particles(labels, labels)
        ratios.append(table.aspect_ratio[~table.touches_border])
    return np.concatenate(ratios)


def quadrat_ratio(masks: Sequence[Mask]) -> float:
    """Variance over mean of particles in a sixteenth of a frame; 1 is pure chance."""
    counts = []
    for mask in masks:
        labels = label_particles(mask)
        table = measure_particles(labels, labels)
        points = table.centroid_y_px, table.centroid_x_px
        counts.append(np.histogram2d(*points, bins=4, range=[(0, SIDE)] * 2)[0])
    held = np.array(counts).reshape(len(masks), -1)
    return float(held.var(axis=1).mean() / held.mean())


def mean_and_spread(statistics: MaskStatistics) -> tuple[float, float]:
    mean = float(statistics.weights @ statistics.diameters_px)
    squares = statistics.weights @ (statistics.diameters_px - mean) ** 2
    return mean, float(np.sqrt(squares))


@pytest.mark.parametrize("kind", DOMAINS)
def test_density_is_the_domains(kind: str) -> None:
    domain = redrawn(kind)
    # Means over 12 and 24 frames of 6 to 75 particles, and 3 % that merge where they touch.
    counts = domain.before.counts
    error = counts.std() * np.sqrt(1 / FRAMES + 1 / (2 * FRAMES))
    tolerance = 0.03 * counts.mean() + 3 * max(error, 0.2)
    assert abs(domain.after.counts.mean() - counts.mean()) < tolerance


@pytest.mark.parametrize("kind", DOMAINS)
def test_diameters_have_the_domains_mean_and_spread(kind: str) -> None:
    domain = redrawn(kind)
    mean, spread = mean_and_spread(domain.before)
    mean_after, spread_after = mean_and_spread(domain.after)
    # Three standard errors of two samples, and the 2 % of a smoothed, pixelated outline.
    error = spread * np.sqrt(
        1 / len(domain.before.weights) + 1 / len(domain.after.weights)
    )
    assert abs(mean_after - mean) < 3 * error + 0.02 * mean
    assert abs(spread_after - spread) < 3 * error + 0.03 * mean


@pytest.mark.parametrize("kind", DOMAINS)
def test_shapes_are_the_domains(kind: str) -> None:
    domain = redrawn(kind)
    before = aspect_ratios(domain.masks)
    after = aspect_ratios([one.mask for one in domain.drawn])
    error = before.std() * np.sqrt(1 / len(before) + 1 / len(after))
    # Ripples of 1.5 % make a disc an ellipse of 1.03.
    assert abs(after.mean() - before.mean()) < 3 * error + 0.03
    assert after.std() == pytest.approx(before.std(), rel=0.25)


@pytest.mark.parametrize("kind", ["dense", "clustered"])
def test_as_many_touch_as_in_the_domain(kind: str) -> None:
    domain = redrawn(kind)
    # A few of the redrawn contacts are too deep to be told apart again.
    assert 0.65 < domain.after.touching / domain.before.touching < 1.2


@pytest.mark.parametrize("kind", ["sparse", "large", "elongated"])
def test_particles_of_a_domain_without_contacts_keep_apart(kind: str) -> None:
    domain = redrawn(kind)
    assert domain.after.touching <= domain.before.touching + 0.02


def test_clusters_stay_clusters_and_even_stays_even() -> None:
    clustered, dense = redrawn("clustered"), redrawn("dense")
    before = quadrat_ratio(clustered.masks)
    after = quadrat_ratio([one.mask for one in clustered.drawn])
    # Where a cluster is full the next particle goes elsewhere: a fifth less clustered.
    assert before > 2
    assert 0.6 < after / before < 1.25
    assert quadrat_ratio([one.mask for one in dense.drawn]) < 1


@pytest.mark.parametrize("kind", DOMAINS)
def test_the_border_cuts_as_many_as_in_the_domain(kind: str) -> None:
    domain = redrawn(kind)

    def share_cut(masks: Sequence[Mask]) -> float:
        covered = [np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]]) for m in masks]
        return float(np.mean(covered))

    before = share_cut(domain.masks)
    after = share_cut([one.mask for one in domain.drawn])
    # The border is a line like any other: it is covered as the frame is.
    within = np.mean([one.mask.mean() for one in domain.drawn])
    assert after == pytest.approx(within, rel=0.3)
    assert after == pytest.approx(before, rel=0.45)


@pytest.mark.parametrize("kind", DOMAINS)
def test_no_two_particles_are_alike(kind: str) -> None:
    seen: set[bytes] = set()
    count = 0
    for one in redrawn(kind).drawn[:6]:
        for crop in whole_crops(one.labels):
            if crop.sum() < 150:
                continue  # on a coarse grid two different small discs may look the same
            count += 1
            sides = [np.rot90(side, n) for side in (crop, crop[::-1]) for n in range(4)]
            seen.add(min(bytes(side.shape) + side.tobytes() for side in sides))
    assert len(seen) == count


def whole_crops(labels: Labels) -> list[Mask]:
    inner = set(np.unique(labels[1:-1, 1:-1])) - {0}
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    crops = []
    for number in inner - set(border.tolist()):
        rows, columns = np.nonzero(labels == number)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        crops.append(labels[box] == number)
    return crops


def test_the_same_generator_draws_the_same_mask_and_another_another() -> None:
    statistics = redrawn("dense").before
    one, again, other = (
        draw_mask(statistics, (200, 240), np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.mask, other.mask)


def test_no_drawn_mask_repeats_a_measured_one() -> None:
    domain = redrawn("dense")
    for one, mask in itertools.product(domain.drawn[:8], domain.masks[:8]):
        for turned in (mask, mask[::-1]):
            overlap = (one.mask & turned).sum() / (one.mask | turned).sum()
            assert overlap < 0.5


def test_a_frame_smaller_or_larger_than_the_measured_has_their_density() -> None:
    statistics = redrawn("clustered").before
    rng = np.random.default_rng(2)
    per_px = statistics.densities_per_mpx.mean() / 1e6
    for shape, draws in (((96, 160), 80), ((640, 500), 16)):
        held = MaskStatistics.of(
            draw_mask(statistics, shape, rng).mask for _ in range(draws)
        ).counts
        # Clustered frames and parts of them differ; three standard errors of the mean.
        error = held.std() / np.sqrt(draws)
        assert abs(held.mean() - per_px * shape[0] * shape[1]) < 3 * error


def test_a_crowded_field_ends_and_holds_what_fits() -> None:
    statistics = redrawn("dense").before
    crowded = replace(statistics, counts=statistics.counts * 8)
    one = draw_mask(crowded, (160, 160), np.random.default_rng(0))
    assert 0.3 < one.mask.mean() < 0.95


def test_frames_without_particles_are_drawn_as_well() -> None:
    statistics = redrawn("sparse").before
    empty = replace(statistics, counts=np.zeros_like(statistics.counts))
    one = draw_mask(empty, (64, 64), np.random.default_rng(0))
    assert not one.mask.any()
    assert one.labels.dtype == np.int32


def test_a_shape_without_pixels_is_an_error() -> None:
    with pytest.raises(AdaptationError, match="1 px or more"):
        draw_mask(redrawn("sparse").before, (0, 64), np.random.default_rng(0))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(DOMAINS)),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_number_what_the_mask_shows_without_gaps(
    kind: str, height: int, width: int, seed: int
) -> None:
    statistics = redrawn(kind).before
    one = draw_mask(statistics, (height, width), np.random.default_rng(seed))
    assert one.mask.shape == one.labels.shape == (height, width)
    assert one.mask.dtype == np.bool_
    assert one.labels.dtype == np.int32
    assert np.array_equal(one.mask, one.labels > 0)
    numbers = np.unique(one.labels[one.mask])
    assert np.array_equal(numbers, np.arange(1, len(numbers) + 1))
