"""The loss of NPsSegNet: focal, which looks at pixels, and Jaccard, which looks at areas.

Areas are compared tile by tile: over a whole batch, as the paper's library does, a tile with
large particles outweighs one with small ones, and small particles are learnt late.
Both terms treat particle and background alike; what doubt at the edge does to areas all the
same, and what is done about it, is said in `edges.py`.
Source: the paper's settings: mean of FocalLoss (multiclass, alpha 0.25) and JaccardLoss
(multiclass).
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
"""Lin et al. 2017, eq. 5; the default of the library that the paper used."""

ABSENT_SHARE = 0.005
"""Of a tile: the area against which an absent class's false pixels are weighed, as if one small
particle were there. Without it a tile that shows nothing hardly minds an invented particle."""

AreasOver = Literal["tile", "batch"]
"""Over what the Jaccard term sums areas before it divides them."""


class SegmentationLoss(NamedTuple):
    """The two terms and their mean; scalars that carry gradients."""

    total: Tensor
    focal: Tensor
    jaccard: Tensor


def focal_and_jaccard(
    logits: Tensor, masks: Tensor, areas_over: AreasOver = "tile"
) -> SegmentationLoss:
    """Compare a batch of logits with the true masks.

    Parameters
    ----------
    logits : float tensor, shape (B, 2, H, W)
        Raw network output; computed on in float32 whatever its dtype.
    masks : int64 or bool tensor, shape (B, H, W)
        1 is particle.
    areas_over : {"tile", "batch"}
        Which areas the Jaccard term compares; "batch" is the paper's.
    """
    truth = torch.stack([masks == 0, masks != 0], dim=1).float()  # (B, 2, H, W)
    scores = logits.float()
    focal = _focal(scores, truth)
    jaccard = _jaccard(scores, truth, areas_over)
    return SegmentationLoss((focal + jaccard) / 2, focal, jaccard)


def probability_loss(
    probability: NDArray[np.floating], truth: NDArray[np.bool_]
) -> float:
    """Return the loss of one shown probability map, 0..1, against the truth, both (H, W).

    The two logits are taken symmetric about 0, as the loss leaves them; half a step of the 8 bits
    in which maps are shown bounds them.
    """
    inside = np.clip(probability.astype(np.float32), 0.5 / 255, 1 - 0.5 / 255)
    half = torch.from_numpy(np.log(inside / (1 - inside)) / 2)
    logits = torch.stack([-half, half])[None]  # (1, 2, H, W)
    return focal_and_jaccard(logits, torch.from_numpy(truth)[None]).total.item()


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over pixels and classes of the one-against-all focal loss."""
    surprise = functional.binary_cross_entropy_with_logits(
        logits, truth, reduction="none"
    )
    hardness = (1.0 - torch.exp(-surprise)) ** FOCAL_GAMMA
    alpha = FOCAL_ALPHA * truth + (1.0 - FOCAL_ALPHA) * (1.0 - truth)
    return (alpha * hardness * surprise).mean()


def _jaccard(logits: Tensor, truth: Tensor, areas_over: AreasOver) -> Tensor:
    """One minus the soft intersection over union, mean over tiles (or the batch) and both classes.

    Over tiles, a class that does not occur is scored by what is taken for it: s / (s + area), s
    being `ABSENT_SHARE` of the tile. Over the batch, as in the paper's library, it adds nothing,
    and stays in the divisor.
    """
    summed = (2, 3) if areas_over == "tile" else (0, 2, 3)
    probability = logits.softmax(dim=1)
    overlap = (probability * truth).sum(dim=summed)
    present = truth.sum(dim=summed)
    taken = probability.sum(dim=summed)
    iou = overlap / (taken + present - overlap).clamp_min(1e-7)
    if areas_over == "batch":
        return ((1.0 - iou) * (present > 0)).mean()
    small = ABSENT_SHARE * truth.shape[2] * truth.shape[3]
    return (1.0 - torch.where(present > 0, iou, small / (small + taken))).mean()
