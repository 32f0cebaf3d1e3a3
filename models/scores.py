"""One image's scores against a mask, named as `emcopilot evaluate` names them.

The answer is judged as the live path would show it: an 8-bit probability map, its threshold and
its labels.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import DecodeError
from emcopilot.labels import label_particles
from emcopilot.particles import measure_particles
from models.losses import probability_loss
from models.segmentation_metrics import (
    FloatArray,
    InstanceScore,
    Labels,
    Mask,
    boundary_f1,
    diameter_error_percent,
    instance_score,
    pixel_score,
    size_distance_px,
)

Probability = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageScore:
    """The scores of one image; the names are the command's stable keys."""

    name: str
    loss: float
    pa: float
    miou: float
    iou_particle: float
    boundary_f1: float
    instance_precision: float
    instance_recall: float
    instance_f1: float
    panoptic_quality: float
    mean_diameter_error_percent: float
    """NaN where the image or the answer has no particle clear of the border."""
    size_wasserstein_px: float
    """NaN likewise."""
    false_per_megapixel: float
    """Particles of the answer that match no true one: what is invented on an empty field."""


METRICS = tuple(field.name for field in fields(ImageScore))[1:]


@dataclass(frozen=True, slots=True)
class MarkedParticles:
    """The truth of an image whose particles were drawn."""

    labels: Labels
    """Shape (H, W), 0 background, 1..P the particles."""

    def score(self, name: str, probability: Probability) -> ImageScore:
        """Score a probability map, uint8 (H, W)."""
        truth, labels = self.labels, label_particles(probability)
        agreement = pixel_score(labels > 0, truth > 0)
        instances = instance_score(labels, truth)
        sizes = whole_diameters_px(labels), whole_diameters_px(truth)
        return ImageScore(
            name=name,
            loss=probability_loss(probability / np.float32(255), truth > 0),
            pa=agreement.pa,
            miou=agreement.miou,
            iou_particle=agreement.iou_particle,
            boundary_f1=boundary_f1(labels > 0, truth > 0),
            instance_precision=instances.precision,
            instance_recall=instances.recall,
            instance_f1=instances.f1,
            panoptic_quality=instances.panoptic_quality,
            mean_diameter_error_percent=diameter_error_percent(*sizes),
            size_wasserstein_px=size_distance_px(*sizes),
            false_per_megapixel=_false_particles(instances) / (truth.size / 1e6),
        )

    @property
    def is_empty(self) -> bool:
        """Say whether there is no particle."""
        return not self.labels.any()

    def outline(self, shape: tuple[int, ...]) -> Mask:
        """Return the pixels, bool (H, W), along which the particles are drawn."""
        return label_edges(self.labels)


def score_image(
    name: str,
    probability: Probability,
    pixels: NDArray[np.generic],
    marks: NDArray[np.generic],
) -> ImageScore:
    """Score one probability map, uint8 (H, W), against the marks of its mask file.

    Raises
    ------
    DecodeError
        If mask and image differ in shape.
    """
    if marks.shape != pixels.shape:
        raise DecodeError(
            f"{name}: the image is {pixels.shape} px, its mask {marks.shape}; "
            "draw the mask at the image's own size"
        )
    return MarkedParticles(true_labels(marks)).score(name, probability)


def true_labels(marks: NDArray[np.generic]) -> Labels:
    """Turn a mask file's values into labels 1..P.

    An integer mask of 16 bits or more with several values numbers its particles; any other is
    particle wherever it is above 0, and touching particles are parted as in live inference.
    """
    particle = np.greater(marks, 0)
    is_numbered = marks.dtype.kind in "iu" and marks.dtype.itemsize > 1
    if is_numbered and len(np.unique(marks[particle])) > 1:
        values, index = np.unique(np.where(particle, marks, 0), return_inverse=True)
        shift = 0 if values[0] == 0 else 1
        return (index.reshape(marks.shape) + shift).astype(np.int32)
    return label_particles(particle, min_area_px=1)


def whole_diameters_px(labels: Labels) -> FloatArray:
    """Return the equivalent diameters of the particles that the border leaves whole."""
    table = measure_particles(labels, labels)
    return table.equivalent_diameter_px[~table.touches_border]


def label_edges(labels: Labels) -> Mask:
    """Return the outermost pixels of every particle, bool (H, W)."""
    edges = np.zeros(labels.shape, np.bool_)
    for axis in (0, 1):
        changes = np.diff(labels, axis=axis) != 0
        before: list[slice] = [slice(None), slice(None)]
        after = before.copy()
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edges[tuple(before)] |= changes
        edges[tuple(after)] |= changes
    return edges & (labels > 0)


def _false_particles(instances: InstanceScore) -> int:
    return instances.found - instances.matched_iou.size
