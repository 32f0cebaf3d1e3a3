from dataclasses import replace

import numpy as np
import pytest

from emcopilot.dynamics import Dynamics, coalesce, evolve
from emcopilot.population import Population, populate
from emcopilot.specimen import Body, ellipse_outline

SHAPE = (600, 600)
POPULATION = Population(30, 25, spread=0.3, touching=0, overlapping=0)
STILL = Dynamics(
    ripening_px2=0,
    deposition=0,
    wander_px=0,
    attraction_px=0,
    nucleation=0,
    vanish_px=0,
)


def disc(particle: int, y: float, x: float, diameter_px: float) -> Body:
    return Body(particle, y, x, ellipse_outline(1.0, 0.0), diameter_px)


def step(bodies: list[Body], dynamics: Dynamics, seed: int = 0):
    rng = np.random.default_rng(seed)
    return evolve(bodies, POPULATION, dynamics, rng, shape=SHAPE, next_number=100)


def volume(bodies: list[Body]) -> float:
    return sum(body.diameter_px**3 for body in bodies)


def test_nothing_changes_a_still_specimen() -> None:
    bodies = [disc(1, 50, 50, 20), disc(2, 200, 200, 40)]
    assert step(bodies, STILL) == (bodies, ())


def test_coalescing_keeps_volume_centre_of_mass_and_the_larger_number() -> None:
    small, large = disc(1, 100, 100, 20), disc(2, 100, 130, 40)
    merged = coalesce(small, large)
    assert merged.particle == 2
    assert merged.diameter_px**3 == pytest.approx(volume([small, large]))
    # The heavier one is 8 times as heavy: its centre moves by a ninth of 30 px.
    assert merged.centre_x_px == pytest.approx(130 - 30 / 9)
    extent = np.ptp(merged.outline, axis=0)
    assert extent[1] > 1.2 * extent[0]  # elongated along the line that joined them


def test_particles_in_contact_merge_and_the_event_says_who() -> None:
    bodies = [disc(4, 100, 100, 30), disc(9, 100, 124, 20), disc(5, 300, 300, 30)]
    after, (event,) = step(bodies, STILL)
    assert [body.particle for body in after] == [4, 5]
    assert event.kind == "merge"
    assert event.particles == (4, 9)
    assert volume(after) == pytest.approx(volume(bodies))


def test_close_particles_approach_until_they_merge() -> None:
    bodies = [disc(1, 100, 100, 30), disc(2, 100, 138, 30)]  # 8 px apart
    dynamics = replace(STILL, attraction_px=9, approach_px=1.0)
    merged: list[int] = []
    for frame in range(20):
        bodies, events = step(bodies, dynamics)
        merged += [frame for event in events if event.particles == (1, 2)]
    # 1 px a frame, shared by the two, closes 8 px in about 8 frames.
    assert len(merged) == 1
    assert 4 < merged[0] < 15


def test_a_merged_particle_rounds_with_time() -> None:
    bodies, _ = step([disc(1, 100, 100, 30), disc(2, 100, 129, 30)], STILL)
    for _ in range(20):
        bodies, _ = step(bodies, STILL)
    extent = np.ptp(bodies[0].outline, axis=0)
    assert extent.max() < 1.35 * extent.min()


def test_ripening_moves_volume_from_small_to_large() -> None:
    bodies = populate(POPULATION, SHAPE, np.random.default_rng(1))
    after, _ = step(bodies, replace(STILL, ripening_px2=10))
    before = {body.particle: body.diameter_px for body in bodies}
    mean_px = np.mean(list(before.values()))
    for body in after:
        grows = before[body.particle] > mean_px
        assert (body.diameter_px > before[body.particle]) is bool(grows)
    assert volume(after) == pytest.approx(volume(bodies), rel=1e-9)


def test_the_smallest_vanish() -> None:
    bodies = [disc(1, 100, 100, 13), disc(2, 300, 300, 60)]
    dynamics = replace(STILL, ripening_px2=20, vanish_px=12)
    after, (event,) = step(bodies, dynamics)
    assert [body.particle for body in after] == [2]
    assert (event.kind, event.particles) == ("vanish", (1,))


def test_deposition_grows_every_volume_alike() -> None:
    after, _ = step(
        [disc(1, 50, 50, 20), disc(2, 200, 200, 40)], replace(STILL, deposition=0.1)
    )
    assert [b.diameter_px**3 for b in after] == pytest.approx(
        [1.1 * 20**3, 1.1 * 40**3]
    )


def test_new_particles_have_new_numbers_and_room() -> None:
    bodies = [disc(1, 300, 300, 60)]
    after, events = step(bodies, replace(STILL, nucleation=60))
    born = after[1:]
    assert len(born) > 2
    assert [body.particle for body in born] == list(range(100, 100 + len(born)))
    assert [event.particles for event in events] == [(b.particle,) for b in born]


def test_an_emptied_specimen_goes_on() -> None:
    assert step([], STILL) == ([], ())
