"""A job while it runs: its stages, its curves, and the pictures that it leaves."""

import asyncio
from collections.abc import Callable

from nicegui import ui

from gpu_server import job_rows, job_view
from gpu_server.api.services import Services
from gpu_server.job_rows import Job
from gpu_server.job_view import Curve
from gpu_server.page import job_chart
from gpu_server.page.frame_canvas import API
from gpu_server.page.job_row import StageTrack
from gpu_server.page.learning_dialogs import flat
from gpu_server.page.learning_view import Learning
from gpu_server.page.learning_wording import STAGE_NAMES, job_line
from gpu_server.page.panels import box, text
from gpu_server.page.theme import Palette
from gpu_server.tables import STAGES

_LOOK_S = 2.0


class JobDialog:
    """Curves and pictures of one job; read anew while it is open."""

    def __init__(self, services: Callable[[], Services], colours: Palette) -> None:
        self._services, self._colours = services, colours
        self._job_id: int | None = None
        self._state = ""
        self._curves: list[Curve] = []
        self._pictures: list[str] | None = None
        with ui.dialog() as self._dialog, box("emc-dialog job", "job-window"):
            self._title = text("emc-dialog-title", "job-window-title")
            self._line = text("", "job-window-line")
            self._track = StageTrack(named=True)
            self._origin = text("emc-note", "job-origin")
            with box("emc-heading"):
                ui.label("Curves").classes("emc-heading-text")
                self._stage = ui.toggle({}, on_change=self._draw).classes("emc-span")
                self._stage.props(
                    "no-caps unelevated dense toggle-color=raised toggle-text-color=ink"
                )
            self._no_curves = text("emc-note")
            self._chart = ui.echart({}).classes("emc-job-chart").mark("job-chart")
            self._chart.props["role"] = "img"
            with box("emc-heading"):
                ui.label("Samples").classes("emc-heading-text")
            self._samples = box("emc-samples", "samples")
            with box("emc-dialog-buttons"):
                flat("Close", self._dialog.close)
        self._timer = ui.timer(_LOOK_S, self._look, active=False)
        self._dialog.on_value_change(self._switched)

    async def open(self, job: Job, title: str) -> None:
        """Show a job."""
        self._job_id, self._state = job.id, ""
        self._pictures, self._curves = None, []
        self._title.set_text(f"{title}  ·  job {job.id}")
        self._tell(job, 0)
        await self._look()
        self._dialog.open()

    def follow(self, learning: Learning) -> None:
        """Take what the panel read of the shown job, between two looks of its own."""
        job = learning.job
        if job and job.id == self._job_id and self._dialog.value:
            self._tell(job, learning.ahead)

    def recolour(self, colours: Palette) -> None:
        """Draw in another theme."""
        self._colours = colours
        self._draw()

    def _switched(self) -> None:
        self._timer.active = bool(self._dialog.value)

    def _tell(self, job: Job, ahead: int) -> None:
        self._line.set_text(job_line(job, ahead))
        self._track.show(job)
        self._origin.set_text(
            f"preset {job.preset}, {job.frame_count} frames, from {job.start_model}, "
            f"ordered by {job.who}"
        )

    async def _look(self) -> None:
        if self._job_id is None:
            return
        job, ahead, curves, names = await asyncio.to_thread(self._read, self._job_id)
        self._tell(job, ahead)
        self._show_curves(job, curves)
        self._show_pictures(names)

    def _read(self, job_id: int) -> tuple[Job, int, list[Curve], list[str]]:
        services = self._services()
        with services.store.read() as connection:
            job = job_rows.find(connection, job_id)
            ahead = job_rows.ahead_of(connection, job)
        if services.jobs is None:
            return job, ahead, [], []
        folder = services.jobs.folder(job_id)
        return job, ahead, job_view.curves(folder), job_view.pictures(folder)

    def _show_curves(self, job: Job, curves: list[Curve]) -> None:
        if curves == self._curves and self._pictures is not None:
            return
        self._curves = curves
        found = {one.stage for one in curves}
        stages = {name: STAGE_NAMES[name] for name in STAGES if name in found}
        if list(stages) != list(self._stage.options):
            self._stage.set_options(stages)
        moved_on = job.state != self._state and job.state in stages
        self._state = job.state
        if stages and (moved_on or self._stage.value not in stages):
            last = job.state if job.state in stages else list(stages)[-1]
            self._stage.set_value(last)
        self._no_curves.set_text("" if stages else "None yet: the first stage has none")
        self._chart.set_visibility(bool(stages))
        self._draw()

    def _draw(self) -> None:
        shown = [one for one in self._curves if one.stage == self._stage.value]
        self._chart.props["options"] = job_chart.options(shown, self._colours)
        named = ", ".join(job_chart.figure_name(one.figure) for one in shown)
        self._chart.props["aria-label"] = f"curves: {named}"

    def _show_pictures(self, names: list[str]) -> None:
        if names == self._pictures:
            return
        self._pictures = names
        self._samples.clear()
        with self._samples:
            if not names:
                ui.label("None yet: the first stage leaves some").classes("emc-note")
            for name in reversed(names):
                sample_picture(self._job_id, name)


def sample_picture(job_id: int | None, name: str) -> None:
    """Show one of a job's pictures, with its name."""
    address = f"{API}/jobs/{job_id}/pictures/{name}.png"
    with ui.element("a") as link:
        link.props["href"], link.props["target"] = address, "_blank"
        picture = ui.element("img")
        picture.props["src"], picture.props["alt"] = address, picture_name(name)
    ui.label(picture_name(name)).classes("emc-note")


def picture_name(name: str) -> str:
    """Say what a picture shows: "1-2-first-generation" is the first generation."""
    words = [part for part in name.split("-") if not part.isdigit()]
    return " ".join(words).capitalize()
