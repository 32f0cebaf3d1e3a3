"""How good a mask is: pixel by pixel, at its edge, particle by particle, and in size.

Every score takes one image; means over images and their spread are the caller's, because a score
of pooled pixels lets one crowded image decide for all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import nn

from models.npssegnet import torch_run
from models.tiling import Tiling, predict_normalised

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PixelScore:
    """Agreement of two masks, pixel by pixel."""

    pa: float
    """Pixel accuracy: the part of all pixels that agree."""
    miou: float
    """Mean of the two classes' intersection over union."""
    iou_particle: float
    """Intersection over union of the particles alone."""


def pixel_score(mask: Mask, truth: Mask) -> PixelScore:
    """Compare a mask with the truth, both bool (H, W).

    A class that neither has counts as found exactly (1): an empty field left empty is right.
    """
    agree = mask == truth
    both = int((mask & truth).sum())
    neither = int(agree.sum()) - both
    unlike = mask.size - int(agree.sum())
    iou_particle = _ratio(both, both + unlike)
    iou_background = _ratio(neither, neither + unlike)
    return PixelScore(
        pa=float(agree.mean()),
        miou=(iou_particle + iou_background) / 2,
        iou_particle=iou_particle,
    )


def boundary_f1(mask: Mask, truth: Mask, tolerance_px: float = 2.0) -> float:
    """Return the F1 of edge pixels that lie within `tolerance_px` of the other mask's edge.

    Two pixels is what two people disagree by when they outline the same particle by hand.
    """
    edges, true_edges = _edges(mask), _edges(truth)
    precision = _near(edges, true_edges, tolerance_px)
    recall = _near(true_edges, edges, tolerance_px)
    return _harmonic(precision, recall)


@dataclass(frozen=True, slots=True)
class InstanceScore:
    """Agreement of two label images, particle by particle."""

    matched_iou: FloatArray
    """Shape (M,), the overlap of each particle found with its true one."""
    found: int
    """Particles of the answer."""
    true: int
    """Particles of the truth."""

    @property
    def precision(self) -> float:
        """The part of the particles found that is true; 0 where nothing was found."""
        return self._share(self.matched_iou.size, self.found)

    @property
    def recall(self) -> float:
        """The part of the true particles that was found; 0 where there is none."""
        return self._share(self.matched_iou.size, self.true)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: Kirillov's recognition quality (RQ)."""
        return self._share(self.matched_iou.size, (self.found + self.true) / 2)

    @property
    def panoptic_quality(self) -> float:
        """Mean overlap of the matched (SQ) times the F1 (RQ).

        Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, eq. 1 and 2.
        """
        return self._share(float(self.matched_iou.sum()), (self.found + self.true) / 2)

    def _share(self, part: float, whole: float) -> float:
        """Count an empty field left empty as right, any other without a match as wrong."""
        if self.found == self.true == 0:
            return 1.0
        return part / whole if whole else 0.0


def instance_score(labels: Labels, truth: Labels) -> InstanceScore:
    """Match particles that overlap by more than half their union.

    Parameters
    ----------
    labels, truth : int array, shape (H, W)
        0 is background, each other value one particle; numbers without large gaps.

    Notes
    -----
    Above one half no particle can have two partners, so there is nothing to choose: the
    matching is the only one possible (Kirillov et al. 2019, section 4.1).
    """
    areas, true_areas = np.bincount(labels.ravel()), np.bincount(truth.ravel())
    overlap, ours, theirs = _overlaps(labels, truth)
    iou = overlap / (areas[ours] + true_areas[theirs] - overlap)
    return InstanceScore(
        matched_iou=iou[iou > 0.5],
        found=int(np.count_nonzero(areas[1:])),
        true=int(np.count_nonzero(true_areas[1:])),
    )


def _overlaps(labels: Labels, truth: Labels) -> tuple[IntArray, IntArray, IntArray]:
    """Return shared pixels, label and true label of every pair that shares any.

    A table of all pairs would not fit the memory for a frame with ten thousand particles.
    """
    both = (labels > 0) & (truth > 0)
    ours, theirs = labels[both].astype(np.int64), truth[both].astype(np.int64)
    stride = int(theirs.max(initial=0)) + 1
    pairs, overlap = np.unique(ours * stride + theirs, return_counts=True)
    return overlap, pairs // stride, pairs % stride


def size_distance_px(diameters: FloatArray, true_diameters: FloatArray) -> float:
    """Return the Wasserstein distance of two size distributions, in px.

    By how much a diameter must change, on average, to turn one distribution into the other:
    it sees a wrong spread, which a mean does not. NaN where either has no particle.
    """
    if diameters.size == 0 or true_diameters.size == 0:
        return float("nan")
    return float(stats.wasserstein_distance(diameters, true_diameters))


def diameter_error_percent(diameters: FloatArray, true_diameters: FloatArray) -> float:
    """Return by how much the mean diameter is off, in per cent; negative is too small.

    NaN where either has no particle: a size that nobody measured has no error.
    """
    if diameters.size == 0 or true_diameters.size == 0:
        return float("nan")
    true_mean = float(true_diameters.mean())
    return 100.0 * (float(diameters.mean()) - true_mean) / true_mean


def predict_probability(
    network: nn.Module, pixels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Run a network on one normalised frame (H, W) of any size; returns (H, W), 0..1."""
    frame = pixels.astype(np.float32)
    return predict_normalised([frame], torch_run(network), Tiling())[0]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _harmonic(precision: float, recall: float) -> float:
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _edges(mask: Mask) -> Mask:
    """Return the particles' outermost pixels."""
    return mask & np.logical_not(ndimage.binary_erosion(mask, border_value=1))


def _near(edges: Mask, others: Mask, tolerance_px: float) -> float:
    """Return the part of `edges` within `tolerance_px` of `others`."""
    if not edges.any():
        return float(not others.any())
    if not others.any():
        return 0.0
    distance = ndimage.distance_transform_edt(~others)
    return float((np.asarray(distance)[edges] <= tolerance_px).mean())
