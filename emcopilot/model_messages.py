"""What the server says over REST of models: cards, promotions, comparisons, recomputations."""

from typing import Literal, Self

from pydantic import Field, model_validator

from emcopilot.messages import Payload, Request, Unit

MODEL_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


class ModelAnswer(Payload):
    """One model of the registry."""

    model_id: str
    source: str
    """shipped | adapted | imported"""
    live: bool
    verdict: str | None
    """promote | doubtful | reject, of its job's report; null: nobody judged it."""
    needs_override: bool
    """Promoting it takes a word that overrules what is known of it."""
    objection: str | None = None
    """What is known of it that speaks against promoting it; null: nothing."""
    judged_against: str | None = None
    """The model that the verdict compares it with; null: not judged, or not known."""
    domain_id: int | None
    job_id: int | None
    added_at: float
    added_by: str
    tested_at: float | None
    """When it last passed its self-test."""
    promoted_at: float | None
    """When it last became live; null: never."""
    promoted_by: str | None
    deleted_at: float | None
    frames: int
    """Frames that it has a result for."""
    trouble: str | None = None
    """Why its files cannot be used; null: they can."""


class ModelCardAnswer(ModelAnswer):
    """One model with its card: what it learnt from, and how well it did."""

    card: dict[str, object] | None
    """As written in training; null where the files are gone."""
    report: dict[str, object] | None
    """Figures of the job that made it, where it brought them."""


class PromotionAnswer(Payload):
    """One change of the live model."""

    id: int
    model_id: str
    replaced: str | None
    """What was live before; null: nothing, or the same model."""
    undoes: int | None
    """The promotion that this roll back took back; null: it is a promotion."""
    at: float
    who: str
    """"settings" and "server" are changes made at a start."""
    reason: str


class PromotionsAnswer(Payload):
    """What is live, and how that came about, the newest change first."""

    live: str | None
    rollback_to: str | None
    """What a roll back would make live; null: nothing is left to undo."""
    under_way: str | None
    """Who is promoting what just now."""
    changes: list[PromotionAnswer]


class PromoteRequest(Request):
    """What `POST /models/{id}/promote` takes; all of it may be left out."""

    override: bool = False
    """Promote it although something speaks against it: its `objection`."""
    reason: str = Field(default="", max_length=2000)
    """Goes into the audit; an override has one."""

    @model_validator(mode="after")
    def _is_reasoned(self) -> Self:
        if self.override and not self.reason.strip():
            raise ValueError(
                f"an override needs a reason for the audit, got {self.reason!r}; say in "
                "`reason` why you promote it all the same"
            )
        return self


class RollbackRequest(Request):
    """What `POST /models/rollback` takes; may be left out."""

    reason: str = Field(default="", max_length=2000)


class ImportAnswer(Payload):
    """A model that was imported and passed its self-test."""

    model_id: str


class CompareRequest(Request):
    """What `POST /models/{id}/compare` takes; all of it may be left out."""

    other: str | None = Field(default=None, pattern=rf"^{MODEL_ID}$")
    """The model to compare with; left out: the live one."""
    session_id: int | None = Field(default=None, ge=1, le=2**62)
    """Frames of this session; left out: of any."""
    frames: int = Field(default=4, ge=1, le=24)
    """So many of the latest."""


class OutlinesAnswer(Payload):
    """Closed polygons, one a particle, as the live packet has them."""

    offsets: list[int]
    """Particle i owns points offsets[i] to offsets[i + 1]."""
    points: list[int]
    """x, y, x, y, ... in eighths of a pixel of the shown picture; (0, 0) is the centre of its top
    left pixel."""


class ModelLook(Payload):
    """What one model makes of one frame."""

    model_id: str
    particles: int
    counted: int
    """Not cut by the border."""
    mean_diameter: float | None
    """Equivalent diameter of the counted ones, in the frame's `unit`."""
    covered: float
    """Share of pixels that are particle."""
    outlines: OutlinesAnswer


class FrameComparison(Payload):
    """Both models on one frame."""

    frame_id: int
    number: int
    session_id: int
    unit: Unit
    shown_factor: int
    """Pixels of the frame a pixel of the shown picture; outlines are in the latter."""
    iou: float
    """Overlap of the two masks, 0..1; 1 where both are empty."""
    looks: list[ModelLook]
    """In the order of `models`."""


class CompareAnswer(Payload):
    """Two models on the same recent frames."""

    models: list[str]
    frames: list[FrameComparison]
    mean_iou: float | None
    missing: int
    """Recent frames without a result of both: POST computes them."""


class ReprocessRequest(Request):
    """What `POST /sessions/{id}/reprocess` takes; left out: everything anew by the live model."""

    model_id: str | None = Field(default=None, pattern=rf"^{MODEL_ID}$")
    """Compute the session by this model in the background, beside what is there."""


class CountRequest(Request):
    """Which model's results a session's statistics are made of."""

    model_id: str = Field(pattern=rf"^{MODEL_ID}$")


class CountAnswer(Payload):
    """How many frames are now counted by that model."""

    event: int
    frames: int
    without: int
    """Frames that it has no result for; they count as before."""


RunState = Literal["waiting", "running", "done", "stopped"]


class RecomputationAnswer(Payload):
    """How far a session is computed by one more model."""

    session_id: int
    model_id: str
    state: RunState
    """stopped: ask again, and it goes on with what is missing."""
    total: int
    """Frames with a result of any model."""
    done: int
    """Of these, with one of this model."""
    failed: int
    """Frames that this run could not compute."""
    reason: str | None
    """What went wrong last."""
    eta_s: float | None


class SideFigures(Payload):
    """One model over all frames that both have computed."""

    model_id: str
    counts: bool
    """The session's statistics are made of it, at least in part."""
    counted: int
    mean_diameter: float | None
    median_diameter: float | None
    dispersion: float | None


class FrameDifference(Payload):
    """Both models on one frame, in figures."""

    frame_id: int
    number: int
    counted: list[int]
    mean_diameter: list[float | None]


class DifferencesAnswer(Payload):
    """Where two models see a session differently."""

    session_id: int
    unit: Unit
    models: list[SideFigures]
    frames: list[FrameDifference]
    """All, or in a long session each stretch's largest differences either way; totals are of
    all."""
    common: int
    """Frames with a result of both."""
    psd_distance: float | None
    """Kolmogorov-Smirnov distance of the two distributions, 0..1; null without particles."""
    mean_diameter_change: float | None
    """Of the second model against the first, as a fraction of the first's."""
