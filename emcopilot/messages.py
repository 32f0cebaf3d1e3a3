"""What the server says over REST: answers, events and problem documents.

These models are the schema that `/api/v1/openapi.json` publishes. Scripts rely on their
keys: keys are added, never renamed. Whatever is not finite goes out as null.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["nm", "px"]

PARTICLE_COLUMNS = (
    "session",
    "frame",
    "time_s",
    "particle",
    "label",
    "centroid_y_px",
    "centroid_x_px",
    "area_px",
    "area_nm2",
    "equivalent_diameter_px",
    "equivalent_diameter_nm",
    "feret_diameter_max_nm",
    "feret_diameter_min_nm",
    "perimeter_nm",
    "eccentricity",
    "solidity",
    "circularity",
    "aspect_ratio",
    "mean_intensity",
    "touches_border",
    "rejected",
    "confidence",
    "model_id",
    "calibration_source",
)
"""The particle table of the contract, in order; one row a particle.

`confidence` is the chance, 0..1, that the row is a particle at all. Rows below 0.5 are doubtful:
shown grey on the page, and counted in sizes until somebody rejects them.
"""


class Payload(BaseModel):
    """Base of every answer: frozen, finite numbers or null."""

    model_config = ConfigDict(
        frozen=True, ser_json_inf_nan="null", protected_namespaces=()
    )


class Request(Payload):
    """Base of every body that is sent: a key that nobody knows is refused, never ignored.

    A misspelt one would leave its default, which may be to do it all with the live model.
    """

    model_config = ConfigDict(extra="forbid")


class Problem(Payload):
    """An RFC 9457 problem document: every error of the API looks like this."""

    type: str = "about:blank"
    title: str
    """The kind of problem, the same sentence each time."""
    status: int
    detail: str
    """What happened this time."""
    got: str | None = None
    expected: str | None = None
    do: str | None = None
    """What the reader can do about it."""


class Histogram(Payload):
    """Particles a bin; `edges` has one more entry than `counts`."""

    edges: list[float]
    counts: list[int]


class LogNormal(Payload):
    """A log-normal law fitted to the diameters."""

    mu: float
    """Mean of ln(diameter)."""
    sigma: float
    """Standard deviation of ln(diameter)."""
    distance: float
    """Kolmogorov-Smirnov distance between particles and law, 0..1."""
    ok: bool
    """False where the law does not describe the particles: do not draw or quote it."""


class PsdAnswer(Payload):
    """A particle size distribution in one unit, of one frame or one session."""

    unit: Unit
    unit_reason: str | None = None
    """Why the unit is px, where it is."""
    frames: int
    """Frames that were counted."""
    counted: int
    """Particles in the statistics."""
    excluded_border: int
    """Particles cut by the border: seen, but without a size."""
    rejected: int
    """Particles that the operator took out."""
    histogram: Histogram
    mean_number: float | None
    mean_surface: float | None
    """Surface-weighted (Sauter) mean, D[3,2]."""
    mean_volume: float | None
    """Volume-weighted mean, D[4,3]."""
    d10: float | None
    d50: float | None
    d90: float | None
    d10_volume: float | None
    """A tenth of the particle volume lies in smaller particles."""
    d50_volume: float | None
    d90_volume: float | None
    sd: float | None
    dispersion: float | None
    """Standard deviation over mean."""
    geometric_mean: float | None
    sigma_g: float | None
    lognormal: LogNormal | None
    ci_low: float | None
    """95 % bootstrap interval of the number mean."""
    ci_high: float | None
    relative_half_width: float | None
    """Half the interval over the mean: 0.02 is "known to 2 %"."""
    last_event: int
    """The event id this answer is up to date with."""


class Convergence(Payload):
    """Whether the mean diameter is known well enough to stop."""

    known: bool
    relative_half_width: float | None
    mean_diameter: float | None
    unit: Unit
    counted: int
    target: float
    needed_more: int | None
    """Particles still needed, as far as can be told; null when it cannot."""
    waited_s: float


class SessionAnswer(Payload):
    """One folder of frames from one microscope."""

    id: int
    name: str
    """Last part of the folder, for people."""
    folder: str
    """The folder below the agent's watched one, which names the session uniquely."""
    agent_id: int
    agent: str
    started_at: float
    """Unix time at which the first file was stored."""
    last_at: float
    """Unix time of the last file or result."""
    frames: int
    processed: int
    queued: int
    quarantined: int
    rejected: int
    """Frames that the operator took out."""
    pixel_size_nm: tuple[float, float] | None
    """The operator's value (y, x), where one was given."""


