"""Is one model better than another, or was it luck? Paired over the same images.

Scores of images are neither normal nor equally hard, so the test is Wilcoxon's signed-rank on the
differences image by image; several models compared with one are corrected by Holm's method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from models.segmentation_metrics import FloatArray

LEVEL = 0.05
FEWEST_PAIRS = 6
"""With five pairs the smallest p that signs can give is 2 / 2**5 = 0.06."""
_EXACT_PAIRS = 12
"""Up to here all 2**n signs are tried; above, the normal law fits ranks well enough."""
_NEGLIGIBLE = 1e-12
"""Of the larger value: differences below are rounding, not ranks."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models' scores by one metric on the same images."""

    n: int
    """Images on which both have the score."""
    differing: int
    """Those on which they differ; equal ones say nothing and are left out of the test."""
    median_difference: float
    """Of the first less the second; NaN without a pair."""
    p: float
    """Two-sided; NaN without a pair."""

    @property
    def note(self) -> str:
        """What must be known to read `p`; empty if nothing."""
        if self.n and not self.differing:
            return "no difference on any image"
        if self.differing < FEWEST_PAIRS:
            return (
                f"{self.differing} pairs that differ: fewer than {FEWEST_PAIRS} "
                f"cannot reach p < {LEVEL}"
            )
        return ""


def paired_test(scores: Sequence[float], others: Sequence[float]) -> PairedTest:
    """Test whether two models' scores differ by more than chance.

    Parameters
    ----------
    scores, others : sequences of float
        One an image, in the same order; a pair with a NaN is left out.
    """
    first, second = np.array(scores, np.float64), np.array(others, np.float64)
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if first.size == 0:
        return PairedTest(0, 0, math.nan, math.nan)
    differences = first - second
    rounding = _NEGLIGIBLE * np.maximum(np.abs(first), np.abs(second))
    differing = differences[np.abs(differences) > rounding]
    return PairedTest(
        n=first.size,
        differing=differing.size,
        median_difference=float(np.median(differences)),
        p=_wilcoxon_p(differing) if differing.size else 1.0,
    )


def _wilcoxon_p(differences: FloatArray) -> float:
    """Return the two-sided p of differences of which none is zero; ties share ranks."""
    # The exact table knows no ties, and few pairs leave none to the normal law.
    exact = stats.PermutationMethod(n_resamples=2**_EXACT_PAIRS)
    method = exact if differences.size <= _EXACT_PAIRS else "auto"
    # scipy carries no types: what pyright guesses of them is wrong.
    answer = stats.wilcoxon(differences, method=method)  # pyright: ignore[reportArgumentType]
    return float(np.asarray(answer)[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p of several comparisons for their number; NaN stays and is not counted.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J.
    Statist. 6 (1979) 65-70.
    """
    corrected = list(p_values)
    ranked = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(ranked):
        # An easier comparison may not come out more certain than a harder one.
        largest = max(largest, min(1.0, p * (len(ranked) - rank)))
        corrected[place] = largest
    return corrected
