"""What micrographs suffer from, one thing at a time, on simulated frames whose truth is known.

Every condition starts from the same clean scene on the demo's family of supports, which training
never drew, and changes one thing: the scene, the film, or the finished picture.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.segmentation import relabel_sequential

from emcopilot.optics import Mode, Optics, random_optics
from emcopilot.population import Population, populate
from emcopilot.simulate import Scene, draw_backdrop, render
from emcopilot.support import Shape, Thickness, power_law_noise

Pixels = NDArray[np.generic]
Labels = NDArray[np.int32]
Picture = tuple[Pixels, Labels]
Change = Callable[[Scene, np.random.Generator], Scene]
Film = Callable[[Shape, np.random.Generator], Thickness]
Finish = Callable[[Pixels, Labels, np.random.Generator], Picture]

SIDE_PX, LARGE_SIDE_PX = 512, 1024
SEED = 4040
POPULATION = Population(
    count=55,
    median_diameter_px=24,
    spread=0.3,
    smallest_px=10,
    largest_px=60,
    touching=0.0,
    overlapping=0.0,
    contrast_spread=0.15,
)
CLEAN: dict[Mode, Optics] = {
    "haadf": Optics(
        dose=80, particle_contrast=1.6, support_contrast=0.25, tail=0.05, jitter_px=0
    ),
    "bf": Optics(
        dose=300,
        particle_contrast=0.8,
        support_contrast=0.1,
        defocus_px2=-4,
        grain=0.03,
    ),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that makes a micrograph hard."""

    name: str
    scene: Change = lambda scene, _: scene
    film: Film | None = None
    """Instead of a support of the demo's family."""
    finish: Finish = lambda pixels, labels, _: (pixels, labels)
    """What befalls the picture afterwards; it may hide particles."""

    def draw(self, mode: Mode, number: int) -> Picture:
        """Return frame `number` of this condition and its true labels, both (H, W)."""
        rng = np.random.default_rng((SEED, number, mode == "bf"))
        scene = self.scene(
            Scene((SIDE_PX, SIDE_PX), mode, POPULATION, CLEAN[mode], "demo"), rng
        )
        bodies = populate(scene.population, scene.shape, rng)
        backdrop = draw_backdrop(scene, scene.shape, rng)
        if self.film:
            film = self.film(scene.shape, rng)
            backdrop = replace(backdrop, thickness=film)
            last = np.array(scene.shape) - 1
            # Nothing hangs in vacuum: a particle needs film below its centre.
            bodies = [
                body
                for body in bodies
                if film[
                    tuple(
                        np.clip((body.centre_y_px, body.centre_x_px), 0, last).astype(
                            int
                        )
                    )
                ]
                > 0.3
            ]
        shot = render(scene, bodies, backdrop, rng)
        pixels, labels = self.finish(shot.pixels, shot.labels, rng)
        # What befell the picture may have hidden a particle whole.
        return pixels, relabel_sequential(labels)[0].astype(np.int32)


def optics(haadf: dict[str, float], bf: dict[str, float]) -> Change:
    """Change how the frame is taken, by mode."""

    def change(scene: Scene, _: np.random.Generator) -> Scene:
        changed = haadf if scene.mode == "haadf" else bf
        return replace(scene, optics=replace(scene.optics, **changed))  # type: ignore[arg-type]

    return change


def population(side_px: int = SIDE_PX, **changed: float) -> Change:
    """Change what lies there."""

    def change(scene: Scene, _: np.random.Generator) -> Scene:
        people = replace(scene.population, **changed)  # type: ignore[arg-type]
        return replace(scene, population=people, shape=(side_px, side_px))

    return change


def emptied(scene: Scene, rng: np.random.Generator) -> Scene:
    """Take all particles away, and look at the bare film in any way."""
    return replace(
        scene,
        shape=(LARGE_SIDE_PX, LARGE_SIDE_PX),
        population=replace(scene.population, count=0),
        optics=random_optics(scene.mode, float(rng.uniform(8, 60)), rng),
    )


