"""Model and domain: what is live, what changed, what learns, and what the operator can do.

Built once; afterwards only texts, widths and visibility change. While something asks for the
operator the panel moves up, next to the figures.
"""

import asyncio
from collections.abc import Callable

from nicegui import ui
from nicegui.element import Element

from emcopilot.errors import StoreError
from gpu_server.api.services import Services
from gpu_server.job_rows import Job, Preset
from gpu_server.page.adapt_dialog import AdaptDialog
from gpu_server.page.candidate_dialog import CandidateDialog
from gpu_server.page.compare_dialog import CompareDialog
from gpu_server.page.discard_dialog import DiscardDialog
from gpu_server.page.file_drop import ArchiveNews
from gpu_server.page.job_dialog import JobDialog
from gpu_server.page.job_row import JobProgress, JobQueue
from gpu_server.page.learning_buttons import ActionButtons, calls, proposed
from gpu_server.page.learning_deeds import Deeds
from gpu_server.page.learning_dialogs import (
    EventsDialog,
    PromoteDialog,
    RenameDialog,
    RollbackDialog,
)
from gpu_server.page.learning_facts import CandidatePlate, ModelAndDomain, ShiftBadge
from gpu_server.page.learning_view import Learning, LearningReader
from gpu_server.page.learning_wording import job_title
from gpu_server.page.models_dialog import ModelsDialog
from gpu_server.page.panels import box, tool
from gpu_server.page.theme import Palette
from gpu_server.tokens import Identity


class LearningPanel:
    """The panel and the windows that it opens.

    Parameters
    ----------
    services : callable
    reader : LearningReader
    who : Identity
    colours : Palette
    place : Element
        Where it goes.
    choose_archive : callable
        Opens the browser's chooser for a model to import.
    """

    def __init__(
        self,
        services: Callable[[], Services],
        reader: LearningReader,
        who: Identity,
        colours: Palette,
        place: Element,
        *,
        choose_archive: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._place = place
        self._session_id: int | None = None
        self._deeds = Deeds(services, who)
        self.shown: Learning | None = None
        """What was read last."""
        self._build_windows(services, colours)
        self._models = ModelsDialog(
            services,
            self._deeds,
            promote=self._promote.ask,
            choose_archive=choose_archive,
        )
        with place, box("emc-panel", "learning-panel"):
            self._build()

    def recolour(self, colours: Palette) -> None:
        """Draw in another theme."""
        self._job_window.recolour(colours)

    async def take_archive(self, news: ArchiveNews) -> None:
        """Show what becomes of a model's archive that was dropped or chosen."""
        await self._models.take_news(news)

    async def refresh(self, session_id: int | None, *, anew: bool = False) -> None:
        """Read how things stand for a session's viewer, and show it."""
        self._session_id = session_id
        try:
            found = await asyncio.to_thread(self._reader.read, session_id, anew=anew)
        except StoreError:
            return  # the lights say so
        if not self._place.is_deleted:
            self.show(found)
            await self._models.follow(found)

    def show(self, learning: Learning) -> None:
        """Say how things stand."""
        self.shown = learning
        self._shift.show(learning)
        self._facts.show(learning)
        self._candidate.show(learning)
        self._progress.show(learning.job, learning.ahead, learning.domain_names)
        self._queue.show(learning.others, learning.domain_names)
        self._buttons.show(learning)
        self._job_window.follow(learning)
        does_call = calls(learning)
        self._place.classes(
            add="calls" if does_call else "", remove="" if does_call else "calls"
        )

    def _build_windows(
        self, services: Callable[[], Services], colours: Palette
    ) -> None:
        self._rename = RenameDialog(self._do_rename)
        self._promote = PromoteDialog(services, self._do_promote)
        self._rollback = RollbackDialog(self._do_roll_back)
        self._events = EventsDialog(services)
        self._adapt = AdaptDialog(services, self._do_adapt)
        self._job_window = JobDialog(services, colours)
        self._discard = DiscardDialog(services, self._do_discard)
        self._compare = CompareDialog(services, self._deeds, self._promote.ask)
        self._report = CandidateDialog(
            services,
            promote=self._promote.ask,
            compare=self._compare_candidate,
            turn_down=self._do_turn_down,
            may_change=self._deeds.may_change,
        )

    def _build(self) -> None:
        may_change = self._deeds.may_change
        with box("emc-heading"):
            ui.label("Model and domain").classes("emc-heading-text")
            tool("Models", self._models.open, "promote, export, import, delete")
            tool("Events", self._events.open, "what happened when, and by whom")
        self._shift = ShiftBadge()
        self._facts = ModelAndDomain(
            self._rename.ask, self._do_remember, may_change=may_change
        )
        self._candidate = CandidatePlate(self._open_report)
        self._progress = JobProgress(
            self._deeds, self._job_window.open, self._discard.ask, self._refresh_anew
        )
        self._queue = JobQueue(self._open_job)
        deeds = {
            "adapt": self._ask_adapt,
            "compare": self._open_compare,
            "promote": self._ask_promote,
            "roll-back": self._ask_roll_back,
        }
        self._buttons = ActionButtons(deeds, may_change=may_change)

    # What is asked

    async def _ask_adapt(self) -> None:
        if self.shown:
            await self._adapt.ask(self.shown)

    async def _ask_promote(self) -> None:
        model_id = proposed(self.shown) if self.shown else None
        if model_id:
            await self._promote.ask(model_id)

    def _ask_roll_back(self) -> None:
        if self.shown and self.shown.rollback_to:
            self._rollback.ask(self.shown.live or "", self.shown.rollback_to)

    async def _open_report(self) -> None:
        if self.shown and self.shown.candidate and self.shown.job:
            await self._report.open(self.shown.job, self.shown.candidate)

    async def _open_compare(self) -> None:
        if self.shown:
            await self._compare.open(self._session_id, proposed(self.shown))

    async def _compare_candidate(self, model_id: str) -> None:
        await self._compare.open(self._session_id, model_id)

    async def _open_job(self, job: Job) -> None:
        names = self.shown.domain_names if self.shown else {}
        await self._job_window.open(job, job_title(job, names))

    # What is done

    async def _refresh_anew(self) -> None:
        await self.refresh(self._session_id, anew=True)

    async def _do_adapt(
        self, domain_id: int, *, preset: Preset, model: str | None, wanted: int | None
    ) -> bool:
        done = await self._deeds.adapt(domain_id, preset, model, wanted)
        await self._refresh_anew()
        return done

    async def _do_rename(self, domain_id: int, name: str) -> None:
        await self._deeds.rename(domain_id, name)
        await self._refresh_anew()

    async def _do_remember(
        self, domain_id: int, model_id: str | None, selects: bool
    ) -> None:
        await self._deeds.remember(domain_id, model_id, selects=selects)
        await self._refresh_anew()

    async def _do_promote(self, model_id: str, override: bool, reason: str) -> bool:
        done = await self._deeds.promote(model_id, override=override, reason=reason)
        await self._refresh_anew()
        return done

    async def _do_roll_back(self) -> None:
        await self._deeds.roll_back()
        await self._refresh_anew()

    async def _do_discard(self, job_id: int) -> None:
        await self._deeds.discard(job_id)
        await self._refresh_anew()

    async def _do_turn_down(self, job_id: int) -> bool:
        done = await self._deeds.turn_down(job_id)
        await self._refresh_anew()
        return done
