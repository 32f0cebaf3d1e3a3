"""How sure the model is of a particle and of a frame, in chances that come true.

The mean probability within a particle says how clear its pixels are, not whether it is one: it is
never below one half, and a sharp stain is as clear as a particle. A small map, fitted per model on
frames whose truth is known (`models.calibration`), turns it into a chance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

FloatArray = NDArray[np.float64]

EVEN_CHANCE = 0.5
"""A particle with less is doubtful: likelier something else."""
_CLEAREST = 1 / 256
"""What eight bits leave of doubt: their 255 is not certainty."""


@dataclass(frozen=True, slots=True)
class ParticleConfidence:
    """A logistic map from what is seen of a particle to the chance that it is one.

    Fitted per model, kept in its card. The identity says the mean probability inside.
    """

    # Where a card or a message brings it: a misspelt coefficient must not pass for the identity.
    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    constant: float = 0.0
    per_lead: float = 1.0
    """Of the logit of the mean probability inside."""
    per_log_diameter: float = 0.0
    """Of ln(equivalent diameter in px): a speck is doubted more than a disc."""
    per_log_relative_diameter: float = 0.0
    """Of ln(diameter over the frame's typical one): a speck among discs is doubted more than one
    among its like."""

    def __call__(
        self, mean_probability: FloatArray, diameter_px: FloatArray
    ) -> FloatArray:
        """Return each particle's chance, shape (P,).

        Parameters
        ----------
        mean_probability : float array, shape (P,)
            Mean probability 0..1 inside each particle of one frame; NaN (unknown) stays NaN.
        diameter_px : float array, shape (P,)
            Equivalent diameters.
        """
        return self.of_features(particle_features(mean_probability, diameter_px))

    def of_features(self, features: FloatArray) -> FloatArray:
        """Return chances, shape (P,), of what `particle_features` says, shape (P, 4)."""
        coefficients = (
            self.constant,
            self.per_lead,
            self.per_log_diameter,
            self.per_log_relative_diameter,
        )
        lead = features @ np.array(coefficients)
        return 1.0 / (1.0 + np.exp(-np.clip(lead, -50.0, 50.0)))


IDENTITY = ParticleConfidence()
"""What holds for a model to which nothing was fitted."""


def particle_features(
    mean_probability: FloatArray, diameter_px: FloatArray
) -> FloatArray:
    """Return what a map goes by, for the particles of one frame.

    Returns
    -------
    float64 array, shape (P, 4)
        A constant, the logit of the mean probability, ln of the diameter, and ln of the diameter
        over that of the particle in which the middle of the frame's particle area lies.
    """
    inside = np.clip(mean_probability, _CLEAREST, 1 - _CLEAREST)
    lead = np.log(inside / (1 - inside))
    diameter = np.log(np.maximum(diameter_px, 1.0))
    return np.column_stack(
        [np.ones_like(lead), lead, diameter, diameter - _typical(diameter)]
    )


def _typical(log_diameter: FloatArray) -> float:
    """Return the median of ln(diameter), weighted by area."""
    if not len(log_diameter):
        return 0.0
    ordered = np.sort(log_diameter)
    reached = np.cumsum(np.exp(2.0 * ordered))
    return float(ordered[np.searchsorted(reached, reached[-1] / 2)])


def is_doubtful(confidence: FloatArray) -> NDArray[np.bool_]:
    """Tell of each particle whether it is less likely one than not, shape (P,).

    Doubtful particles are shown as such and count in sizes all the same: taking them out is the
    operator's choice. One whose confidence is unknown (NaN) is not doubted.
    """
    return confidence < EVEN_CHANCE


def frame_confidence(confidence: FloatArray, area_px: NDArray[np.number]) -> float:
    """Return one number for a frame: its particles' confidence, weighted by their area.

    NaN where there is no particle: an empty field says nothing of how sure the model is.
    """
    total = float(np.sum(area_px))
    return float(np.dot(confidence, area_px)) / total if total else float("nan")


def doubtful_share(probability: NDArray[np.uint8]) -> float:
    """Return the pixels between 10 and 90 % as a share of those above 50 %.

    The domain alarm's number: doubt is a thin rim round particles where the model is at home,
    and spreads over them, and over the support, where it is not. Never above 100.
    """
    doubtful = np.count_nonzero((probability > 25) & (probability < 230))
    return min(doubtful / max(np.count_nonzero(probability >= 128), 1), 100.0)