def bands(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Return a film with bent bands of thickness, as wedges and bend contours give."""
    y, x = _unit_grid(shape)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    # Far steeper than a film's relief: bands bend, but their rims are smooth.
    bent = along + 0.2 * power_law_noise(shape, 7.0, rng, 2)
    steps = np.tanh(3 * np.sin(rng.uniform(8, 14) * bent))
    return (1 + 0.45 * steps).astype(np.float32)


def carbon_edge(shape: Shape, rng: np.random.Generator) -> Thickness:
    """Return a film that ends at a ragged edge; beyond it lies vacuum."""
    y, x = _unit_grid(shape)
    angle = rng.uniform(0, 2 * np.pi)
    across = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 0.4)
    ragged = across + 0.06 * power_law_noise(shape, 2.6, rng, 3)
    relief = 1 + 0.05 * power_law_noise(shape, 3.0, rng, 3)
    return (np.clip(ragged / 0.02, 0, 1) * relief).astype(np.float32)


def scan_lines(pixels: Pixels, labels: Labels, rng: np.random.Generator) -> Picture:
    """Shift rows by up to a pixel and a half, and let each have its own brightness."""
    shifts = np.clip(np.rint(rng.normal(0, 0.6, len(pixels))), -1, 1).astype(int)
    columns = np.clip(
        np.arange(pixels.shape[1]) + shifts[:, None], 0, pixels.shape[1] - 1
    )
    shifted = np.take_along_axis(np.asarray(pixels, np.float32), columns, axis=1)
    shifted += 0.12 * _contrast(pixels, labels) * rng.normal(size=(len(pixels), 1))
    return _as_counts(shifted), labels


def charging(pixels: Pixels, labels: Labels, rng: np.random.Generator) -> Picture:
    """Let charge brighten bands of lines that fade along the scan, and trail particles."""
    height, width = pixels.shape
    step = _contrast(pixels, labels)
    glow = np.zeros(pixels.shape, np.float32)
    for _ in range(int(rng.integers(6, 12))):
        row, thick = int(rng.integers(height)), int(rng.integers(1, 14))
        start, length = rng.uniform(0, 0.7) * width, rng.uniform(0.2, 1.0) * width
        run = np.arange(width, dtype=np.float32) - start
        fading = np.where(run > 0, np.exp(-np.maximum(run, 0) / length), 0)
        glow[row : row + thick] += rng.uniform(-0.4, 0.7) * step * fading
    kernel = np.exp(-np.arange(60, dtype=np.float32) / 18)
    trail = ndimage.convolve1d(
        (labels > 0).astype(np.float32),
        np.concatenate([np.zeros(59, np.float32), kernel]) / kernel.sum(),
        axis=1,
        mode="constant",
    )
    shadow = -0.35 * step * trail * (labels == 0)
    return _as_counts(pixels + glow + shadow), labels


def burnt_in(pixels: Pixels, labels: Labels, rng: np.random.Generator) -> Picture:
    """Burn a scale bar and letters into an 8-bit picture, as figures and screenshots have.

    The ink stands out from the film; every third picture has the microscope's black banner.
    """
    grey = _stretched(pixels, 0, 255).astype(np.uint8)
    height, width = grey.shape
    ink = 255 if np.median(grey) < 128 else 0
    picture, covered = Image.fromarray(grey), Image.new("1", (width, height))
    has_banner = rng.random() < 1 / 3
    letter = ImageFont.load_default(size=height * rng.uniform(0.06, 0.1))
    small = ImageFont.load_default(size=height * 0.04)
    corners = np.array([(0.06, 0.965), (rng.uniform(0.2, 0.4), 0.98)])
    bar = (corners * (width, height)).ravel()
    on_banner = 255 if has_banner else ink
    for layer, inks, paper in ((picture, (ink, on_banner), 0), (covered, (1, 1), 1)):
        pen = ImageDraw.Draw(layer)
        pen.text((0.02 * width, 0.01 * height), "(b)", fill=inks[0], font=letter)
        if has_banner:
            pen.rectangle((0, 0.9 * height, width, height), fill=paper)
        pen.rectangle(bar.tolist(), fill=inks[1])
        pen.text((bar[0], 0.91 * height), "50 nm", fill=inks[1], font=small)
        pen.text((0.6 * width, 0.92 * height), "HV 200 kV", fill=inks[1], font=small)
    return np.asarray(picture), np.where(np.asarray(covered), 0, labels)


def saturated(pixels: Pixels, labels: Labels, _: np.random.Generator) -> Picture:
    """Clip the bright end: particles lose their inside (HAADF), or the film its own (BF)."""
    film, particle = _levels(pixels, labels)
    bright = particle > film
    level = film + (0.5 if bright else 0.15) * (particle - film)
    return np.minimum(pixels, np.array(level).astype(pixels.dtype)), labels


def eight_bit(pixels: Pixels, labels: Labels, _: np.random.Generator) -> Picture:
    """Store the picture in 8 bits of which it fills 32 levels: gain set badly."""
    return np.rint(_stretched(pixels, 90, 121)).astype(np.uint8), labels


CONDITIONS: tuple[Condition, ...] = (
    Condition("clean"),
    Condition(
        "uneven support",
        optics(
            {"support_contrast": 0.8, "illumination": 0.15},
            {"support_contrast": 0.4, "illumination": 0.15},
        ),
    ),
    Condition(
        "thickness bands",
        optics({"support_contrast": 0.6}, {"support_contrast": 0.3}),
        film=bands,
    ),
    Condition(
        "defocus",
        optics({"blur_px": 2.2, "tail": 0.2}, {"defocus_px2": -50.0, "grain": 0.1}),
    ),
    Condition("scan lines", finish=scan_lines),
    Condition("charging", finish=charging),
    Condition("letters, scale bar", finish=burnt_in),
    Condition("saturated", finish=saturated),
    Condition("8-bit, 32 levels", finish=eight_bit),
    Condition(
        "carbon edge",
        optics({"support_contrast": 0.5}, {"support_contrast": 0.35}),
        film=carbon_edge,
    ),
    Condition("touching", population(touching=0.7, count=70)),
    Condition("overlapping", population(overlapping=0.5, count=70)),
    Condition("low dose", optics({"dose": 5.0}, {"dose": 14.0, "read_noise": 1.5})),
    Condition(
        "low contrast",
        optics(
            {"particle_contrast": 0.2, "support_contrast": 0.15},
            {"particle_contrast": 0.17, "support_contrast": 0.05},
        ),
    ),
    Condition(
        "4-8 px",
        population(
            count=200, median_diameter_px=5.8, spread=0.2, smallest_px=4, largest_px=7.8
        ),
    ),
    Condition(
        "300 px",
        population(
            LARGE_SIDE_PX,
            count=5,
            median_diameter_px=300,
            spread=0.06,
            smallest_px=260,
            largest_px=340,
        ),
    ),
)
EMPTY = Condition("empty field", emptied)


def _unit_grid(shape: Shape) -> tuple[Thickness, Thickness]:
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return y, x


def _levels(pixels: Pixels, labels: Labels) -> tuple[float, float]:
    """Return the median grey level of film and of particles."""
    values = np.asarray(pixels, np.float64)
    return float(np.median(values[labels == 0])), float(np.median(values[labels > 0]))


def _contrast(pixels: Pixels, labels: Labels) -> float:
    film, particle = _levels(pixels, labels)
    return abs(particle - film)


def _stretched(pixels: Pixels, low: float, high: float) -> NDArray[np.float32]:
    """Map the grey levels, but for the outermost per mille, onto low..high."""
    values = np.asarray(pixels, np.float32)
    dark, bright = np.percentile(values, (0.1, 99.9))
    return low + (high - low) * np.clip((values - dark) / (bright - dark), 0, 1)


def _as_counts(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)
