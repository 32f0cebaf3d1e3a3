"""Where candidate and incumbent say the same of real frames, and what either finds there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emcopilot.labels import label_particles
from models.synthesise import Cut, Frame, Mask


@dataclass(frozen=True, slots=True)
class Finding:
    """What one model finds on a frame."""

    particles: int
    mean_diameter_px: float | None
    """Of circles of equal area, over particles that the border does not cut; None without any."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two models on one frame."""

    frame: str
    iou: float
    """Of the two masks; 1 where neither finds anything."""
    incumbent: Finding
    candidate: Finding


def agreements(
    frames: Sequence[tuple[str, Frame]], incumbent: Cut, candidate: Cut
) -> list[Agreement]:
    """Compare two models frame by frame; frames are normalised, (H, W), with their names."""
    found: list[Agreement] = []
    for name, pixels in frames:
        old, new = incumbent(pixels), candidate(pixels)
        union = np.count_nonzero(old | new)
        iou = np.count_nonzero(old & new) / union if union else 1.0
        found.append(Agreement(name, iou, _finding(old), _finding(new)))
    return found


def _finding(mask: Mask) -> Finding:
    labels = label_particles(mask)
    areas_px = np.bincount(labels.ravel())[1:]
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    whole = np.ones(areas_px.size, bool)
    whole[rim[rim > 0] - 1] = False
    diameters_px = np.sqrt(4 * areas_px[whole] / np.pi)
    mean_px = float(diameters_px.mean()) if diameters_px.size else None
    return Finding(int(areas_px.size), mean_px)
