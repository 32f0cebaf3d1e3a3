"""How long a job will take: planned from its settings, corrected by what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.adapt_settings import AdaptSettings
from models.gan_settings import GanSettings

STAGES = ("rough_masks", "pix2pix", "cyclegan", "synthesise", "train", "evaluate")
"""In order; one round of a job goes through all of them."""
_FRAME_S, _START_S = 0.6, 10.0
_PIX2PIX_S, _CYCLEGAN_S, _TRAIN_S, _SYNTHESISE_S = 9.0, 38.0, 6.0, 11.0
"""Seconds per million pixels of tiles on two cores of an AMD EPYC, preset "quick": our own runs,
in which one step of pix2pix took 1.5 s of one core, of CycleGAN 2.1 s. A job corrects their scale
as it runs."""
_EVALUATE_S = 90.0
_TRUSTED_SHARE = 0.05
"""Of the plan; until so much is done, the plan weighs more than what was measured."""


def expected_s(job: AdaptSettings) -> dict[str, float]:
    """Plan the seconds of each stage of one round on two CPU cores."""
    made_px = job.synthetic * job.side_px**2 / 1e6
    train = job.train.for_frames(job.synthetic)
    return {
        "rough_masks": _START_S + _FRAME_S * job.most_frames,
        "pix2pix": _PIX2PIX_S * _tiles_px(job.pix2pix, job.painted),
        "cyclegan": _CYCLEGAN_S * _tiles_px(job.cyclegan, job.synthetic),
        "synthesise": _SYNTHESISE_S * made_px,
        "train": _TRAIN_S * train.steps * train.batch * train.tile_px**2 / 1e6,
        "evaluate": _EVALUATE_S,
    }


def _tiles_px(settings: GanSettings, frames: int) -> float:
    """Return the million pixels that a GAN sees, taking frames for 512 x 512."""
    counted = settings.for_area(frames * 512**2)
    return counted.steps * counted.batch * counted.tile_px**2 / 1e6


@dataclass
class JobClock:
    """Tells how much of a job is left, whichever run of it this is."""

    plan_s: Mapping[str, float]
    """Of one round, by stage in order."""
    rounds: int = 1
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Spent so far by stage."""

    def spend(self, stage: str, spent_s: float) -> None:
        """Count seconds to a stage."""
        if stage in self.plan_s:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent_s, 3)

    def left_s(self, stage: str, step: int, steps: int, number: int) -> float | None:
        """Return the seconds that the job still needs at a step of a stage of a round.

        The plan's seconds for what is left, times how much slower than planned this machine has
        been so far. None for a stage that the plan does not know.
        """
        if stage not in self.plan_s:
            return None
        names = list(self.plan_s)
        total = sum(self.plan_s.values())
        before = sum(self.plan_s[name] for name in names[: names.index(stage)])
        done = (number - 1) * total + before
        done += self.plan_s[stage] * min(1.0, step / steps if steps else 0.0)
        trust = _TRUSTED_SHARE * total
        slowness = (sum(self.seconds.values()) + trust) / (done + trust)
        return max(0.0, self.rounds * total - done) * slowness
