"""What the server says of adaptation jobs over REST."""

from typing import Literal

from pydantic import Field

from emcopilot.messages import Payload, Request

Preset = Literal["quick", "standard", "paper"]


class JobRequest(Request):
    """What is wanted of a new job; what is left out, the server chooses."""

    preset: Preset | None = None
    """By default quick on a CPU, standard on a GPU."""
    model: str | None = Field(default=None, max_length=200)
    """Id of the model to start from; by default the live one."""
    frames: int | None = Field(default=None, ge=1, le=5000)
    """How many of the domain's frames at most."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


class EstimateAnswer(Payload):
    """How long a job would take."""

    preset: Preset
    stages: dict[str, float]
    """Seconds, by stage in order."""
    total_s: float
    source: str
    """What the figures are based on."""


class JobAnswer(Payload):
    """One adaptation job."""

    id: int
    domain_id: int
    state: str
    """queued, one of the stages, awaiting_operator, promoted, rejected, cancelled or failed."""
    preset: Preset
    model: str
    """Id of the model it starts from."""
    frames: int
    seed: int
    who: str
    queued_at: float
    started_at: float | None
    ended_at: float | None
    ahead: int
    """Jobs that go before it, while it is queued."""
    step: int
    steps: int
    """Of the stage."""
    eta_s: float | None
    """Seconds until the candidate is there, while the job runs."""
    seconds: dict[str, float]
    """Spent so far, by stage."""
    is_cancelling: bool
    """Whether somebody wants it to stop, and it has not yet."""
    candidate: str | None
    """Model id, once there is one."""
    reason: str | None
    """Why it failed or stopped; of a discarded one first who did that."""
    is_discarded: bool = False
    """Whether its work is gone for good, so that it cannot go on."""


class Curve(Payload):
    """One figure over the steps of a stage; thinned where there are many."""

    stage: str
    figure: str
    step: list[int]
    value: list[float | None]


class JobDetail(JobAnswer):
    """One job with its course."""

    stages: list[str]
    """All stages in order."""
    curves: list[Curve]
    """Losses, and what judges and held-out frames said."""
    pictures: list[str]
    """Names below `/pictures/`, in the order in which they came."""
    folder: str | None = None
    """Where it lies, below the server's data folder; null from older servers, as is `bytes`."""
    bytes: int | None = None
    """What that takes on the disk; 0 before the job has one."""
