"""From scattering to grey levels: HAADF and bright-field imaging with their noise."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# scipy carries no types: its values are typed where they enter `_gaussian`.
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.support import Shape, Thickness

Mode = Literal["haadf", "bf"]
Image = NDArray[np.float32] | NDArray[np.float64]
"""float32 in our hands; pyright takes its product with a number for float64."""


@dataclass(frozen=True, slots=True)
class Optics:
    """How the microscope turns the specimen into grey levels."""

    dose: float = 60.0
    """Counts a pixel on ordinary support (haadf) or in vacuum (bf), on average."""
    particle_contrast: float = 1.2
    """haadf: signal of a particle in units of `dose`; bf: its optical depth."""
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
    flyback: float = 0.0
    """haadf: brightness that the beam's return leaves on the left edge, in `dose`."""
    read_noise: float = 1.0
    """Standard deviation of the camera's or amplifier's noise, in counts."""
    gain: float = 20.0
    """Grey levels a count."""
    offset: float = 200.0
    """Grey level without any electron."""
    bits: Literal[8, 16] = 16
    """Depth of the stored pixels; brighter ones saturate."""


@dataclass(frozen=True, slots=True)
class Backdrop:
    """What lies around the particles, fixed for a specimen and its illumination."""

    thickness: Thickness
    """Shape (H, W), of the support, about 1."""
    grain: Image
    """Shape (H, W), white noise of deviation 1: the film's atoms."""
    relief: Image
    """Shape (H, W), smooth noise of deviation 1: what shows within particles."""
    illumination: Image
    """About 1; it belongs to the microscope, and has the frame's own shape."""

    def shifted(self, y_px: float, x_px: float, shape: Shape) -> "Backdrop":
        """Return what a frame of `shape` sees whose first pixel lies at (y_px, x_px)."""
        top, left = round(y_px), round(x_px)
        rows, columns = slice(top, top + shape[0]), slice(left, left + shape[1])
        return Backdrop(
            thickness=_between(self.thickness, y_px, x_px, shape).astype(np.float32),
            # Whole pixels: between pixels white noise would lose its strength.
            grain=self.grain[rows, columns],
            relief=_between(self.relief, y_px, x_px, shape),
            illumination=self.illumination,
        )


def haadf(
    mass: Image, backdrop: Backdrop, optics: Optics, rng: np.random.Generator
) -> Image:
    """Return the counts of a scanned frame: scattering adds up, blurred by the probe.

    Parameters
    ----------
    mass : float32 array, shape (H, W)
        Projected scattering of the particles, about 1 in the middle of one.
    backdrop : Backdrop
    optics : Optics
    rng : numpy Generator
    """
    share = np.float32(optics.support_contrast)
    signal = 0.2 * (1 - share) + share * backdrop.thickness
    signal = _blur(signal + optics.particle_contrast * mass, optics)
    signal *= backdrop.illumination
    signal = _jitter_lines(signal, optics.jitter_px, rng)
    signal *= 1 + optics.line_noise * rng.standard_normal((len(signal), 1), np.float32)
    columns = np.arange(signal.shape[1], dtype=np.float32)
    signal += optics.flyback * np.exp(-columns / (0.01 * len(columns)))
    return _count(signal * optics.dose, optics, rng)


def bright_field(
    mass: Image, backdrop: Backdrop, optics: Optics, rng: np.random.Generator
) -> Image:
    """Return the counts of a camera frame: scattering dims, phase makes fringes.

    Parameters are those of `haadf`.
    """
    film = np.maximum(backdrop.thickness, np.float32(0))
    depth = optics.particle_contrast * mass + optics.support_contrast * film
    # A quarter radian a unit of depth: fringes as strong as in micrographs of metals.
    phase = 0.25 * depth + 3 * optics.grain * backdrop.grain * np.sqrt(film)
    image = np.exp(-_blur(depth, optics)) * (1 + _phase_contrast(phase, optics))
    return _count(
        np.maximum(image, 0) * backdrop.illumination * optics.dose, optics, rng
    )


def digitise(counts: Image, optics: Optics) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Store counts as a camera does: gain, offset, rounding, saturation."""
    grey = np.rint(counts * optics.gain + optics.offset)
    grey = np.clip(grey, 0, 2**optics.bits - 1)
    return grey.astype(np.uint8) if optics.bits == 8 else grey.astype(np.uint16)


def uneven_beam(shape: Shape, strength: float, rng: np.random.Generator) -> Image:
    """Return a slope and a bowl about 1, never below a tenth."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    a, b, c = (strength * rng.standard_normal(3)).astype(np.float32)
    return np.maximum(1 + a * y + b * x + c * (x * x + y * y - 0.7), 0.1)


def random_optics(mode: Mode, diameter_px: float, rng: np.random.Generator) -> Optics:
    """Draw how a frame was taken; particles of `diameter_px` stay visible."""
    optics = _random_haadf(rng) if mode == "haadf" else _random_bright_field(rng)
    clouds = rng.uniform(0.15, 0.6)
    return _random_depth(_visible(optics, mode, diameter_px, clouds), mode, rng)


def on_thick_support(
    optics: Optics, diameter_px: float, rng: np.random.Generator
) -> Optics:
    """Return the same bright-field optics before a support that is dark by itself.

    Powders of oxides and folded sheets dim the beam as much as small particles do: what tells
    particles from them is the sharper edge, not the grey level.
    """
    dark = replace(optics, support_contrast=rng.uniform(0.35, 1.2))
    return _visible(dark, "bf", diameter_px, rng.uniform(0.6, 1.5))


