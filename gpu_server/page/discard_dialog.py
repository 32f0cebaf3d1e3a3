"""Discard a job: what goes for good, before it does."""

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import ui

from gpu_server.api.services import Services
from gpu_server.job_clearing import folder_bytes
from gpu_server.job_rows import Job
from gpu_server.page.learning_dialogs import flat
from gpu_server.page.learning_wording import discard_text
from gpu_server.page.panels import box, text


class DiscardDialog:
    """Asks once before a job's work goes, and says how much it is."""

    def __init__(
        self,
        services: Callable[[], Services],
        discard: Callable[[int], Awaitable[None]],
    ) -> None:
        self._services, self._discard = services, discard
        self._job_id = 0
        with ui.dialog() as self._dialog, box("emc-dialog", "ask-discard"):
            ui.label("Discard this job?").classes("emc-dialog-title")
            self._what = text("", "discard-what")
            ui.label(
                "It cannot be resumed then: to learn the domain, adapt to it anew. Its report, "
                "curves and pictures stay, and so do all frames, models and results."
            ).classes("emc-note")
            with box("emc-dialog-buttons"):
                flat("Cancel", self._dialog.close)
                flat("Discard", self._accept)

    async def ask(self, job: Job, title: str) -> None:
        """Ask whether the work of a job, called so, shall go."""
        size_bytes = await asyncio.to_thread(self._size, job.id)
        self._job_id = job.id  # with its text, should two be asked about at once
        self._what.set_text(discard_text(job, title, size_bytes))
        self._dialog.open()

    def _size(self, job_id: int) -> int:
        desk = self._services().jobs
        return folder_bytes(desk.folder(job_id)) if desk else 0

    async def _accept(self) -> None:
        self._dialog.close()
        await self._discard(self._job_id)
