"""Make probabilities mean what they say, of pixels and of particles.

A probability is calibrated if, of all things that are called 80 % certain, 80 % are true. A
network trained with the Jaccard term promises too much. One number per model, the temperature, by
which both logits are divided, mends most of it; it is folded into the last convolution, where it
costs nothing on any engine and leaves the 0.5 contour where it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from torch import nn

from emcopilot.confidence import ParticleConfidence
from models.npssegnet import last_convolution

FloatArray = NDArray[np.float32] | NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

BINS = 15
"""Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017: 15 equal bins."""
FOUND_IOU = 0.5
"""A particle is true if it overlaps a true one by this much, as in the instance scores."""
_TEMPERATURES = (0.1, 10.0)
_RIDGE = 1.0
"""Weight of the identity beside one particle's: keeps the map finite where a handful of particles
can be told apart without error, and is nothing against hundreds."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often what was said with some confidence was true; two of them add up."""

    count: NDArray[np.int64]
    """Shape (BINS,), claims in each bin of confidence."""
    confidence_sum: NDArray[np.float64]
    """Shape (BINS,)."""
    true_sum: NDArray[np.float64]
    """Shape (BINS,), claims that were true."""

    @classmethod
    def of(cls, confidence: FloatArray, is_true: Mask) -> "Reliability":
        """Sort claims of any shape into bins.

        Parameters
        ----------
        confidence : float array, any shape
            Probability 0..1 that was given.
        is_true : bool array of the same shape
            What turned out.
        """
        p = np.asarray(confidence, np.float64).ravel()
        index = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        return cls(
            np.bincount(index, minlength=BINS),
            np.bincount(index, p, BINS).astype(np.float64),
            np.bincount(index, is_true.ravel(), BINS).astype(np.float64),
        )

    @classmethod
    def none(cls) -> "Reliability":
        """Return the sum of no claims."""
        return cls.of(np.empty(0), np.empty(0, np.bool_))

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.count + other.count,
            self.confidence_sum + other.confidence_sum,
            self.true_sum + other.true_sum,
        )

    @property
    def total(self) -> int:
        """How many claims there were."""
        return int(self.count.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: the bins' gaps, weighted by count; NaN of nothing."""
        gap = np.abs(self.confidence_sum - self.true_sum).sum()
        return float(gap / self.total) if self.total else float("nan")

    def rows(self) -> list[tuple[float, float, int]]:
        """Return (mean confidence, observed rate, count) of each bin that has any."""
        filled = np.flatnonzero(self.count)
        n = self.count[filled]
        means = self.confidence_sum[filled] / n, self.true_sum[filled] / n
        return list(zip(means[0].tolist(), means[1].tolist(), n.tolist(), strict=True))


def fit_temperature(
    leads: Sequence[FloatArray],
    masks: Sequence[Mask],
    weights: Sequence[float] | None = None,
) -> float:
    """Return the temperature under which the masks are likeliest.

    Parameters
    ----------
    leads : sequence of float arrays, shape (H, W)
        Particle minus background logit, of frames that training never saw.
    masks : sequence of bool arrays, shape (H, W)
        Their true particles.
    weights : sequence of float, optional
        What each frame counts, whatever its size; all the same where not given.

    Returns
    -------
    float
        To divide the logits by: above 1 for a network that promises too much. 1 of no frames.
    """
    if not leads:
        return 1.0
    toward: list[FloatArray] = []
    weight: list[FloatArray] = []
    for lead, mask, of_frame in zip(
        leads, masks, weights or [1.0] * len(leads), strict=True
    ):
        # Logits come in few distinct values (8 or 16 bits): counting them saves most of the work.
        values, counts = np.unique(np.where(mask, lead, -lead), return_counts=True)
        toward.append(values.astype(np.float64))
        weight.append(np.asarray(counts * (of_frame / mask.size), np.float64))
    lead_to_truth, share = np.concatenate(toward), np.concatenate(weight)

    def surprise(log_temperature: float) -> float:
        tempered = lead_to_truth / np.exp(log_temperature)
        return float(share @ np.logaddexp(0.0, -tempered))

    found = minimize_scalar(surprise, bounds=np.log(_TEMPERATURES), method="bounded")
    return math.exp(found.x)


@torch.no_grad()
def temper(network: nn.Module, temperature: float) -> None:
    """Divide the logits by `temperature`, in place; probability 0.5 stays the same edge."""
    last = last_convolution(network)
    for name in ("weight", "bias"):
        last.get_parameter(name).div_(temperature)


def probability_at(lead: FloatArray, temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the particle probability that a lead of the logits means, same shape."""
    return expit(np.asarray(lead, np.float32) / np.float32(temperature))


def lead_of(probability: NDArray[np.uint8], temperature: float = 1.0) -> FloatArray:
    """Return the lead of the logits that was shown as probability 0..255 at `temperature`.

    Eight bits end at a lead of 6.2; a network tempered by 4 beforehand shows leads up to 25.
    """
    inside = np.clip(probability / np.float32(255), 0.5 / 255, 1 - 0.5 / 255)
    return np.float32(temperature) * np.log(inside / (1 - inside))


def is_found(labels: Labels, truth: Labels) -> Mask:
    """Tell of each particle whether it overlaps a true one enough; bool (P,), label order.

    Parameters
    ----------
    labels, truth : int32 arrays, shape (H, W)
        0 is background; 1..P in `labels`.
    """
    area, true_area = np.bincount(labels.ravel()), np.bincount(truth.ravel())
    stride = len(true_area)
    pair, shared = np.unique(
        labels.astype(np.int64) * stride + truth, return_counts=True
    )
    ours, theirs = pair // stride, pair % stride
    iou = shared / (area[ours] + true_area[theirs] - shared)
    found = np.zeros(len(area), np.bool_)
    found[ours[(theirs > 0) & (iou >= FOUND_IOU)]] = True
    return found[1:]


def fit_particle_confidence(
    features: NDArray[np.float64], found: Mask
) -> ParticleConfidence:
    """Fit the logistic map to particles whose truth is known.

    Parameters
    ----------
    features : float array, shape (P, 4)
        `particle_features`, frame by frame, of many frames that training never saw.
    found : bool array, shape (P,)
        Whether each is true: see `is_found`.

    Returns
    -------
    ParticleConfidence
        The identity if there are no particles, or all or none are true.
    """
    if found.all() or not found.any():
        return ParticleConfidence()
    sign = np.where(found, 1.0, -1.0)
    start = np.array([0.0, 1.0, 0.0, 0.0])

    def surprise(coefficients: NDArray[np.float64]) -> float:
        doubt = np.logaddexp(0.0, -sign * (features @ coefficients)).sum()
        prior = _RIDGE * np.square(coefficients - start).sum() / 2
        return float((doubt + prior) / len(found))

    return ParticleConfidence(*minimize(surprise, start, method="BFGS").x.tolist())
