"""Frames with a model's leads and the truth, and what calibration is fitted to them."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from emps import EmpsImage, data_folder, read_emps, split
from numpy.typing import NDArray
from torch import nn

from emcopilot.confidence import ParticleConfidence, particle_features
from emcopilot.labels import label_particles
from emcopilot.particles import measure_particles
from emcopilot.simulate import Mode, random_scene, render_micrograph
from models.calibration import (
    FloatArray,
    Reliability,
    fit_particle_confidence,
    fit_temperature,
    is_found,
    lead_of,
    probability_at,
    temper,
)
from models.datasets import read_pixels
from models.npssegnet import torch_run
from models.predict import predict
from models.scores import true_labels
from models.tiling import Run, to_uint8

FLATTENING = 4.0
"""Temperature at which leads are read: eight bits of probability then reach to a lead of 25."""
REAL = "EMPS validation"
SIMULATED_SEED = 2027
SIMULATED_SIDE_PX = 512
SIZES_PX = (8.0, 14.0, 24.0, 40.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """One frame with the model's leads and the truth."""

    group: str
    half: int
    """0 or 1: fitted on one, judged on the other."""
    lead: FloatArray
    truth: NDArray[np.int32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where there is a particle."""
        return self.truth > 0

    def pixels_at(self, temperature: float) -> Reliability:
        """Hold the pixels' probability at a temperature against the truth."""
        return Reliability.of(probability_at(self.lead, temperature), self.mask)


@dataclass(frozen=True, slots=True)
class Particles:
    """What is seen of particles, and whether they are true."""

    features: NDArray[np.float64]
    """Shape (P, 4), as `particle_features` gives them, frame by frame."""
    found: NDArray[np.bool_]
    """Shape (P,)."""

    @classmethod
    def of(cls, frames: Sequence[Judged], temperature: float) -> "Particles":
        """Collect the particles that the live path would show of all frames."""
        features: list[NDArray[np.float64]] = []
        found: list[NDArray[np.bool_]] = []
        for frame in frames:
            shown = to_uint8(probability_at(frame.lead, temperature))
            labels = label_particles(shown)
            table = measure_particles(labels, shown, probability=shown)
            features.append(
                particle_features(table.confidence, table.equivalent_diameter_px)
            )
            found.append(is_found(labels, frame.truth))
        return cls(np.concatenate(features), np.concatenate(found))

    def fit(self) -> ParticleConfidence:
        """Fit the map to these particles."""
        return fit_particle_confidence(self.features, self.found)

    def reliability(self, confidence: ParticleConfidence) -> Reliability:
        """Hold the confidence that a map gives against the truth."""
        return Reliability.of(confidence.of_features(self.features), self.found)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is fitted to frames."""

    temperature: float
    particles: ParticleConfidence

    @classmethod
    def fitted(
        cls, frames: Sequence[Judged], temperature: float | None = None
    ) -> "Calibration":
        """Fit the temperature, then the map to the particles that it shows.

        Every group weighs the same: with many frames of one kind, what they lack would be
        charged to the others. A temperature that is given is left as it is.
        """
        if temperature is not None:
            return cls(temperature, Particles.of(frames, temperature).fit())
        sizes = Counter(frame.group for frame in frames)
        temperature = fit_temperature(
            [frame.lead for frame in frames],
            [frame.mask for frame in frames],
            [1 / sizes[frame.group] for frame in frames],
        )
        return cls(temperature, Particles.of(frames, temperature).fit())


def flattened(network: nn.Module) -> Run:
    """Return an engine whose 8-bit probability shows strong leads too."""
    flat = copy.deepcopy(network)
    temper(flat, FLATTENING)
    return torch_run(flat)


def real_frames(run: Run) -> list[Judged]:
    """Return the EMPS validation part."""
    _, validation = split(read_emps(data_folder()))
    return [
        Judged(
            REAL,
            half,
            lead_of(predict(read_pixels(image.pair.image), run), FLATTENING),
            true_labels(read_pixels(image.pair.mask)),
        )
        for image, half in halved(validation)
    ]


def halved(images: Sequence[EmpsImage]) -> list[tuple[EmpsImage, int]]:
    """Give each image its half; papers take turns."""
    papers = sorted({image.doi for image in images})
    return [(image, papers.index(image.doi) % 2) for image in images]


def simulated_frames(run: Run, mode: Mode, count: int) -> list[Judged]:
    """Draw frames under any conditions on supports that training never drew."""
    frames: list[Judged] = []
    for number in range(count):
        rng = np.random.default_rng((SIMULATED_SEED, number, mode == "bf"))
        scene = random_scene(
            rng,
            shape=(SIMULATED_SIDE_PX, SIMULATED_SIDE_PX),
            mode=mode,
            style="demo",
            median_diameter_px=SIZES_PX[number // 2 % len(SIZES_PX)],
        )
        shown = render_micrograph(scene, rng)
        lead = lead_of(predict(shown.pixels, run), FLATTENING)
        frames.append(Judged(f"simulated {mode}", number % 2, lead, shown.labels))
    return frames
