"""Micrographs whose particles are known exactly.

A scene says what lies on the grid and how the microscope looks at it; rendering it
gives pixels, labels and the true particle table. Pixels know the outline through its
signed distance, so the drawn edge and the true edge agree below a pixel's width.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.specimen import (
    Body,
    Population,
    populate,
    signed_distance,
    visible_area_px,
    window,
)
from emcopilot.support import Shape, Style, Thickness, draw_support, power_law_noise

Mode = Literal["haadf", "bf"]
Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Optics:
    """How the microscope turns the specimen into counts."""

    dose: float = 60.0
    """Counts a pixel on bare support (haadf) or in vacuum (bf), on average."""
    particle_contrast: float = 1.2
    """haadf: signal of a particle over the support's; bf: its optical depth."""
    support_contrast: float = 0.5
    """haadf: share of the dose that follows thickness; bf: optical depth of the film."""
    flatness: float = 0.3
    """Power of a sphere's thickness profile; 0 is a plate, 0.5 a sphere."""
    blur_px: float = 0.7
    """Standard deviation of the probe or of the objective's blur."""
    tail: float = 0.1
    """Share of the probe in a wide tail."""
    defocus_px2: float = 0.0
    """bf: wavelength times defocus, in px²; negative is under-focus."""
    grain: float = 0.05
    """bf: phase of the amorphous film's random structure, in rad."""
    inner_contrast: float = 0.1
    """Diffraction contrast and relief within particles."""
    illumination: float = 0.05
    """How uneven the beam is over the frame."""
    jitter_px: float = 0.1
    """haadf: random shift of each scan line."""
    line_noise: float = 0.01
    """haadf: random brightness of each scan line."""
    read_noise: float = 1.0
    """Standard deviation of the camera's or amplifier's noise, in counts."""
    gain: float = 20.0
    """Grey levels a count."""
    offset: float = 200.0
    """Grey level without any electron."""
    bits: Literal[8, 16] = 16
    """Depth of the stored pixels; brighter ones saturate."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One field of view: what lies there and how it is seen."""

    shape: Shape
    mode: Mode
    population: Population
    optics: Optics = field(default_factory=Optics)
    style: Style = "training"
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
    support = draw_support(scene.style, scene.shape, rng)
    return render(scene, bodies, support, rng)


def render(
    scene: Scene, bodies: list[Body], support: Thickness, rng: np.random.Generator
) -> Micrograph:
    """Look at `bodies` on `support`.

    Parameters
    ----------
    scene : Scene
        Its population is not used: the bodies are given.
    bodies : list of Body
        Bottom-most first.
    support : float32 array, shape (H, W)
        Thickness, about 1.
    rng : numpy Generator
        For grain and noise.
    """
    mass, labels = _lay(bodies, scene, rng)
    image = (_haadf if scene.mode == "haadf" else _bf)(mass, support, scene.optics, rng)
    labels, particles = _truth(bodies, labels, scene)
    pixels = _store(image, scene.optics)
    return Micrograph(pixels, labels, particles, scene.pixel_size_nm, scene.mode)


def _lay(
    bodies: list[Body], scene: Scene, rng: np.random.Generator
) -> tuple[Image, NDArray[np.int32]]:
    """Return the particles' projected scattering and who owns each pixel."""
    mass = np.zeros(scene.shape, np.float32)
    owner = np.zeros(scene.shape, np.int32)
    optics = scene.optics
    relief = power_law_noise(scene.shape, 2.5, rng, 12) * np.float32(
        optics.inner_contrast
    )
    for number, body in enumerate(bodies, start=1):
        part = window(body, scene.shape)
        y = np.arange(part[0].start, part[0].stop, dtype=np.float64)[:, None]
        x = np.arange(part[1].start, part[1].stop, dtype=np.float64)[None, :]
        if not (y.size and x.size):
            continue
        distance_px, reach = signed_distance(body, y, x)
        profile = np.maximum(1 - reach**2, 0.02) ** optics.flatness
        profile *= np.clip(distance_px + 0.5, 0, 1) * body.contrast
        mass[part] += profile * np.maximum(1 + relief[part], 0.3)
        owner[part][distance_px > 0] = number
    return mass, owner


