"""What a model answers, less what it does not itself believe to be a particle.

A network that meets a support it never saw may raise specks of it just above one half. The map
fitted to the model (`emcopilot.confidence`) knows them: their chance to be particles is a few in a
hundred. They are taken out of the probability map, so that whatever is made of it agrees.
"""

import numpy as np
from numpy.typing import NDArray

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.labels import label_particles

LEAST_CHANCE = 0.2
"""Chance below which something is no particle. Chosen on the validation images: with the base
model it raises the instance F1 of EMPS (n=38) from 0.69 to 0.87 and its MIoU from 0.919 to 0.930;
supported catalysts (ARDA, HAADF, n=6) lose 0.02 of 0.67, and 0.05 at 0.3."""
_BACKGROUND = 127
"""The highest probability, 0..255, that is no particle."""


def believed(
    probability: NDArray[np.uint8], confidence: ParticleConfidence
) -> NDArray[np.uint8]:
    """Lower the probability of whatever the model itself does not take for a particle.

    Parameters
    ----------
    probability : uint8 array, shape (H, W)
        Particle probability, 0..255; particle from 128.
    confidence : ParticleConfidence
        Of the model that gave it; with the identity nothing is changed.

    Returns
    -------
    uint8 array, shape (H, W)
        The same array where nothing had to be changed.
    """
    if confidence == IDENTITY:  # its chances are never below one half
        return probability
    labels = label_particles(probability)
    area_px = np.bincount(labels.ravel())
    if len(area_px) == 1:
        return probability
    inside = np.bincount(labels.ravel(), probability.ravel())[1:] / area_px[1:] / 255.0
    chance = confidence(inside, np.sqrt(4.0 * area_px[1:] / np.pi))
    is_dropped = np.concatenate([[False], chance < LEAST_CHANCE])
    if not is_dropped.any():
        return probability
    return np.where(
        is_dropped[labels], np.minimum(probability, _BACKGROUND), probability
    ).astype(np.uint8)
