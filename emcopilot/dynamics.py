"""How supported particles change from one frame of a film to the next."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from emcopilot.population import Population, draw_body, is_free
from emcopilot.specimen import Body, FloatArray, ellipse_outline, relaxed


@dataclass(frozen=True, slots=True)
class Dynamics:
    """Speeds of everything that happens, per frame."""

    ripening_px2: float = 14.0
    """Ostwald ripening: large particles grow at the cost of small ones."""
    deposition: float = 0.008
    """Share of its volume that each particle gains."""
    wander_px: float = 0.25
    """Deviation of a 20 px particle's random step; smaller ones go farther."""
    attraction_px: float = 9.0
    """Particles closer than this approach each other until they touch and merge."""
    approach_px: float = 1.2
    """Speed of that approach."""
    nucleation: float = 0.25
    """New particles a frame, on average, over a field of a million pixels."""
    vanish_px: float = 12.0
    """A particle that ripens below this diameter dissolves."""
    drift_px: float = 24.0
    """The stage never drifts farther from where it began."""
    drift_period_frames: float = 90.0
    """Frames until the stage comes back."""


@dataclass(frozen=True, slots=True)
class Event:
    """A particle that merged, vanished or appeared."""

    kind: Literal["merge", "vanish", "nucleate"]
    particles: tuple[int, ...]
    """Numbers of those that it happened to; the first of a merge lives on."""
    y_px: float
    x_px: float
    """Where, in px of the frame."""


def evolve(
    bodies: list[Body],
    population: Population,
    dynamics: Dynamics,
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    next_number: int,
) -> tuple[list[Body], tuple[Event, ...]]:
    """Take the specimen one frame further.

    Parameters
    ----------
    bodies : list of Body
        Bottom-most first; particles on a specimen of `shape` px.
    population : Population
        What new particles look like.
    dynamics : Dynamics
    rng : numpy Generator
    shape : (int, int)
    next_number : int
        The first new particle's; a number is never used twice.

    Returns
    -------
    bodies : list of Body
        Those that live on keep their number and order.
    events : tuple of Event
    """
    bodies = [_relax(body) for body in bodies]
    bodies, vanished = _ripen(bodies, dynamics)
    bodies = _wander(bodies, dynamics, rng)
    bodies, merged = _merge(_approach(bodies, dynamics))
    born = _nucleate(bodies, population, dynamics, shape, rng)
    born = [replace(b, particle=n) for n, b in enumerate(born, next_number)]
    appeared = [_event("nucleate", body) for body in born]
    return bodies + born, (*vanished, *merged, *appeared)


def coalesce(first: Body, second: Body) -> Body:
    """Fuse two particles into one of the same volume, for now elongated along their axis.

    The larger one's number lives on. Volume is that of spheres: the cube of diameter.
    """
    large, small = sorted((first, second), key=lambda body: -body.diameter_px)
    volumes = large.diameter_px**3, small.diameter_px**3
    diameter_px = sum(volumes) ** (1 / 3)
    share = volumes[1] / sum(volumes)
    to_y = small.centre_y_px - large.centre_y_px
    to_x = small.centre_x_px - large.centre_x_px
    # Two equal spheres in contact are twice as long as wide; fused, they have begun to round.
    elongation = 1 + 0.6 * small.diameter_px / large.diameter_px
    return replace(
        large.moved(share * to_y, share * to_x),
        outline=ellipse_outline(elongation, math.atan2(to_y, to_x)),
        diameter_px=diameter_px,
        contrast=(1 - share) * large.contrast + share * small.contrast,
    )


def _relax(body: Body) -> Body:
    """Round a particle that is far from round; facets and slight ellipses are stable."""
    radius = np.sqrt((body.outline**2).sum(axis=1))
    if radius.max() < 1.3 * radius.min():
        return body
    return replace(body, outline=relaxed(body.outline, 0.1))