def _haadf(
    mass: Image, support: Thickness, optics: Optics, rng: np.random.Generator
) -> Image:
    """Scattering adds up; a scanned probe blurs it, line after line."""
    signal = (1 - optics.support_contrast) * 0.2 + optics.support_contrast * support
    signal = _probe(signal + optics.particle_contrast * mass, optics)
    signal *= _uneven(signal.shape, optics.illumination, rng)
    signal = _jitter_lines(signal, optics.jitter_px, rng)
    signal *= 1 + optics.line_noise * rng.standard_normal((len(signal), 1), np.float32)
    return _count(signal * optics.dose, optics, rng)


def _bf(
    mass: Image, support: Thickness, optics: Optics, rng: np.random.Generator
) -> Image:
    """Scattering takes away; the phase of film and particles makes fringes and grain."""
    depth = optics.particle_contrast * mass + optics.support_contrast * support
    grain = rng.standard_normal(mass.shape, np.float32) * np.sqrt(
        np.maximum(support, 0)
    )
    phase = 0.25 * depth + optics.grain * 3 * grain
    image = np.exp(-_probe(depth, optics)) * (1 + _phase_contrast(phase, optics))
    image *= _uneven(image.shape, optics.illumination, rng)
    return _count(np.maximum(image, 0) * optics.dose, optics, rng)


def _phase_contrast(phase: Image, optics: Optics) -> Image:
    """Weak-phase contrast: -2 sin(pi lambda defocus q²) under an envelope.

    Source: the contrast transfer function without spherical aberration.
    """
    fy = scipy.fft.fftfreq(phase.shape[0])[:, None]
    fx = scipy.fft.rfftfreq(phase.shape[1])[None, :]
    squared = (fy**2 + fx**2).astype(np.float32)
    transfer = 2 * np.sin(np.pi * optics.defocus_px2 * squared)
    blur_px = optics.blur_px + 0.4 + 0.02 * abs(optics.defocus_px2)
    transfer *= np.exp(-2 * (np.pi * blur_px) ** 2 * squared)
    return scipy.fft.irfft2(scipy.fft.rfft2(phase) * transfer, s=phase.shape)


def _probe(signal: Image, optics: Optics) -> Image:
    sharp = ndimage.gaussian_filter(signal, optics.blur_px)
    if optics.tail == 0:
        return sharp
    wide = ndimage.gaussian_filter(signal, 3 * optics.blur_px + 1.5)
    return (1 - optics.tail) * sharp + optics.tail * wide


def _uneven(shape: Shape, strength: float, rng: np.random.Generator) -> Image:
    """Return a slope and a bowl about 1, never below a tenth."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    a, b, c = (strength * rng.standard_normal(3)).astype(np.float32)
    return np.maximum(1 + a * y + b * x + c * (x * x + y * y - 0.7), 0.1)


def _jitter_lines(signal: Image, jitter_px: float, rng: np.random.Generator) -> Image:
    """Shift each row by a random part of a pixel, as scan noise does."""
    if jitter_px == 0:
        return signal
    shift = np.clip(rng.normal(0, jitter_px, (len(signal), 1)), -1, 1).astype(
        np.float32
    )
    left, right = np.roll(signal, 1, axis=1), np.roll(signal, -1, axis=1)
    left[:, 0], right[:, -1] = signal[:, 0], signal[:, -1]
    neighbour = np.where(shift > 0, left, right)
    return signal + np.abs(shift) * (neighbour - signal)


def _count(expected: Image, optics: Optics, rng: np.random.Generator) -> Image:
    counts = rng.poisson(np.maximum(expected, 0)).astype(np.float32)
    return counts + optics.read_noise * rng.standard_normal(counts.shape, np.float32)


def _store(image: Image, optics: Optics) -> NDArray[np.uint8] | NDArray[np.uint16]:
    dtype = np.uint8 if optics.bits == 8 else np.uint16
    grey = np.rint(image * optics.gain + optics.offset)
    return np.clip(grey, 0, np.iinfo(dtype).max).astype(dtype)


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
    area_px, is_cut = visible_area_px(body, above, scene.shape)
    diameter_px = math.sqrt(4 * area_px / math.pi)
    hidden = area_px < 0.999 * math.pi * body.diameter_px**2 / 4
    return TrueParticle(
        particle=body.particle,
        label=label,
        centroid_y_px=body.centre_y_px,
        centroid_x_px=body.centre_x_px,
        area_px=area_px,
        equivalent_diameter_px=diameter_px,
        equivalent_diameter_nm=diameter_px * scene.pixel_size_nm,
        touches_border=is_cut,
        is_covered=hidden and not is_cut,
    )


def random_scene(
    rng: np.random.Generator,
    *,
    shape: Shape = (512, 512),
    mode: Mode | None = None,
    style: Style = "training",
    median_diameter_px: float | None = None,
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
    """
    mode = mode or ("haadf" if rng.random() < 0.5 else "bf")
    diameter_px = median_diameter_px or math.exp(
        rng.uniform(math.log(5), math.log(min(150, min(shape) / 4)))
    )
    optics = _random_haadf(rng) if mode == "haadf" else _random_bf(rng)
    return Scene(
        shape=shape,
        mode=mode,
        population=_random_population(rng, shape, diameter_px),
        optics=_random_depth(optics, mode, rng),
        style=style,
        pixel_size_nm=math.exp(rng.uniform(math.log(0.05), math.log(2))),
    )


