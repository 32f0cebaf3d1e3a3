"""One decoded frame and its probability map -> everything that is stored and shown of it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emcopilot.confidence import doubtful_share, frame_confidence, is_doubtful
from emcopilot.decode import Frame
from emcopilot.domain import Reading
from emcopilot.label_image import encode_labels
from emcopilot.labels import Labels, label_particles
from emcopilot.messages import Unit
from emcopilot.outlines import Outlines, outlines
from emcopilot.particle_table import ParticleTable, countable
from emcopilot.particles import measure_particles
from emcopilot.psd import Psd, measure_psd
from gpu_server.picture import shown_factor
from gpu_server.saving import FrameFacts, SavedResult
from gpu_server.segment import Segmentation


@dataclass(frozen=True, slots=True)
class MeasuredFrame:
    """A frame with its particles: the value that storing, publishing and REST share."""

    frame: Frame
    labels: Labels
    """int32, shape (H, W); 0 is background."""
    particles: ParticleTable
    psd: Psd
    """Of the particles that are whole within the frame."""
    outlines: Outlines
    """In the shown picture's pixels."""
    model_id: str
    device: str
    infer_s: float
    doubtful_share: float
    """Pixels that the network is in doubt of over those that it calls particle."""
    measure_s: float

    @property
    def unit(self) -> Unit:
        """Unit of the sizes: "nm", or "px" while the pixel size is unknown."""
        return unit_of(self.frame)

    @property
    def diameters(self) -> NDArray[np.float64]:
        """Equivalent diameters in `unit`, shape (P,)."""
        return self.particles.diameters()

    @property
    def counted_diameters(self) -> NDArray[np.float64]:
        """Equivalent diameters, shape (P,); NaN where the border cuts the particle."""
        return np.where(countable(self.particles), self.diameters, np.nan)

    @property
    def confidence(self) -> float | None:
        """The particles' confidence weighted by area, 0..1; None without particles."""
        value = frame_confidence(self.particles.confidence, self.particles.area_px)
        return value if math.isfinite(value) else None

    @property
    def doubtful(self) -> int:
        """How many particles are below an even chance."""
        return int(np.count_nonzero(is_doubtful(self.particles.confidence)))

    def summary(self) -> dict[str, int | float | str | None]:
        """Return the figures kept beside the result; diameters in `unit`."""
        psd = self.psd
        return {
            "particles": len(self.particles),
            "counted": psd.n,
            "excluded_border": int(np.count_nonzero(self.particles.touches_border)),
            "doubtful": self.doubtful,
            "unit": self.unit,
            "mean_diameter": psd.mean_number,
            "median_diameter": psd.d50,
            "dispersion": psd.dispersion,
            "confidence": self.confidence,
            "doubtful_share": self.doubtful_share,
            "device": self.device,
            "infer_s": self.infer_s,
            "measure_s": self.measure_s,
        }

    def labels_tiff(self) -> bytes:
        """Return the labels as TIFF bytes, with the scale when it is known."""
        return encode_labels(self.labels, self.frame.pixel_size_nm)


def measure(
    frame: Frame, segmentation: Segmentation, *, min_area_px: int = 9
) -> MeasuredFrame:
    """Label, measure and outline the particles of one frame; blocks for tens of ms.

    Doubtful particles count like all others: see `emcopilot.confidence.is_doubtful`.
    """
    started = time.monotonic()
    labels = label_particles(segmentation.probability, min_area_px=min_area_px)
    particles = measure_particles(
        labels,
        frame.pixels,
        pixel_size_nm=frame.pixel_size_nm,
        probability=segmentation.probability,
    )
    # Measured is the mean probability; what it means for this model, only its card knows.
    chance = segmentation.confidence(
        particles.confidence, particles.equivalent_diameter_px
    )
    particles = replace(particles, confidence=chance)
    unit = unit_of(frame)
    psd = measure_psd(particles.diameters()[countable(particles)], unit=unit)
    height, width = labels.shape
    return MeasuredFrame(
        frame,
        labels,
        particles,
        psd,
        outlines(labels, scale=1.0 / shown_factor((height, width))),
        segmentation.model_id,
        segmentation.device,
        segmentation.infer_s,
        doubtful_share(segmentation.probability),
        time.monotonic() - started,
    )


def result_of(
    frame_id: int, measured: MeasuredFrame, timings: Mapping[str, float] | None = None
) -> SavedResult:
    """Return what the store keeps of a measured frame; `timings` are the live path's."""
    frame = measured.frame
    height, width = frame.pixels.shape
    facts = FrameFacts(
        height=height,
        width=width,
        dtype=frame.pixels.dtype.name,
        pixel_size_nm=frame.pixel_size_nm,
        pixel_size_source=frame.pixel_size_source,
        modality=frame.modality,
        detector=frame.detector,
        sample=frame.sample,
        time_s=frame.time_s,
        notes=frame.notes,
    )
    return SavedResult(
        frame_id=frame_id,
        model_id=measured.model_id,
        facts=facts,
        summary=measured.summary(),
        diameters=measured.counted_diameters.astype("<f4").tobytes(),
        particles=measured.particles.to_bytes(),
        labels=measured.labels_tiff(),
        timings=timings or {},
    )


def reading_of(measured: MeasuredFrame) -> Reading:
    """Return what the live model finds in a frame, for the alarm."""
    particles = measured.particles
    diameters_px = particles.equivalent_diameter_px
    return Reading(
        particle_count=len(particles),
        doubtful_share=measured.doubtful_share,
        diameter_px=float(np.median(diameters_px)) if len(particles) else None,
        covered_share=float(np.sum(particles.area_px)) / max(measured.labels.size, 1),
    )


def unit_of(frame: Frame) -> Unit:
    """Return the unit in which sizes on this frame are said."""
    return "nm" if frame.pixel_size_nm else "px"