class FrameAnswer(Payload):
    """One acquired image: where it came from, and what was found on it."""

    id: int
    session_id: int
    session: str
    name: str
    """The path below the watched folder, as the agent saw it."""
    number: int
    """From 1 in the session, by arrival."""
    page: int
    state: str
    rejected: bool
    reason: str | None
    """Why it is quarantined, where it is."""
    height: int | None
    width: int | None
    pixel_size_nm: tuple[float, float] | None
    """(y, x); null means uncalibrated, and sizes are in px."""
    pixel_size_source: str | None
    modality: str | None
    time_s: float | None
    """Since the session's first file was written."""
    acquired_at: float
    """Unix time at which the camera software finished the file."""
    model_id: str | None
    unit: Unit | None
    particles: int | None
    counted: int | None
    excluded_border: int | None
    mean_diameter: float | None
    median_diameter: float | None
    dispersion: float | None
    confidence: float | None
    """Of all particles as they were found, weighted by area: 0..1; null without particles, and of
    results older than this figure."""
    doubtful: int | None
    """Particles below an even chance, as they were found; they are counted like the others. Null
    without a result, and of results older than this figure."""
    doubtful_share: float | None
    """Pixels between 10 and 90 % over those above 50 %: high where the model is not at home."""
    infer_s: float | None
    latency_s: float | None
    """Seconds from the complete file to the stored result."""
    notes: list[str] = Field(default_factory=list)


class FramePage(Payload):
    """Some frames of a session, newest first."""

    total: int
    frames: list[FrameAnswer]
    next_before: int | None
    """Ask with `before=` this id for the next page; null at the end."""


class TimelineAnswer(Payload):
    """One entry a processed frame, in the order of acquisition; columns side by side."""

    session_id: int
    unit: Unit
    frame: list[int]
    time_s: list[float | None]
    particles: list[int]
    counted: list[int]
    mean_diameter: list[float | None]
    dispersion: list[float | None]
    latency_s: list[float | None]
    number: list[int] = Field(default_factory=list[int])
    """Of each frame in its session."""
    frames: int = 0
    """Frames in all; more than there are entries where fewer were asked for."""


class ParticlesAnswer(Payload):
    """The particle table of one frame as rows; keys in the order of `columns`."""

    columns: tuple[str, ...] = PARTICLE_COLUMNS
    particles: list[dict[str, str | float | int | bool | None]]


class SegmentAnswer(Payload):
    """What was found on one uploaded image that the server does not keep."""

    name: str
    page: int
    height: int
    width: int
    pixel_size_nm: tuple[float, float] | None
    pixel_size_source: str | None
    model_id: str
    infer_s: float
    confidence: float | None
    """Of all particles, weighted by area: 0..1; null without any."""
    doubtful: int
    """Particles below an even chance; they count in `psd` like the others."""
    doubtful_share: float
    """Pixels between 10 and 90 % over those above 50 %: high where the model is not at home."""
    particles: list[dict[str, str | float | int | bool | None]]
    psd: PsdAnswer
    notes: list[str]


class AgentAnswer(Payload):
    """One acquisition agent, as it last reported."""

    id: int
    name: str
    host: str | None
    version: str | None
    enrolled: bool
    last_seen_s: float | None
    """Seconds since the server last heard from it; null if never."""
    light: Literal["green", "yellow", "red"]
    discovered: int
    stored: int
    pending: int
    vanished: int
    rejected: int
    pending_bytes: int
    oldest_unsent_s: float | None
    problems: list[str]


class ProblemFile(Payload):
    """A file or frame without a result, by name and with the reason."""

    name: str
    kind: Literal["vanished", "changed", "unreadable", "rejected", "quarantined"]
    reason: str
    at: float
    """Unix time."""
    frame_id: int | None = None
    session_id: int | None = None


class Stats(Payload):
    """Queue lights: what waits, what is done, and whether the accounts balance."""

    queued: int
    leased: int
    processed: int
    quarantined: int
    superseded: int
    lag_s: float
    """Age of the oldest frame that still waits; 0 when none does."""
    latency_p50_s: float | None
    """Complete file to stored result, over the last 200 frames."""
    latency_p95_s: float | None
    viewers: int
    skipped: int
    """Display frames that viewers did not take; every frame is processed."""
    discovered: int
    stored: int
    pending: int
    vanished: int
    rejected: int
    balanced: bool
    """discovered = stored + pending + vanished + rejected, and no frame unaccounted."""
    last_event: int


class Health(Payload):
    """The process is up."""

    status: Literal["up"]
    version: str


class Readiness(Payload):
    """Whether frames can be taken, processed and stored."""

    ready: bool
    parts: dict[str, str]
    """Part of the server -> "ok", or why it is not."""


class Event(Payload):
    """One thing that happened, with the id to resume from."""

    id: int
    at: float
    kind: str
    session_id: int | None = None
    frame_id: int | None = None
    body: dict[str, object] = Field(default_factory=dict)


class Changed(Payload):
    """A reject, restore or calibration is committed."""

    event: int
    """Its event; statistics that are up to date with it include the change."""


class CalibrationRequest(Request):
    """The pixel size that the operator vouches for."""

    pixel_size_nm: float | tuple[float, float] | None = Field(examples=[0.1])
    """A number for square pixels, [y, x] for others, null for the frames' own; nm."""
