"""Step I: what a job reached: true masks, real looks, and how the candidate does beside others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.classical_cut import choose_way, cut
from models.datasets import LabelledFrame
from models.domain import Domain, network_cut
from models.image_metrics import (
    Features,
    ImageMetrics,
    compare_frames,
    fine_enough,
)
from models.segmentation_metrics import pixel_score
from models.synthesise import Cut, Fidelity, Frame, fidelity
from models.verdict import Verdict, Worth, verdict, worth_of

LOOKED_AT = 24
"""Synthetic frames whose fidelity and realism are measured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All figures of one round."""

    fidelity_first: float
    fidelity_second: float
    first: ImageMetrics
    """The 1st generation against held-back real frames."""
    second: ImageMetrics
    worths: dict[str, Worth]
    """On held-back real frames, by who cut them."""
    synthetic_miou: dict[str, float]
    """On synthetic frames that training never saw, by model."""
    verdict: Verdict

    def as_json(self) -> dict[str, object]:
        """Return plain values; `verdict` is the word."""
        return {
            "verdict": self.verdict.word,
            "reasons": list(self.verdict.reasons),
            "fidelity_first": self.fidelity_first,
            "fidelity_second": self.fidelity_second,
            "first": self.first.as_json(),
            "second": self.second.as_json(),
            "worths": {name: asdict(worth) for name, worth in self.worths.items()},
            "synthetic_miou": self.synthetic_miou,
        }


def evaluate(
    domain: Domain,
    features: Features,
    *,
    first: Sequence[LabelledFrame],
    second: Sequence[LabelledFrame],
    unseen: Sequence[LabelledFrame],
    incumbent: str,
    candidate: Path,
    device: str,
) -> Outcome:
    """Measure what a round reached, without any label.

    Parameters
    ----------
    domain : Domain
    features : Features
        In which looks are compared.
    first, second : sequence of LabelledFrame
        The two generations; the second may have fewer.
    unseen : sequence of LabelledFrame
        Of the second, those that training did not see.
    incumbent : str
        The model that is live, whatever round this is.
    candidate : Path
        Directory of the one that the round ended with.
    device : str
        Where networks run.
    """
    metrics = [
        _realism(
            [f.pixels.astype(np.float32) for f in made[:LOOKED_AT]], domain, features
        )
        for made in (first, second)
    ]
    truth = _fidelity(first, second, domain.cut)
    way = choose_way(domain.real)
    cuts: dict[str, Cut] = {
        "candidate": network_cut(candidate, device),
        "incumbent": network_cut(incumbent, device),
        "classical": lambda frame: cut(frame, way).mask,
    }
    worths = {name: worth_of(one, domain.held_back) for name, one in cuts.items()}
    synthetic = {name: _miou(one, unseen) for name, one in cuts.items()}
    second_fidelity = float(truth.second.mean())
    return Outcome(
        fidelity_first=float(truth.first.mean()),
        fidelity_second=second_fidelity,
        first=metrics[0],
        second=metrics[1],
        worths=worths,
        synthetic_miou=synthetic,
        verdict=verdict(
            worths["candidate"],
            worths["incumbent"],
            worths["classical"],
            fidelity=second_fidelity,
            synthetic_gain=synthetic["candidate"] - synthetic["incumbent"],
        ),
    )


def _realism(made: Sequence[Frame], domain: Domain, features: Features) -> ImageMetrics:
    """Compare generated frames with those that nothing learnt from, finely enough for both."""
    looks = [fine_enough(frames, features) for frames in (made, domain.held_back)]
    finest = min(looks, key=lambda one: one.step_px)
    return compare_frames(made, domain.held_back, features, finest)


def _fidelity(
    first: Sequence[LabelledFrame], second: Sequence[LabelledFrame], cut: Cut
) -> Fidelity:
    """Measure the fidelity of frames that are in both generations."""
    before = {frame.name: frame for frame in first}
    some = list(second[:LOOKED_AT])
    return fidelity([before[frame.name] for frame in some], some, cut)


def _miou(cut: Cut, frames: Sequence[LabelledFrame]) -> float:
    scores = [pixel_score(cut(f.pixels.astype(np.float32)), f.mask) for f in frames]
    return float(np.mean([score.miou for score in scores]))
