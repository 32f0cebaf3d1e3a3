"""How good a mask is: pixel by pixel, at its edge, particle by particle, and in size.

Every score takes one image; means over images and their spread are the caller's, because a score
of pooled pixels lets one crowded image decide for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import nn

from models.datasets import LabelledFrame
from models.npssegnet import SIDE_MULTIPLE, particle_probability

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]


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


def instance_f1(labels: Labels, truth: Labels, least_iou: float = 0.5) -> float:
    """Return the F1 of particles found: pairs that overlap by `least_iou` or more.

    Both are int (H, W), 0 background, each other value one particle.
    """
    iou = pairwise_iou(labels, truth)
    if iou.size == 0:
        return float(iou.shape == (0, 0))
    rows, columns = linear_sum_assignment(iou, maximize=True)
    found = int((iou[rows, columns] >= least_iou).sum())
    return 2.0 * found / (iou.shape[0] + iou.shape[1])


def pairwise_iou(labels: Labels, truth: Labels) -> NDArray[np.float64]:
    """Return intersection over union of every particle with every true one, (P, T)."""
    ours, our_index = np.unique(labels, return_inverse=True)
    theirs, their_index = np.unique(truth, return_inverse=True)
    pairs = our_index.ravel() * len(theirs) + their_index.ravel()
    overlap = np.bincount(pairs, minlength=len(ours) * len(theirs)).astype(np.float64)
    overlap = overlap.reshape(len(ours), len(theirs))
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    return (overlap / union)[ours != 0][:, theirs != 0]


def diameter_error_percent(
    diameters: NDArray[np.float64], true_diameters: NDArray[np.float64]
) -> float:
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
    """Run a network on one normalised frame (H, W) at native size, mirrored out to fit."""
    height, width = pixels.shape
    pad = [(0, -side % SIDE_MULTIPLE) for side in (height, width)]
    padded = np.pad(pixels.astype(np.float32), pad, mode="symmetric")
    device = next(network.parameters()).device
    frame = torch.from_numpy(padded)[None, None].to(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        logits = network(frame)  # (1, 2, H, W)
    return particle_probability(logits)[0, :height, :width].cpu().numpy()


def mean_iou(network: nn.Module, frames: Sequence[LabelledFrame]) -> float:
    """Return the mean over frames of the MIoU at native size."""
    scores = [
        pixel_score(predict_probability(network, frame.pixels) >= 0.5, frame.mask).miou
        for frame in frames
    ]
    return float(np.mean(scores))


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