def _ripen(bodies: list[Body], dynamics: Dynamics) -> tuple[list[Body], list[Event]]:
    """Move volume from small to large particles; what is exchanged sums to nothing.

    Source: diffusion-limited ripening, dr/dt ~ (1/r* - 1/r)/r, with the critical size r*
    at which the exchange is balanced: the mean.
    """
    if not bodies:
        return [], []
    diameters = np.array([body.diameter_px for body in bodies])
    exchanged = dynamics.ripening_px2 * (diameters - diameters.mean())
    volumes = diameters**3 * (1 + dynamics.deposition) + exchanged
    grown = np.cbrt(np.maximum(volumes, 0))
    alive: list[Body] = []
    vanished: list[Event] = []
    for body, diameter_px in zip(bodies, grown.tolist(), strict=True):
        if diameter_px < dynamics.vanish_px:
            vanished.append(_event("vanish", body))
        else:
            alive.append(replace(body, diameter_px=diameter_px))
    return alive, vanished


def _wander(
    bodies: list[Body], dynamics: Dynamics, rng: np.random.Generator
) -> list[Body]:
    steps = rng.normal(0, dynamics.wander_px, (len(bodies), 2))
    return [
        body.moved(*(step * 20 / body.diameter_px).tolist())
        for body, step in zip(bodies, steps, strict=True)
    ]


def _approach(bodies: list[Body], dynamics: Dynamics) -> list[Body]:
    """Draw close pairs together, the lighter one faster."""
    moves = np.zeros((len(bodies), 2))
    for first, second, gap_px, toward in _close_pairs(bodies, dynamics.attraction_px):
        volumes = bodies[first].diameter_px ** 3, bodies[second].diameter_px ** 3
        step = min(dynamics.approach_px, max(gap_px, 0) + 0.5) * toward / sum(volumes)
        moves[first] += step * volumes[1]
        moves[second] -= step * volumes[0]
    return [
        body.moved(*move.tolist()) for body, move in zip(bodies, moves, strict=True)
    ]


def _merge(bodies: list[Body]) -> tuple[list[Body], list[Event]]:
    """Fuse each pair in contact; a particle fuses with one other a frame."""
    fused: dict[int, Body] = {}
    gone: set[int] = set()
    events: list[Event] = []
    for first, second, _, _ in _close_pairs(bodies, 0.0):
        if {first, second} & (fused.keys() | gone):
            continue
        body = coalesce(bodies[first], bodies[second])
        kept = first if bodies[first].particle == body.particle else second
        lost = first + second - kept
        fused[kept] = body
        gone.add(lost)
        events.append(replace(_event("merge", body), particles=(
            body.particle, bodies[lost].particle,
        )))  # fmt: skip
    alive = [fused.get(i, body) for i, body in enumerate(bodies) if i not in gone]
    return alive, events


def _close_pairs(
    bodies: list[Body], within_px: float
) -> list[tuple[int, int, float, FloatArray]]:
    """Find pairs whose outlines are at most `within_px` apart along their axis.

    Each is (index, index, gap in px, unit vector from the first to the second).
    """
    centres = np.array([[b.centre_y_px, b.centre_x_px] for b in bodies]).reshape(-1, 2)
    reach = np.array([body.reach_px for body in bodies])
    between = centres[None, :] - centres[:, None]
    apart = np.sqrt((between**2).sum(axis=2))
    near = np.triu(apart < reach[:, None] + reach[None, :] + within_px, 1)
    pairs: list[tuple[int, int, float, FloatArray]] = []
    for first, second in np.argwhere(near).tolist():
        toward = between[first, second] / max(apart[first, second], 1e-9)
        to_edges = (
            (bodies[first].vertices @ toward).max()
            + (bodies[second].vertices @ -toward).max()
        )  # fmt: skip
        gap_px = float(apart[first, second] - to_edges)
        if gap_px <= within_px:
            pairs.append((first, second, gap_px, toward))
    return pairs


def _nucleate(
    bodies: list[Body],
    population: Population,
    dynamics: Dynamics,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> list[Body]:
    born: list[Body] = []
    for _ in range(int(rng.poisson(dynamics.nucleation * shape[0] * shape[1] / 1e6))):
        drawn = draw_body(population, 0, rng)
        smaller = max(0.6 * drawn.diameter_px, 1.3 * dynamics.vanish_px)
        y, x = rng.uniform((0, 0), shape).tolist()
        body = replace(drawn, diameter_px=smaller).moved(y, x)
        if is_free(body, None, bodies + born):
            born.append(body)
    return born


def _event(kind: Literal["merge", "vanish", "nucleate"], body: Body) -> Event:
    return Event(kind, (body.particle,), body.centre_y_px, body.centre_x_px)
