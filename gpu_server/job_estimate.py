"""How long a job will take, before it is started."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gpu_server.tables import STAGES

USUAL_FRAMES = {"quick": 40, "standard": 200, "paper": 200}
"""As many frames a job of a preset takes, unless told otherwise."""
_ASSUMED_S: dict[str, dict[str, float]] = {
    "quick": dict(zip(STAGES, (40.0, 480.0, 380.0, 50.0, 500.0, 120.0), strict=True)),
    "standard": dict(zip(STAGES, (60.0, 150.0, 150.0, 30.0, 150.0, 40.0), strict=True)),
    "paper": dict(
        zip(STAGES, (60.0, 3600.0, 7200.0, 120.0, 3600.0, 60.0), strict=True)
    ),
}
ASSUMED_FOR = {
    "quick": "two cores of an AMD EPYC, from the seconds of single steps",
    "standard": "one data-centre GPU, untested",
    "paper": "one data-centre GPU, untested",
}
"""What the assumed seconds are planned for; the first job here replaces them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that a job is expected to take."""

    stages: dict[str, float]
    source: str
    """What it is based on, for a person."""

    @property
    def total_s(self) -> float:
        """Return the seconds of all stages."""
        return sum(self.stages.values())


def estimate(preset: str, frames: int, earlier: Sequence[dict[str, float]]) -> Estimate:
    """Estimate a job from what earlier ones of its preset took here, else from assumptions.

    Parameters
    ----------
    preset : str
    frames : int
        How many it learns from; only the rough masks take longer for more.
    earlier : sequence of dict
        Seconds by stage.
    """
    whole = [seconds for seconds in earlier if set(STAGES) <= seconds.keys()]
    if whole:
        stages = {
            name: median(float(seconds[name]) for seconds in whole) for name in STAGES
        }
        said = "1 earlier job" if len(whole) == 1 else f"the last {len(whole)} jobs"
        return Estimate(stages, f"{said} of this preset on this machine")
    stages = dict(_ASSUMED_S[preset])
    stages["rough_masks"] *= frames / USUAL_FRAMES[preset]
    return Estimate(
        stages,
        f"planned for {ASSUMED_FOR[preset]}: no job of this preset has ended on this machine yet",
    )
