"""A job in the panel: how far it is, in one bar; and the jobs beside it."""

from collections.abc import Awaitable, Callable, Mapping

from nicegui import ui
from nicegui.element import Element

from gpu_server.job_rows import Job
from gpu_server.page.learning_deeds import Deeds
from gpu_server.page.learning_wording import (
    STAGE_NAMES,
    job_line,
    job_title,
    stage_fractions,
)
from gpu_server.page.panels import box, text, tool
from gpu_server.page.wording import duration
from gpu_server.tables import AWAITING_OPERATOR, FAILED, STAGES

Open = Callable[[Job, str], Awaitable[None]]


class JobProgress:
    """One job: what it does, a bar of its stages, stop, go on and give up.

    Parameters
    ----------
    deeds : Deeds
    look : callable
        Shows its curves and pictures.
    ask_discard : callable
        Asks whether its work shall go.
    after : callable
        Called once it was stopped or goes on.
    """

    def __init__(
        self,
        deeds: Deeds,
        look: Open,
        ask_discard: Open,
        after: Callable[[], Awaitable[None]],
    ) -> None:
        self._deeds, self._look, self._after = deeds, look, after
        self._ask_discard = ask_discard
        self._job: Job | None = None
        self._names: Mapping[int, str] = {}
        with box("emc-job", "job") as self._box:
            with box("emc-row"):
                self._title = text("emc-job-title", "job-title")
                box("emc-gap")
                tool("Curves", self._open, "curves and sample pictures")
                self._cancels = tool("Cancel", self._cancel, "it can go on later")
                self._resumes = tool("Resume", self._resume, "go on where it was")
                tip = "give it up, and free its room on the disk"
                self._discards = tool("Discard", self._discard, tip)
            self._track = StageTrack()
            self._line = text("emc-note", "job-line")

    def show(self, job: Job | None, ahead: int, names: Mapping[int, str]) -> None:
        """Say how far a job is; None hides it."""
        self._job, self._names = job, names
        self._box.set_visibility(job is not None)
        if job is None:
            return
        title = job_title(job, names)
        self._title.set_text(title)
        if self._title.props.get("title") != title:
            self._title.props["title"] = title
        self._line.set_text(job_line(job, ahead))
        self._track.show(job)
        stopping = job.cancel_wanted and job.is_open
        may = self._deeds.may_change
        self._cancels.set_visibility(job.is_open and not stopping and may)
        for button in (self._resumes, self._discards):
            button.set_visibility(job.can_resume and may)
        is_bad = job.state == FAILED
        self._box.classes(
            add="failed" if is_bad else "", remove="" if is_bad else "failed"
        )

    async def _open(self) -> None:
        if self._job:
            await self._look(self._job, job_title(self._job, self._names))

    async def _cancel(self) -> None:
        if self._job:
            await self._deeds.cancel(self._job.id)
            await self._after()

    async def _resume(self) -> None:
        if self._job:
            await self._deeds.resume(self._job.id)
            await self._after()

    async def _discard(self) -> None:
        if self._job:
            await self._ask_discard(self._job, job_title(self._job, self._names))


class StageTrack:
    """A bar of six parts, one a stage; names come on hovering, and below in words."""

    def __init__(self, *, named: bool = False) -> None:
        self._shown: list[float] = []
        with box("emc-track named" if named else "emc-track", "track") as self._track:
            self._track.props["role"] = "progressbar"
            parts = [self._part(name, named=named) for name in STAGES]
        self._bars = [bar for bar, _ in parts]
        self._spent = [spent for _, spent in parts]

    def show(self, job: Job) -> None:
        """Fill the parts as far as the job is."""
        for name, spent in zip(STAGES, self._spent, strict=True):
            if spent and name in job.seconds:
                spent.set_text(duration(job.seconds[name]))
        done = [round(part, 3) for part in stage_fractions(job)]
        if done == self._shown:
            return
        self._shown = done
        for bar, part in zip(self._bars, done, strict=True):
            bar.style(f"width: {100 * part:.1f}%")
        percent = round(100 * sum(done) / len(done))
        self._track.props["aria-valuenow"] = percent
        self._track.props["aria-label"] = f"{percent} % of the stages"

    def _part(self, name: str, *, named: bool) -> tuple[Element, ui.label | None]:
        spent: ui.label | None = None
        with box("emc-track-part") as part:
            part.props["title"] = STAGE_NAMES[name]
            with box("emc-track-bar"):
                bar = box("")
            if named:
                ui.label(STAGE_NAMES[name]).classes("emc-note")
                spent = text("emc-note")
        return bar, spent


class JobQueue:
    """Jobs beside the one that is shown."""

    def __init__(self, look: Callable[[Job], Awaitable[None]]) -> None:
        self._look = look
        self._shown: list[tuple[int, str]] | None = None
        self._rows = box("emc-rows emc-queue", "job-queue")

    def show(self, jobs: list[Job], names: Mapping[int, str]) -> None:
        """List them; redrawn only when one changes its state."""
        told = [(job.id, f"{job_title(job, names)}: {_state(job)}") for job in jobs]
        if told == self._shown:
            return
        self._shown = told
        self._rows.clear()
        with self._rows:
            for job, (_, line) in zip(jobs, told, strict=True):
                self._row(job, line)

    def _row(self, job: Job, line: str) -> None:
        link = ui.button(line, on_click=lambda: self._look(job))
        link.props("flat dense no-caps").classes("emc-link")


def _state(job: Job) -> str:
    """Say a job's state without what changes every second."""
    if job.state == AWAITING_OPERATOR:
        return "candidate ready"
    return STAGE_NAMES.get(job.state, job.state).lower()
