"""Micrographs and in-situ films whose particles are known exactly.

A scene says what lies on the grid and how the microscope looks at it; rendering it
gives pixels, labels and the true particle table. Pixels know the outline through its
signed distance, so the drawn edge and the true edge agree below a pixel's width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from emcopilot.dynamics import Dynamics, Event, evolve
from emcopilot.optics import (
    Backdrop,
    Image,
    Mode,
    Optics,
    bright_field,
    digitise,
    haadf,
    on_thick_support,
    random_optics,
    uneven_beam,
)
from emcopilot.population import Population, populate, random_layer, random_population
from emcopilot.specimen import Body, sight, signed_distance, window
from emcopilot.support import Shape, Style, draw_support, power_law_noise

LAYERS = 0.2
"""Chance of a close layer in what networks learn from; elsewhere there is none."""
THICK = 0.3
"""Chance, in what a base model learns from, that a bright-field support is as dark as particles.
Adaptations do not rehearse it: EMPS learnt without a label fell from 0.843 to 0.820 MIoU (n=38,
one seed each); most was lost on two fields."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One field of view: what lies there and how it is seen."""

    shape: Shape
    mode: Mode
    population: Population
    optics: Optics = field(default_factory=Optics)
    style: Style = "training"
    """The family of supports; nothing is in both."""
    pixel_size_nm: float = 0.2


@dataclass(frozen=True, slots=True)
class TrueParticle:
    """What is known of one particle that is seen in a frame."""

    particle: int
    """Its number for life."""
    label: int
    """Its value in the frame's labels."""
    centroid_y_px: float
    centroid_x_px: float
    """Of the whole particle, also where a part is hidden."""
    area_px: float
    """Visible area: without what other particles or the border hide."""
    equivalent_diameter_px: float
    equivalent_diameter_nm: float
    touches_border: bool
    is_covered: bool
    """Another particle hides a part of it."""


@dataclass(frozen=True, slots=True)
class Micrograph:
    """A frame with its truth."""

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    """Shape (H, W), grey levels as a camera stores them."""
    labels: NDArray[np.int32]
    """Shape (H, W); a pixel belongs to the uppermost particle that holds its centre."""
    particles: tuple[TrueParticle, ...]
    """In label order."""
    pixel_size_nm: float
    mode: Mode
    events: tuple[Event, ...] = ()
    """What became of particles in view since the film's frame before."""

    @property
    def mean_diameter_nm(self) -> float:
        """Mean equivalent diameter of the particles that the border leaves whole."""
        whole = [
            p.equivalent_diameter_nm for p in self.particles if not p.touches_border
        ]
        return float(np.mean(whole)) if whole else math.nan


def render_micrograph(scene: Scene, rng: np.random.Generator) -> Micrograph:
    """Draw one field of view of `scene`; the same rng state gives the same frame."""
    bodies = populate(scene.population, scene.shape, rng)
    return render(scene, bodies, draw_backdrop(scene, scene.shape, rng), rng)


def draw_backdrop(scene: Scene, shape: Shape, rng: np.random.Generator) -> Backdrop:
    """Draw what surrounds the particles on a specimen of `shape` px."""
    return Backdrop(
        thickness=draw_support(scene.style, shape, rng),
        grain=rng.standard_normal(shape, np.float32),
        relief=power_law_noise(shape, 3.0, rng, 16),
        illumination=uneven_beam(scene.shape, scene.optics.illumination, rng),
    )


def render(
    scene: Scene, bodies: list[Body], backdrop: Backdrop, rng: np.random.Generator
) -> Micrograph:
    """Look at `bodies`, bottom-most first, before `backdrop`; `rng` makes the noise."""
    mass, owner = _lay(bodies, scene, backdrop.relief)
    image = haadf if scene.mode == "haadf" else bright_field
    pixels = digitise(image(mass, backdrop, scene.optics, rng), scene.optics)
    labels, particles = _truth(bodies, owner, scene)
    return Micrograph(pixels, labels, particles, scene.pixel_size_nm, scene.mode)


