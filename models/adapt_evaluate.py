"""Step I: what a job reached: true masks, real looks, and how the candidate does beside others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models import checkpoint
from models.agreement import Agreement, agreements
from models.classical_cut import LEAST_SOUND, Way, choose_way, cut
from models.datasets import LabelledFrame
from models.domain import Domain, network_cut
from models.image_metrics import (
    Features,
    ImageMetrics,
    compare_frames,
    fine_enough,
)
from models.replay import Retention, retention
from models.segmentation_metrics import pixel_score
from models.synthesise import Cut, Fidelity, Frame, fidelity
from models.verdict import LEAST_FIDELITY, Verdict, Worth, verdict, worth_of

LOOKED_AT = 24
"""Synthetic frames whose fidelity and realism are measured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All figures of one round."""

    incumbent: str
    """Id of the model that the candidate was judged against: of others the word says nothing."""
    fidelity_first: float
    """Mean overlap of the masks with what the domain's own cut finds."""
    fidelity_second: float
    classical_first: float
    """The same by the classical cut, which shares nothing with the networks that were asked
    before."""
    classical_second: float
    is_classical_sound: bool
    """Whether that cut finds the 1st generation's particles: only then the verdict heeds it."""
    first: ImageMetrics
    """The 1st generation against held-back real frames."""
    second: ImageMetrics
    worths: dict[str, Worth]
    """On held-back real frames, by who cut them."""
    synthetic_miou: dict[str, float]
    """On synthetic frames that training never saw, by model."""
    agreement: list[Agreement]
    """With the incumbent, on held-back real frames."""
    replay: list[Retention]
    """What was known before, and what is left of it."""
    verdict: Verdict

    def as_json(self) -> dict[str, object]:
        """Return plain values; `verdict` is the word."""
        return {
            "verdict": self.verdict.word,
            "reasons": list(self.verdict.reasons),
            "incumbent": self.incumbent,
            "fidelity_first": self.fidelity_first,
            "fidelity_second": self.fidelity_second,
            "classical_first": self.classical_first,
            "classical_second": self.classical_second,
            "is_classical_sound": self.is_classical_sound,
            "first": self.first.as_json(),
            "second": self.second.as_json(),
            "worths": {name: asdict(worth) for name, worth in self.worths.items()},
            "synthetic_miou": self.synthetic_miou,
            "agreement": {
                "mean_iou": float(np.mean([one.iou for one in self.agreement])),
                "frames": [asdict(one) for one in self.agreement],
            },
            "replay": [
                asdict(one) | {"is_forgotten": one.is_forgotten} for one in self.replay
            ],
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
    way = choose_way(domain.real)
    cuts: dict[str, Cut] = {
        "candidate": network_cut(candidate, device),
        "incumbent": network_cut(incumbent, device),
        "classical": lambda frame: cut(frame, way).mask,
    }
    ours, classical = (
        _fidelity(first, second, by) for by in (domain.cut, cuts["classical"])
    )
    is_sound = _is_sound(first, classical, way)
    trusted = [float(one.second.mean()) for one in (ours, classical)[: 1 + is_sound]]
    worths = {name: worth_of(one, domain.held_back) for name, one in cuts.items()}
    synthetic = {name: _miou(one, unseen) for name, one in cuts.items()}
    known = retention(incumbent, cuts["incumbent"], cuts["candidate"])
    return Outcome(
        incumbent=checkpoint.load(incumbent)[1].model_id,
        fidelity_first=float(ours.first.mean()),
        fidelity_second=float(ours.second.mean()),
        classical_first=float(classical.first.mean()),
        classical_second=float(classical.second.mean()),
        is_classical_sound=is_sound,
        first=metrics[0],
        second=metrics[1],
        worths=worths,
        synthetic_miou=synthetic,
        agreement=agreements(
            domain.named_held_back, cuts["incumbent"], cuts["candidate"]
        ),
        replay=known,
        verdict=verdict(
            worths["candidate"],
            worths["incumbent"],
            worths["classical"],
            # Where the incumbent made the rough masks, held particles in their places during
            # translation and chose what is kept, it is no independent judge of them.
            fidelity=min(trusted),
            synthetic_gain=synthetic["candidate"] - synthetic["incumbent"],
            forgotten=[str(one) for one in known if one.is_forgotten],
        ),
    )


def _is_sound(first: Sequence[LabelledFrame], found: Fidelity, way: Way) -> bool:
    """Say whether the classical cut is of the 1st generation's particles.

    What it then loses of the 2nd, translation moved.
    """
    some = [frame.pixels.astype(np.float32) for frame in first[:LOOKED_AT]]
    soundness = np.median([cut(pixels, way).soundness for pixels in some])
    return bool(soundness >= LEAST_SOUND and found.first.mean() >= LEAST_FIDELITY)


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
