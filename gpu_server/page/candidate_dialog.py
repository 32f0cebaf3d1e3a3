"""The report on a candidate: the verdict, why, figures side by side, pictures."""

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import ui

from gpu_server import job_view
from gpu_server.api.services import Services
from gpu_server.job_rows import Job
from gpu_server.page import candidate_report
from gpu_server.page.candidate_report import Report, Row
from gpu_server.page.job_dialog import sample_picture
from gpu_server.page.learning_dialogs import flat
from gpu_server.page.learning_view import Candidate
from gpu_server.page.learning_wording import candidate_title
from gpu_server.page.panels import box, text

_MARKS = {True: "better", False: "worse", None: ""}


class CandidateDialog:
    """Read once, when it opens: a candidate does not change."""

    def __init__(
        self,
        services: Callable[[], Services],
        *,
        promote: Callable[[str], Awaitable[None]],
        compare: Callable[[str], Awaitable[None]],
        turn_down: Callable[[int], Awaitable[bool]],
        may_change: bool,
    ) -> None:
        self._services = services
        self._promote, self._compare, self._turn_down = promote, compare, turn_down
        self._job_id, self._model_id = 0, ""
        with ui.dialog() as self._dialog, box("emc-dialog job", "report"):
            with box("emc-candidate") as self._plate:
                self._verdict = text("emc-candidate-title", "report-verdict")
                self._name = text("emc-note", "report-model")
            self._reasons = box("emc-reasons", "report-reasons")
            self._table = box("emc-table", "report-table")
            self._remarks = box("emc-reasons faint")
            self._pictures = box("emc-samples", "report-pictures")
            with box("emc-dialog-buttons"):
                flat("Close", self._dialog.close)
                rejects = flat("Turn down", self._reject)
                flat("Compare", self._open_compare)
                promotes = flat("Promote", self._ask)
                for button in (rejects, promotes):
                    button.set_enabled(may_change)

    async def open(self, job: Job, candidate: Candidate) -> None:
        """Show what is known of a job's candidate."""
        self._job_id, self._model_id = job.id, candidate.model.model_id
        report, pictures = await asyncio.to_thread(self._read, job.id)
        verdict = candidate.model.verdict
        self._verdict.set_text(candidate_title(verdict, candidate.judged_against))
        self._name.set_text(f"{self._model_id}, from job {job.id}")
        for word in ("promote", "doubtful", "reject"):
            self._plate.classes(remove=word)
        self._plate.classes(add=verdict or "doubtful")
        self._fill(report, pictures, candidate.judged_against or "Live")
        self._dialog.open()

    def _read(self, job_id: int) -> tuple[Report, list[str]]:
        desk = self._services().jobs
        if desk is None:
            return {}, []
        folder = desk.folder(job_id)
        try:
            return job_view.report(folder), job_view.pictures(folder)
        except LookupError:  # its folder may be gone; the verdict is in the registry
            return {}, job_view.pictures(folder)

    def _fill(self, report: Report, pictures: list[str], incumbent: str) -> None:
        """Fill the window; `incumbent` heads the figures that the candidate was judged by."""
        _lines(self._reasons, candidate_report.reasons(report))
        _lines(self._remarks, candidate_report.remarks(report))
        found = candidate_report.rows(report)
        self._table.clear()
        self._table.set_visibility(bool(found))
        with self._table:
            for heading in ("", incumbent, "Candidate", ""):
                ui.label(heading).classes("emc-note")
            for row in found:
                _table_row(row)
        self._pictures.clear()
        with self._pictures:
            for name in pictures[-1:]:  # the report's own, with all stages beside it
                sample_picture(self._job_id, name)

    async def _ask(self) -> None:
        self._dialog.close()
        await self._promote(self._model_id)

    async def _open_compare(self) -> None:
        self._dialog.close()
        await self._compare(self._model_id)

    async def _reject(self) -> None:
        self._dialog.close()
        if await self._turn_down(self._job_id):
            ui.notify("turned down; it stays among the models until it is deleted")


def _lines(place, lines: list[str]) -> None:
    place.clear()
    place.set_visibility(bool(lines))
    with place:
        for line in lines:
            ui.label(line[:1].upper() + line[1:])


def _table_row(row: Row) -> None:
    ui.label(row.name).props["title"] = row.tip
    ui.label(row.live)
    ui.label(row.candidate)
    ui.label(_MARKS[row.better]).classes(f"emc-mark-word {_MARKS[row.better]}")
