"""The loss of NPsSegNet: focal, which looks at pixels, and Jaccard, which looks at areas.

Both treat particle and background alike; what doubt at the edge does to areas all the same, and
what is done about it, is said in `edges.py`.
Source: the paper's settings: mean of FocalLoss (multiclass, alpha 0.25) and JaccardLoss
(multiclass).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
"""Lin et al. 2017, eq. 5; the default of the library that the paper used."""


class SegmentationLoss(NamedTuple):
    """The two terms and their mean; scalars that carry gradients."""

    total: Tensor
    focal: Tensor
    jaccard: Tensor


def focal_and_jaccard(logits: Tensor, masks: Tensor) -> SegmentationLoss:
    """Compare a batch of logits with the true masks.

    Parameters
    ----------
    logits : float tensor, shape (B, 2, H, W)
        Raw network output; computed on in float32 whatever its dtype.
    masks : int64 or bool tensor, shape (B, H, W)
        1 is particle.
    """
    truth = torch.stack([masks == 0, masks != 0], dim=1).float()  # (B, 2, H, W)
    scores = logits.float()
    focal = _focal(scores, truth)
    jaccard = _jaccard(scores, truth)
    return SegmentationLoss((focal + jaccard) / 2, focal, jaccard)


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over pixels and classes of the one-against-all focal loss."""
    surprise = functional.binary_cross_entropy_with_logits(
        logits, truth, reduction="none"
    )
    hardness = (1.0 - torch.exp(-surprise)) ** FOCAL_GAMMA
    alpha = FOCAL_ALPHA * truth + (1.0 - FOCAL_ALPHA) * (1.0 - truth)
    return (alpha * hardness * surprise).mean()


def _jaccard(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the soft intersection over union, mean over the classes that occur."""
    probability = logits.softmax(dim=1)
    overlap = (probability * truth).sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3))
    union = probability.sum(dim=(0, 2, 3)) + present - overlap
    iou = overlap / union.clamp_min(1e-7)
    # A class that no pixel of the batch has cannot be scored by overlap; focal still sees it.
    return ((1.0 - iou) * (present > 0)).mean()
