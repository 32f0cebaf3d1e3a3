"""Put the 0.5 contour back on the true edge after training.

The Jaccard term rewards giving a doubtful pixel to the rarer class: where the network cannot tell,
the overlap gained outweighs the union added. Particles therefore come out with a rim, wider the
less the network knows, and every diameter with a bias. One number per model undoes most of it: an
offset of the logits for which areas are right on frames whose truth is known. It is folded into
the last convolution, so that probability 0.5 means the edge again, on every engine, at no cost.
Frames are looked at as the live path looks at them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.datasets import LabelledFrame
from models.npssegnet import last_convolution, torch_run
from models.predict import mean_leads
from models.segmentation_metrics import pixel_score

_OFFSETS = np.arange(-3.0, 7.01, 0.05)
"""Searched; probability 0.5 moves to 0.05..0.999."""
_FEWEST_PX = 200
"""Of particle in a frame: below, a few stray pixels decide the ratio of areas."""
_LEAST_IOU = 0.6
"""Frames whose particles are missed or invented say nothing about where edges lie."""


def edge_offset(network: nn.Module, frames: Sequence[LabelledFrame]) -> float:
    """Return the offset for which the median ratio of shown to true area is 1.

    Parameters
    ----------
    network : Module
        NPsSegNet in evaluation mode.
    frames : sequence of LabelledFrame
        Frames with good masks, of the training data: what is judged later must not set it.

    Returns
    -------
    float
        To be taken from the particle logit's lead; 0 if no frame has particles enough.
    """
    ratios: list[NDArray[np.float64]] = []
    for frame in frames:
        (lead,) = mean_leads([frame.pixels.astype(np.float32)], torch_run(network))
        found = pixel_score(lead >= 0, frame.mask).iou_particle
        if found >= _LEAST_IOU and np.count_nonzero(frame.mask) >= _FEWEST_PX:
            ratios.append(area_ratios(lead, frame.mask))
    if not ratios:
        return 0.0
    return float(_OFFSETS[np.abs(np.log(np.median(ratios, axis=0))).argmin()])


def area_ratios(
    lead: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the shown over the true area for each offset that is searched.

    Parameters
    ----------
    lead : float array, shape (H, W)
        Particle minus background logit.
    mask : bool array, shape (H, W)
        True particles; not empty.
    """
    ordered = np.sort(lead, axis=None)
    shown = ordered.size - np.searchsorted(ordered, _OFFSETS)
    return np.maximum(shown, 1) / np.count_nonzero(mask)


@torch.no_grad()
def shift_decision(network: nn.Module, offset: float) -> None:
    """Take `offset` from the lead of the particle logit, in place, half by either class."""
    bias = last_convolution(network).get_parameter("bias")
    bias += torch.tensor([offset / 2, -offset / 2], device=bias.device)
