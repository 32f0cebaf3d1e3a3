"""What carries the particles: thickness maps of films and agglomerates.

Two families that share no generator: a network trained on the first has never met
the second, so a figure on "demo" frames is a held-out figure.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# scipy carries no types: its values are typed where they enter `_enlarge`.
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Style = Literal["training", "demo"]
Thickness = NDArray[np.float32]
"""Shape (H, W), 0 in vacuum, about 1 where the support is as thick as usual."""

Shape = tuple[int, int]


def draw_support(style: Style, shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw the thickness of one support by a generator of the family `style`."""
    generators = FAMILIES[style]
    return generators[int(rng.integers(len(generators)))](shape, rng)


def power_law_noise(
    shape: Shape, exponent: float, rng: np.random.Generator, coarsest: float = 2.0
) -> Thickness:
    """Return a field of mean 0 and deviation 1 whose power falls as q**-exponent.

    Parameters
    ----------
    shape : (int, int)
    exponent : float
        0 is white; 2 to 4 looks like thickness.
    rng : numpy Generator
    coarsest : float
        Waves per frame below which power no longer rises.
    """
    white = rng.standard_normal(shape, dtype=np.float32)
    fy = np.fft.fftfreq(shape[0])[:, None] * shape[0]
    fx = np.fft.rfftfreq(shape[1])[None, :] * shape[1]
    weight = (fy**2 + fx**2 + coarsest**2).astype(np.float32) ** (-exponent / 4)
    weight[0, 0] = 0.0
    field = np.fft.irfft2(np.fft.rfft2(white) * weight, s=shape)
    return (field / field.std()).astype(np.float32)


def _plain_film(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw an evaporated film: nearly flat, slightly wedged."""
    y, x = _unit_grid(shape)
    wedge = rng.normal(0, 0.15) * y + rng.normal(0, 0.15) * x
    relief = rng.uniform(0.0, 0.1) * power_law_noise(shape, rng.uniform(1.6, 2.4), rng)
    return np.maximum(1 + wedge + relief, 0.2).astype(np.float32)


def _cloudy_film(shape: Shape, rng: np.random.Generator) -> Thickness:
    relief = power_law_noise(shape, rng.uniform(1.8, 2.6), rng, rng.uniform(1, 6))
    return np.maximum(1 + rng.uniform(0.15, 0.45) * relief, 0.0).astype(np.float32)


def _holey_film(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw a film that ends at a ragged edge; beyond it lies vacuum."""
    y, x = _unit_grid(shape)
    angle = rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0, 0.6) * (x * np.sin(angle) - y * np.cos(angle)) ** 2
    across = x * np.cos(angle) + y * np.sin(angle) + bend + rng.uniform(-0.3, 0.5)
    ragged = across + rng.uniform(0.01, 0.1) * power_law_noise(shape, 2.2, rng, 3)
    rim = np.clip(ragged / rng.uniform(0.01, 0.15), 0, 1)
    return (rim * _cloudy_film(shape, rng)).astype(np.float32)


