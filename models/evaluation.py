"""What `emcopilot evaluate` answers: figures of a model, and of a model against others.

Figures are per image first; means and spreads are over images, because pooled pixels would let
one crowded image decide for all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from models.box_truth import BoxScore
from models.scores import METRICS, ImageScore
from models.significance import LEVEL, PairedTest, holm, paired_test

Score = ImageScore | BoxScore

SIGNED = frozenset({"mean_diameter_error_percent", "count_error_percent"})
"""Compared between models by their size: -20 % is no better than +5 %."""
LOWER_IS_BETTER = SIGNED | {"loss", "size_wasserstein_px", "false_per_megapixel"}
UNJUDGED = frozenset({"found", "boxed", "median_diameter_px", "median_box_diameter_px"})
"""They describe; more or less of them is neither better nor worse."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All images' scores by one model, and the files that could not be scored."""

    model_id: str
    scores: tuple[Score, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """Name and reason."""
    empty: int = 0
    """Images whose truth has no particle."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the figures each image has."""
        if not self.scores:
            return METRICS
        return tuple(field.name for field in fields(self.scores[0]))[1:]

    def values(self, metric: str) -> list[float]:
        """Return one metric of every image, in order."""
        return [float(getattr(score, metric)) for score in self.scores]

    def count(self, metric: str) -> int:
        """Return on how many images the metric has a value."""
        return sum(map(math.isfinite, self.values(metric)))

    def mean(self, metric: str) -> float:
        """Return the mean of one metric over the images that have it."""
        return self._over_images(np.mean, metric)

    def std(self, metric: str) -> float:
        """Return the spread (standard deviation) of one metric over the images."""
        return self._over_images(np.std, metric)

    def _over_images(self, statistic: Callable[..., float], metric: str) -> float:
        values = np.array(self.values(metric))
        known = values[np.isfinite(values)]
        return float(statistic(known)) if known.size else math.nan

    def as_json(self) -> dict[str, object]:
        """Return the contract's answer; NaN becomes null."""
        return {
            "model_id": self.model_id,
            "images": len(self.scores),
            "mean": {m: number(self.mean(m)) for m in self.metrics},
            "std": {m: number(self.std(m)) for m in self.metrics},
            "per_image": [
                {
                    key: value if isinstance(value, str | int) else number(value)
                    for key, value in asdict(score).items()
                }
                for score in self.scores
            ],
            "unreadable": [{"name": n, "reason": r} for n, r in self.unreadable],
            "empty": self.empty,
        }

    def as_table(self) -> str:
        """Return the figures for people."""
        lines = [
            f"{self.model_id}: {len(self.scores)} images, mean ± spread over images"
        ]
        for metric in self.metrics:
            n = self.count(metric)
            fewer = f"   n = {n}" if n < len(self.scores) else ""
            figures = (
                f"{self.mean(metric):9.4f} ± {self.std(metric):.4f}"
                if n
                else "        -"
            )
            lines.append(f"  {metric:<28}{figures}{fewer}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric of two models."""

    test: PairedTest
    p_holm: float
    """Corrected for the number of models that the first is compared with."""
    is_better: bool | None
    """Of the first, where that is significant; None where it is not, or is no merit."""

    def as_json(self) -> dict[str, object]:
        """Return the figures of one metric; NaN becomes null."""
        return {
            "n": self.test.n,
            "differing": self.test.differing,
            "median_difference": number(self.test.median_difference),
            "p": number(self.test.p),
            "p_holm": number(self.p_holm),
            "better": self.is_better,
            "note": self.test.note,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model against another on the same images."""

    other: Evaluation
    verdicts: dict[str, Verdict]
    """By metric."""

    def as_json(self) -> dict[str, object]:
        """Return the other model's figures and the tests."""
        tests = {metric: v.as_json() for metric, v in self.verdicts.items()}
        return {**self.other.as_json(), "tests": tests}

    def as_table(self) -> str:
        """Return the tests for people."""
        lines = [
            f"against {self.other.model_id}: median difference, Wilcoxon's p over pairs, "
            "corrected after Holm"
        ]
        notes: set[str] = set()
        for metric, v in self.verdicts.items():
            word = {True: "better", False: "worse", None: ""}[v.is_better]
            lines.append(
                f"  {metric:<28}{v.test.median_difference:+9.4f}   p = {v.test.p:<8.2g}"
                f"Holm {v.p_holm:<8.2g}n = {v.test.n:<5}{word}".rstrip()
            )
            notes |= {v.test.note} - {""}
        return "\n".join([*lines, *(f"  ({note})" for note in sorted(notes))]) + "\n"


def compare(result: Evaluation, others: Sequence[Evaluation]) -> list[Comparison]:
    """Test a model against every other, metric by metric, paired by image.

    Parameters
    ----------
    result : Evaluation
    others : sequence of Evaluation
        Of the same images; one that only one of the two could score is left out.
    """
    tests = [_tests(result, other) for other in others]
    verdicts: list[dict[str, Verdict]] = [{} for _ in others]
    for metric in tests[0] if tests else ():
        p_values = holm([by_metric[metric].p for by_metric in tests])
        for place, p in enumerate(p_values):
            test = tests[place][metric]
            verdicts[place][metric] = Verdict(test, p, _is_better(metric, test, p))
    return [
        Comparison(other, by_metric)
        for other, by_metric in zip(others, verdicts, strict=True)
    ]


def _tests(result: Evaluation, other: Evaluation) -> dict[str, PairedTest]:
    theirs = {score.name: score for score in other.scores}
    pairs = [(s, theirs[s.name]) for s in result.scores if s.name in theirs]
    return {
        metric: paired_test(
            [_merit(score, metric) for score, _ in pairs],
            [_merit(score, metric) for _, score in pairs],
        )
        for metric in result.metrics
        if metric not in UNJUDGED
    }


def _merit(score: Score, metric: str) -> float:
    value = float(getattr(score, metric))
    return abs(value) if metric in SIGNED else value


def _is_better(metric: str, test: PairedTest, p: float) -> bool | None:
    if not p < LEVEL or test.median_difference == 0:
        return None
    return (test.median_difference < 0) == (metric in LOWER_IS_BETTER)


def number(value: float) -> float | None:
    """Return a JSON number, or None for what is none."""
    return value if math.isfinite(value) else None
