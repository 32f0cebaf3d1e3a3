"""The panel's sentences about models, domains and jobs, as an operator reads them."""

from collections.abc import Mapping

from gpu_server.domains import DomainRow
from gpu_server.job_estimate import Estimate
from gpu_server.job_rows import Job
from gpu_server.page.learning_view import Learning
from gpu_server.page.wording import Light, ago, with_unit
from gpu_server.registry import StoredModel
from gpu_server.shift_rows import Shift
from gpu_server.tables import (
    AWAITING_OPERATOR,
    CANCELLED,
    FAILED,
    QUEUED,
    STAGES,
)

STAGE_NAMES = {
    "rough_masks": "Rough masks",
    "pix2pix": "First generation",
    "cyclegan": "Second generation",
    "synthesise": "Synthetic set",
    "train": "Training",
    "evaluate": "Judging",
}
"""What each stage makes, rather than how: that is in the help of each."""
STAGE_TIPS = {
    "rough_masks": "a first cut of the domain's frames, without labels",
    "pix2pix": "micrographs drawn from random masks",
    "cyclegan": "the drawn micrographs take the domain's look",
    "synthesise": "frames whose particles are known exactly",
    "train": "the network learns from them",
    "evaluate": "the candidate against the live model, on frames held back",
}
PRESETS = {
    "quick": "Quick: minutes to half an hour on a CPU",
    "standard": "Standard: for a GPU",
    "paper": "Paper: the full recipe, hours on a GPU",
}
VERDICTS = {"promote": "better", "doubtful": "doubtful", "reject": "worse"}
"""The judge's word -> what it says of a candidate."""


def about(seconds: float) -> str:
    """Say how long something takes, as well as that is known."""
    if seconds < 1:
        return "a moment"
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"


def estimate_text(found: Estimate) -> str:
    """Say how long a job will take."""
    return about(found.total_s).capitalize()


def shift_title(shift: Shift | None, names: Mapping[int, str]) -> str:
    """Say in one line what the alarm found; empty while nothing is wrong."""
    if shift is None or shift.state == "ok":
        return ""
    if shift.state == "returned":
        return f"Back in domain {_name(shift.domain_id, names)}"
    reason = shift.reason or "new texture"
    return f"The image has changed: {reason}"


def shift_advice(shift: Shift | None) -> str:
    """Say what could be done about it."""
    if shift is None or shift.state == "ok":
        return ""
    asked = shift.proposal
    if asked and asked.action == "promote":
        if asked.selects:
            return f"Its model {asked.model_id} is selected by itself"
        return f"Its own model {asked.model_id} is not live: promote it, or go on"
    if asked and asked.domain_id is None:
        return "Too few frames agree on a new domain yet: acquire some more"
    return "The live model was not trained on this: adapt to it, or check the outlines"


def domain_facts(domain: DomainRow, look: str) -> str:
    """Say what a domain looks like and what there is to learn from."""
    facts = [look] if look else []
    facts.append(
        f"{domain.frame_count:,} frames seen, {domain.reservoir_count} to learn from"
    )
    return "  ·  ".join(facts)


def domain_origin(domain: DomainRow) -> str:
    """Say where a domain's frames come from, of that only what their files tell."""
    sizes = domain.pixel_sizes_nm
    # One that is called as its mode, as HAADF is, says nothing more.
    detector = domain.detector if domain.detector != domain.modality else None
    facts = (
        domain.instrument,
        domain.modality,
        detector and f"detector {detector}",
        domain.sample and f"sample {domain.sample}",
        sizes and f"{sizes[0]:.4g} to {sizes[1]:.4g} nm/px",
    )
    return "  ·  ".join(fact for fact in facts if fact)


def live_facts(learning: Learning) -> str:
    """Say since when the live model is live, and who made it so."""
    change = learning.live_change
    if change is None:
        return ""
    when = ago(learning.at - change.at)
    if change.who in {"settings", "server"}:
        return f"live since the server's start, {when}"
    done = "promoted" if change.undoes is None else "brought back"
    return f"{done} by {change.who}, {when}"


def model_facts(model: StoredModel, names: Mapping[int, str], at: float) -> str:
    """Say where a model comes from, and how it was judged."""
    if model.source == "shipped":
        return "came with the product"
    when = ago(at - model.added_at)
    if model.source == "imported":
        return f"imported by {model.added_by}, {when}"
    learnt = f"adapted to {_name(model.domain_id, names)}, {when}"
    return f"{learnt}, judged {VERDICTS[model.verdict]}" if model.verdict else learnt