def _terraces(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw bands of even thickness with steps between them."""
    height = power_law_noise(shape, 2.5, rng, rng.uniform(0.8, 2.5)) * 1.2 + 2
    level = np.floor(height)
    step = np.clip((height - level) / rng.uniform(0.03, 0.2), 0, 1)
    return np.maximum(0.4 + 0.3 * (level + step - 1), 0).astype(np.float32)


def _agglomerate(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw fused oxide spheres: silica, alumina, titania."""
    small = _coarse(shape)
    y, x = _unit_grid(small)
    thickness = np.zeros(small, np.float32)
    walk = rng.uniform(-0.8, 0.8, 2)
    size = rng.uniform(0.05, 0.45)
    for _ in range(int(np.clip(3 / size**1.3, 5, 90))):
        walk = np.clip(walk + rng.normal(0, size * 1.1, 2), -1.1, 1.1)
        radius = size * np.exp(rng.normal(0, 0.3))
        squared = ((y - walk[0]) ** 2 + (x - walk[1]) ** 2) / radius**2
        thickness += np.sqrt(np.maximum(1 - squared, 0)) * (radius / size)
    rough = 1 + rng.uniform(0.02, 0.12) * power_law_noise(shape, 2.0, rng, 10)
    thickest = max(float(thickness.max()), 0.3)
    return _enlarge(thickness * 1.8 / thickest, shape) * rough.astype(np.float32)


def _powder(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw a powder of hundreds of grains in clumps, as fumed silica or needles of alumina.

    Single grains may look like particles: what tells them apart is that they are many, alike,
    and fade into each other.
    """
    small = _half(shape)
    thickness = np.zeros(small, np.float32)
    # Where the powder lies: everywhere, or in clumps with vacuum between them. The field's mean
    # is 0, so its largest value is above: some place there always is.
    height = power_law_noise(small, 3.0, rng, 1.0)
    least = min(rng.uniform(-1.8, 0.3), 0.9 * float(height.max()))
    places = np.argwhere(height > least)
    grain_px = (
        min(small) * 0.015 * 10 ** rng.random()
    )  # a radius: 1.5 to 15 % of a side
    longest, spread = rng.choice([1.3, 4.0], p=[0.7, 0.3]), rng.uniform(0.1, 0.5)
    layers = rng.uniform(0.8, 5.0)
    count = int(np.clip(layers * len(places) / (np.pi * grain_px**2), 8, 1500))
    flatness = rng.uniform(0.3, 1.0)
    for y, x in places[rng.integers(len(places), size=count)]:
        radius = grain_px * np.exp(rng.normal(0, spread))
        radii = radius, radius * rng.uniform(1, longest)
        _add_grain(thickness, (y, x), radii, flatness, rng)
    thickness = ndimage.gaussian_filter(thickness, 0.1 * grain_px)
    rough = 1 + rng.uniform(0.01, 0.08) * power_law_noise(shape, 2.0, rng, 10)
    usual = max(float(np.percentile(thickness, 90)), 0.05)
    even = np.minimum(thickness / usual, 2.4) * 1.2
    return _enlarge(even.astype(np.float32), shape) * rough.astype(np.float32)


def _add_grain(
    thickness: Thickness,
    centre: tuple[int, int],
    radii_px: tuple[float, float],
    flatness: float,
    rng: np.random.Generator,
) -> None:
    """Add one ellipsoid in place, turned at random."""
    reach = int(max(radii_px)) + 1
    top, left = max(centre[0] - reach, 0), max(centre[1] - reach, 0)
    part = thickness[top : centre[0] + reach + 1, left : centre[1] + reach + 1]
    y = np.arange(top - centre[0], top - centre[0] + part.shape[0])[:, None]
    x = np.arange(left - centre[1], left - centre[1] + part.shape[1])[None, :]
    angle = rng.uniform(0, np.pi)
    across = (y * np.cos(angle) - x * np.sin(angle)) / radii_px[0]
    along = (y * np.sin(angle) + x * np.cos(angle)) / radii_px[1]
    inside = np.maximum(1 - along**2 - across**2, 0)
    part += (inside ** (flatness / 2)).astype(np.float32)


def _lattice(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw a crystal seen at atomic resolution: bent fringes that come and go."""
    base = _holey_film if rng.random() < 0.5 else _powder
    y, x = (side * n / 2 for side, n in zip(_unit_grid(shape), shape, strict=True))
    angle, period_px = rng.uniform(0, 2 * np.pi), rng.uniform(3.0, 12.0)
    bend = rng.uniform(0, 6) * power_law_noise(shape, 3.5, rng, rng.uniform(1, 8))
    fringes = np.cos(
        (y * np.sin(angle) + x * np.cos(angle)) * 2 * np.pi / period_px + bend
    )
    strength = np.clip(power_law_noise(shape, 3.0, rng, 3) + rng.uniform(-0.5, 1), 0, 1)
    fringed = base(shape, rng) * (1 + rng.uniform(0.1, 0.6) * strength * fringes)
    return np.maximum(fringed, 0).astype(np.float32)


def _flakes(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw, for demo: stacked lamellae, each an even sheet with straight sides."""
    y, x = _unit_grid(shape)
    thickness = np.full(shape, 0.45, np.float32)
    for _ in range(int(rng.integers(5, 12))):
        centre = rng.uniform(-0.9, 0.9, 2)
        sheet = np.full(shape, np.inf, np.float32)
        for angle in rng.uniform(0, 2 * np.pi, 4):
            side = (y - centre[0]) * np.sin(angle) + (x - centre[1]) * np.cos(angle)
            sheet = np.minimum(sheet, rng.uniform(0.2, 0.7) - side)
        thickness += rng.uniform(0.08, 0.25) * np.clip(sheet / 0.02, 0, 1)
    return (thickness + 0.03 * power_law_noise(shape, 3.2, rng, 4)).astype(np.float32)


def _foam(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw, for demo: a cellular film, thin in the cells and thicker along their walls."""
    small = _coarse(shape)
    seeds = rng.uniform(0, 1, (int(rng.integers(12, 40)), 2)) * small
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in small), indexing="ij"), -1)
    apart = np.sqrt(((grid[:, :, None, :] - seeds) ** 2).sum(-1))
    nearest = np.partition(apart, 1, axis=-1)
    wall = np.exp(-(nearest[..., 1] - nearest[..., 0]) / (0.05 * small[0]))
    film = 0.7 + 0.5 * _enlarge(wall.astype(np.float32), shape)
    return (film + 0.05 * power_law_noise(shape, 3.4, rng, 3)).astype(np.float32)


def _ridges(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Draw, for demo: a wrinkled film, ridges of folded noise."""
    folded = np.abs(power_law_noise(shape, rng.uniform(3.0, 3.6), rng, 2.5))
    return (1.25 - 0.35 * np.minimum(folded, 2.5)).astype(np.float32)


FAMILIES: dict[Style, tuple[Callable[[Shape, np.random.Generator], Thickness], ...]] = {
    "training": (
        _plain_film,
        _cloudy_film,
        _holey_film,
        _terraces,
        _agglomerate,
        _powder,
        _powder,  # what catalysts lie on, and where particles are hardest to tell: twice
        _lattice,
    ),
    "demo": (_flakes, _foam, _ridges),
}


def _unit_grid(shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return y, x


def _coarse(shape: Shape) -> Shape:
    """Smooth thickness needs no more than a quarter of the pixels."""
    return max(shape[0] // 4, 8), max(shape[1] // 4, 8)


def _half(shape: Shape) -> Shape:
    return max(shape[0] // 2, 8), max(shape[1] // 2, 8)


def _enlarge(field: Thickness, shape: Shape) -> Thickness:
    factors = (shape[0] / field.shape[0], shape[1] / field.shape[1])
    return np.asarray(ndimage.zoom(field, factors, order=1, mode="nearest"), np.float32)