def _random_population(
    rng: np.random.Generator, shape: Shape, median_diameter_px: float
) -> Population:
    spread = rng.uniform(0.03, 0.5)
    covered = math.exp(rng.uniform(math.log(0.01), math.log(0.45)))
    mean_area = math.pi / 4 * median_diameter_px**2 * math.exp(2 * spread**2)
    count = int(np.clip(covered * shape[0] * shape[1] / mean_area, 1, 400))
    return Population(
        count=0 if rng.random() < 1 / 30 else count,
        median_diameter_px=median_diameter_px,
        spread=spread,
        shapes=tuple(rng.dirichlet((1.2, 0.6, 0.6)).tolist()),
        largest_aspect_ratio=rng.uniform(1.05, 3.0),
        touching=rng.choice([0.0, rng.uniform(0, 0.5)]),
        overlapping=rng.choice([0.0, rng.uniform(0, 0.25)]),
        clustering=rng.choice([0.0, rng.uniform(0, 1)]),
        contrast_spread=rng.uniform(0.02, 0.45),
    )


def _random_haadf(rng: np.random.Generator) -> Optics:
    return Optics(
        dose=math.exp(rng.uniform(math.log(4), math.log(400))),
        particle_contrast=math.exp(rng.uniform(math.log(0.25), math.log(4))),
        support_contrast=rng.uniform(0.1, 0.9),
        flatness=rng.uniform(0.05, 0.45),
        blur_px=math.exp(rng.uniform(math.log(0.4), math.log(2.2))),
        tail=rng.uniform(0, 0.25),
        inner_contrast=rng.uniform(0, 0.2),
        illumination=rng.uniform(0, 0.08),
        jitter_px=rng.choice([0.0, rng.uniform(0, 0.6)]),
        line_noise=rng.choice([0.0, rng.uniform(0, 0.06)]),
        read_noise=rng.uniform(0.2, 3),
    )


def _random_bf(rng: np.random.Generator) -> Optics:
    return Optics(
        dose=math.exp(rng.uniform(math.log(15), math.log(1500))),
        particle_contrast=math.exp(rng.uniform(math.log(0.15), math.log(2.5))),
        support_contrast=rng.uniform(0.02, 0.35),
        flatness=rng.uniform(0.05, 0.45),
        blur_px=math.exp(rng.uniform(math.log(0.4), math.log(1.6))),
        tail=rng.uniform(0, 0.2),
        defocus_px2=rng.choice([-1, 1]) * math.exp(rng.uniform(0, math.log(60))),
        grain=rng.uniform(0, 0.25),
        inner_contrast=rng.uniform(0, 0.35),
        illumination=rng.uniform(0, 0.2),
        read_noise=rng.uniform(0.2, 3),
    )


def _random_depth(optics: Optics, mode: Mode, rng: np.random.Generator) -> Optics:
    """Choose depth, gain and offset so that the brightest sometimes saturate."""
    bits = 8 if rng.random() < 0.5 else 16
    full = 255 if bits == 8 else math.exp(rng.uniform(math.log(1000), math.log(65000)))
    bright = 1.0 if mode == "bf" else 0.5 + optics.particle_contrast
    headroom = rng.uniform(0.7, 2.0)
    return replace(
        optics,
        gain=full / (bright * optics.dose * headroom),
        offset=full * rng.choice([0.0, rng.uniform(0, 0.2)]),
        bits=bits,
    )