def random_scene(
    rng: np.random.Generator,
    *,
    shape: Shape = (512, 512),
    mode: Mode | None = None,
    style: Style = "training",
    median_diameter_px: float | None = None,
    layers: float = 0.0,
    thick: float = 0.0,
) -> Scene:
    """Draw a scene from everything that microscopists show; one in thirty is empty.

    Parameters
    ----------
    rng : numpy Generator
    shape : (int, int)
    mode : {"haadf", "bf"}, optional
        Drawn where not given.
    style : {"training", "demo"}
        The family of supports.
    median_diameter_px : float, optional
        Drawn between 5 and 150 px, evenly in its logarithm, where not given.
    layers : float
        Chance of particles that lie close together in a layer.
    thick : float
        Chance that a bright-field support is as dark as particles are.

    Notes
    -----
    Scenes without a layer or a thick support are those that a generator of the same seed draws
    where neither is asked for.
    """
    aside = rng.spawn(1)[0]
    mode = mode or ("haadf" if rng.random() < 0.5 else "bf")
    largest_px = min(150, min(shape) / 4)
    diameter_px = median_diameter_px or 5 * (largest_px / 5) ** rng.random()
    population = random_population(diameter_px, shape, rng)
    if population.count and aside.random() < layers:
        population = random_layer(diameter_px, aside)
    optics = random_optics(mode, diameter_px, rng)
    if mode == "bf" and aside.random() < thick:
        optics = on_thick_support(optics, diameter_px, aside)
    return Scene(
        shape=shape,
        mode=mode,
        population=population,
        optics=optics,
        style=style,
        pixel_size_nm=0.05 * 40 ** rng.random(),
    )


def demo_scene(mode: Mode, *, size: int = 1024, pixel_size_nm: float = 0.2) -> Scene:
    """Return the scene of the demo: metal particles of 12 to 70 px on a held-out film."""
    optics = {
        "haadf": Optics(dose=50, particle_contrast=1.6, support_contrast=0.5, tail=0.1),
        "bf": Optics(
            dose=220,
            particle_contrast=0.9,
            support_contrast=0.2,
            defocus_px2=-12,
            grain=0.06,
            inner_contrast=0.12,
            read_noise=3,
        ),
    }
    population = Population(
        count=max(round(85 * (size / 1024) ** 2), 4),
        median_diameter_px=30,
        spread=0.35,
        smallest_px=14,
        largest_px=66,
        shapes=(0.6, 0.2, 0.2),
        largest_aspect_ratio=1.4,
        touching=0.0,
        overlapping=0.0,
        clustering=0.15,
        contrast_spread=0.12,
    )
    return Scene((size, size), mode, population, optics[mode], "demo", pixel_size_nm)


def film(
    scene: Scene, seed: int, dynamics: Dynamics | None = None
) -> Iterator[Micrograph]:
    """Watch a specimen in situ, frame after frame without end.

    Particles wander, ripen, merge, vanish and appear while the stage drifts. Each frame
    is rendered when it is asked for; the support is drawn once and shifted.

    Parameters
    ----------
    scene : Scene
        The first frame's; its population fills the strip around the frame as well.
    seed : int
        The same scene and seed give the same film.
    dynamics : Dynamics, optional
        How fast the specimen changes.
    """
    dynamics = dynamics or Dynamics()
    # One stream of numbers each, so that a change of noise leaves the story alone.
    story, looks, noise = (
        np.random.default_rng([seed, index, len(scene.style)]) for index in range(3)
    )
    margin = math.ceil(dynamics.drift_px) + 2
    height, width = scene.shape
    canvas = (height + 2 * margin, width + 2 * margin)
    more = canvas[0] * canvas[1] / (height * width)
    population = replace(scene.population, count=round(scene.population.count * more))
    bodies = populate(population, canvas, story)
    backdrop = draw_backdrop(scene, canvas, looks)
    phases = story.uniform(0, 2 * math.pi, 2)
    events: tuple[Event, ...] = ()
    frame, next_number = 0, 1
    while True:
        y, x = margin + _drift(frame, phases, dynamics)
        seen = [body.moved(-y, -x) for body in bodies]
        micrograph = render(scene, seen, backdrop.shifted(y, x, scene.shape), noise)
        yield replace(micrograph, events=_in_view(events, y, x, scene.shape))
        next_number = max(next_number, *(body.particle + 1 for body in bodies), 1)
        bodies, events = evolve(
            bodies, population, dynamics, story, shape=canvas, next_number=next_number
        )
        frame += 1