def _between(canvas: Image, y_px: float, x_px: float, shape: Shape) -> Image:
    """Cut `shape` out of `canvas` from (y_px, x_px) on, by linear interpolation."""
    top, left = math.floor(y_px), math.floor(x_px)
    low, right = y_px - top, x_px - left
    part = canvas[top : top + shape[0] + 1, left : left + shape[1] + 1]
    rows = part[:-1] * (1 - low) + part[1:] * low
    return rows[:, :-1] * (1 - right) + rows[:, 1:] * right


def _blur(signal: Image, optics: Optics) -> Image:
    sharp = _gaussian(signal, optics.blur_px)
    if optics.tail == 0:
        return sharp
    wide = _gaussian(signal, 3 * optics.blur_px + 1.5)
    return sharp + np.float32(optics.tail) * (wide - sharp)


def _gaussian(signal: Image, deviation_px: float) -> Image:
    return np.asarray(ndimage.gaussian_filter(signal, deviation_px), np.float32)


def _phase_contrast(phase: Image, optics: Optics) -> Image:
    """Return weak-phase contrast: -2 sin(pi lambda defocus q²) under an envelope.

    Source: the contrast transfer function without spherical aberration.
    """
    fy = np.fft.fftfreq(phase.shape[0])[:, None]
    fx = np.fft.rfftfreq(phase.shape[1])[None, :]
    squared = (fy**2 + fx**2).astype(np.float32)
    transfer = 2 * np.sin(np.pi * optics.defocus_px2 * squared)
    envelope_px = optics.blur_px + 0.4 + 0.02 * abs(optics.defocus_px2)
    transfer *= np.exp(-2 * (np.pi * envelope_px) ** 2 * squared)
    contrast = np.fft.irfft2(np.fft.rfft2(phase) * transfer, s=phase.shape)
    return contrast.astype(np.float32)


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


def _visible(optics: Optics, mode: Mode, diameter_px: float, clouds: float) -> Optics:
    """Raise a contrast that nobody could see: a label on nothing teaches nothing.

    A pixel's contrast must reach the noise divided by the particle's radius over 2 px
    (Rose: about 5 times the noise over its area), and a part of the support's own: by
    their sharper edge, particles are seen on thicker clouds too.
    """
    share = optics.support_contrast
    if mode == "haadf":
        background = 0.2 + 0.8 * share
        electrons = background * optics.dose
        noise = math.sqrt(electrons + optics.read_noise**2) / optics.dose
    else:
        electrons = optics.dose * math.exp(-share)
        noise = math.sqrt(electrons + optics.read_noise**2) / electrons
        noise = math.hypot(noise, 0.8 * optics.grain)
    floor = max(5 * noise * min(1.0, 8 / diameter_px) + 0.4 * noise, clouds * share)
    return replace(optics, particle_contrast=max(optics.particle_contrast, floor))


def _random_haadf(rng: np.random.Generator) -> Optics:
    return Optics(
        dose=_log_uniform(rng, 4, 400),
        particle_contrast=_log_uniform(rng, 0.25, 5),
        support_contrast=rng.uniform(0.1, 0.9),
        flatness=rng.uniform(0.05, 0.45),
        blur_px=_log_uniform(rng, 0.4, 2.2),
        tail=rng.uniform(0, 0.25),
        inner_contrast=rng.uniform(0, 0.12),
        illumination=rng.uniform(0, 0.08),
        jitter_px=float(rng.choice([0.0, rng.uniform(0, 0.6)])),
        line_noise=float(rng.choice([0.0, rng.uniform(0, 0.06)])),
        flyback=float(rng.choice([0.0, 0.0, rng.uniform(0, 0.5)])),
        read_noise=rng.uniform(0.2, 3),
    )


def _random_bright_field(rng: np.random.Generator) -> Optics:
    return Optics(
        dose=_log_uniform(rng, 15, 1500),
        particle_contrast=_log_uniform(rng, 0.15, 2.5),
        support_contrast=rng.uniform(0.02, 0.35),
        flatness=rng.uniform(0.05, 0.5),
        blur_px=_log_uniform(rng, 0.4, 1.6),
        tail=rng.uniform(0, 0.2),
        defocus_px2=float(rng.choice([-1, 1])) * _log_uniform(rng, 1, 60),
        grain=rng.uniform(0, 0.25),
        inner_contrast=rng.uniform(0, 0.3),
        illumination=rng.uniform(0, 0.2),
        read_noise=rng.uniform(0.2, 3),
    )


def _random_depth(optics: Optics, mode: Mode, rng: np.random.Generator) -> Optics:
    """Choose depth, gain and offset so that the brightest sometimes saturate."""
    bits: Literal[8, 16] = 8 if rng.random() < 0.5 else 16
    full = 255 if bits == 8 else _log_uniform(rng, 1000, 65000)
    bright = 1.0 if mode == "bf" else 0.5 + optics.particle_contrast
    # In bright field it is vacuum that saturates, and a faint particle would go with it.
    headroom = rng.uniform(0.95 if mode == "bf" else 0.7, 2.0)
    return replace(
        optics,
        gain=full / (bright * optics.dose * headroom),
        offset=full * float(rng.choice([0.0, rng.uniform(0, 0.2)])),
        bits=bits,
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