def job_title(job: Job, names: Mapping[int, str]) -> str:
    """Name a job by what it learns."""
    return f"Adapting to {_name(job.domain_id, names)}"


def job_line(job: Job, ahead: int = 0) -> str:
    """Say how far a job is, in one line."""
    if job.cancel_wanted and job.is_open:
        return "Stopping: it saves where it is"
    if job.state in STAGES:
        return f"{STAGE_NAMES[job.state]}{_step(job)}{_left(job)}"
    if job.is_discarded:
        return "Discarded: it cannot go on"
    waits = f"waits, {ahead} before it" if ahead else "begins in a moment"
    told = {
        QUEUED: f"Queued: {waits}",
        AWAITING_OPERATOR: "The candidate is ready",
        CANCELLED: "Cancelled: it can go on where it was",
        FAILED: f"Failed: {job.reason or 'for no reason that it told'}",
    }
    return told.get(job.state, job.state.capitalize())


def discard_text(job: Job, title: str, size_bytes: int) -> str:
    """Say what goes with a job that is discarded."""
    kilo, unit = (1e9, "GB") if size_bytes >= 1e9 else (1e6, "MB")
    size = with_unit(size_bytes / kilo, unit, 2)
    return f"{title}, job {job.id}: what it has learnt so far goes for good, {size}."


def stage_fractions(job: Job) -> list[float]:
    """Return how far each stage is, 0..1, in order."""
    if job.state in STAGES:
        place = STAGES.index(job.state)
        part = job.step / job.steps if job.steps else 0.0
        return [
            1.0 if number < place else (part if number == place else 0.0)
            for number in range(len(STAGES))
        ]
    if job.state in {CANCELLED, FAILED}:
        begun = [name in job.seconds for name in STAGES]
        # The last that was begun was not finished.
        last = max((n for n, is_begun in enumerate(begun) if is_begun), default=-1)
        return [float(n < last) for n in range(len(STAGES))]
    return [0.0 if job.state == QUEUED else 1.0] * len(STAGES)


def candidate_title(verdict: str | None, judged_against: str | None = None) -> str:
    """Say in one line how a candidate was judged, and against what where that is not live."""
    if verdict is None:
        return "Nobody judged this candidate"
    rival = f"{judged_against}, not live now" if judged_against else "the live model"
    return {
        "promote": f"Better than {rival}",
        "doubtful": f"Doubtful: not clearly better than {rival}",
        "reject": f"Worse than {rival}",
    }[verdict]


def adapter_light(learning: Learning) -> Light:
    """Say what domain and model ask of the operator, in one figure."""
    if not learning.has_models:
        return Light("off", "one model", "this server was started with one model")
    if learning.trouble:
        return Light("red", "stopped", learning.trouble)
    if learning.doing:
        return Light("yellow", "swapping", learning.doing)
    if learning.candidate:
        return Light("yellow", "candidate ready", "compare it, then promote it or not")
    return _job_light(learning) or _shift_light(learning) or _idle_light(learning)


def _job_light(learning: Learning) -> Light | None:
    job, shift = learning.job, learning.shift
    if job is None or not job.is_open:
        return None
    colour = "yellow" if shift and shift.state == "shifted" else "green"
    return Light(colour, _short(job), job_line(job))


def _shift_light(learning: Learning) -> Light | None:
    title = shift_title(learning.shift, learning.domain_names)
    if learning.shift is None or not title:
        return None
    if learning.shift.state == "shifted":
        return Light("yellow", "image changed", title)
    return Light("yellow", "known domain", f"{title}. {shift_advice(learning.shift)}")


def _idle_light(learning: Learning) -> Light:
    if learning.job and learning.job.state == FAILED:
        return Light("red", "job failed", job_line(learning.job))
    return Light("green", "idle", "no job runs; the frames are what the model knows")


def _short(job: Job) -> str:
    if job.state == QUEUED:
        return "queued"
    left = "" if job.eta_s is None else f", {about(job.eta_s).removeprefix('about ')}"
    return f"learning{left}"


def _step(job: Job) -> str:
    return f", step {job.step:,} of {job.steps:,}" if job.steps > 1 else ""


def _left(job: Job) -> str:
    return "" if job.eta_s is None else f"  ·  {about(job.eta_s)} left"


def _name(domain_id: int | None, names: Mapping[int, str]) -> str:
    if domain_id is None:
        return "a new domain"
    return names.get(domain_id, f"{domain_id}")