def _drift(
    frame: int, phases: NDArray[np.float64], dynamics: Dynamics
) -> NDArray[np.float64]:
    """Return how far (y, x) the stage has come: slow, smooth, never past `drift_px`."""
    turn = frame * 2 * math.pi / dynamics.drift_period_frames
    start, now = np.sin(phases), np.sin(phases + turn * np.array([1.0, 0.73]))
    return dynamics.drift_px * (now - start) / 2


def _in_view(
    events: tuple[Event, ...], y: float, x: float, shape: Shape
) -> tuple[Event, ...]:
    moved = (
        replace(event, y_px=event.y_px - y, x_px=event.x_px - x) for event in events
    )
    return tuple(
        event
        for event in moved
        if -0.5 < event.y_px < shape[0] - 0.5 and -0.5 < event.x_px < shape[1] - 0.5
    )


def _lay(
    bodies: list[Body], scene: Scene, relief: Image
) -> tuple[Image, NDArray[np.int32]]:
    """Return the particles' projected scattering and who owns each pixel."""
    mass = np.zeros(scene.shape, np.float32)
    owner = np.zeros(scene.shape, np.int32)
    optics = scene.optics
    for number, body in enumerate(bodies, start=1):
        part = window(body, scene.shape)
        y = np.arange(part[0].start, part[0].stop, dtype=np.float64)[:, None]
        x = np.arange(part[1].start, part[1].stop, dtype=np.float64)[None, :]
        if not (y.size and x.size):
            continue
        distance_px, reach = signed_distance(body, y, x)
        profile = np.maximum(1 - reach**2, 0.02) ** optics.flatness
        profile *= np.clip(distance_px + 0.5, 0, 1) * body.contrast
        mass[part] += profile * np.maximum(
            1 + optics.inner_contrast * relief[part], 0.4
        )
        owner[part][distance_px > 0] = number
    return mass, owner


def _truth(
    bodies: list[Body], owner: NDArray[np.int32], scene: Scene
) -> tuple[NDArray[np.int32], tuple[TrueParticle, ...]]:
    """Give the particles that are seen labels without gaps, and describe them."""
    seen = np.flatnonzero(np.bincount(owner.ravel(), minlength=len(bodies) + 1)[1:])
    numbers = np.zeros(len(bodies) + 1, np.int32)
    numbers[seen + 1] = np.arange(1, len(seen) + 1)
    particles = tuple(
        _describe(bodies[index], bodies[index + 1 :], label, scene)
        for label, index in enumerate(seen.tolist(), start=1)
    )
    return numbers[owner], particles


def _describe(body: Body, above: list[Body], label: int, scene: Scene) -> TrueParticle:
    seen = sight(body, above, scene.shape)
    diameter_px = math.sqrt(4 * seen.area_px / math.pi)
    return TrueParticle(
        particle=body.particle,
        label=label,
        centroid_y_px=body.centre_y_px,
        centroid_x_px=body.centre_x_px,
        area_px=seen.area_px,
        equivalent_diameter_px=diameter_px,
        equivalent_diameter_nm=diameter_px * scene.pixel_size_nm,
        touches_border=seen.is_cut,
        is_covered=seen.is_covered,
    )
