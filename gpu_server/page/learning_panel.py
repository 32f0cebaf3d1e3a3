"""Model and domain: what is live, what changed, what learns, and what the operator can do.

Built once; afterwards only texts, widths and visibility change. While something asks for the
operator the panel moves up, next to the figures.
"""

import asyncio
from collections.abc import Callable

from nicegui import ui
from nicegui.element import Element
from nicegui.events import ValueChangeEventArguments

from emcopilot.errors import StoreError
from gpu_server.api.services import Services
from gpu_server.job_rows import Job
from gpu_server.page.adapt_dialog import AdaptDialog
from gpu_server.page.candidate_dialog import CandidateDialog
from gpu_server.page.compare_dialog import CompareDialog
from gpu_server.page.job_dialog import JobDialog
from gpu_server.page.job_row import JobProgress, JobQueue
from gpu_server.page.learning_deeds import Deeds
from gpu_server.page.learning_dialogs import (
    EventsDialog,
    PromoteDialog,
    RenameDialog,
    RollbackDialog,
)
from gpu_server.page.learning_view import Learning, LearningReader
from gpu_server.page.learning_wording import (
    candidate_title,
    domain_facts,
    job_title,
    live_facts,
    shift_advice,
    shift_title,
)
from gpu_server.page.panels import box, text, tool
from gpu_server.page.theme import Palette
from gpu_server.page.wording import NOTHING
from gpu_server.tables import AWAITING_OPERATOR
from gpu_server.tokens import Identity

_NEEDS_SCOPE = "asks for a token with operator scope"
_NO_DOMAIN = "no domain yet: it takes three frames that agree"


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
    """

    def __init__(
        self,
        services: Callable[[], Services],
        reader: LearningReader,
        who: Identity,
        colours: Palette,
        place: Element,
    ) -> None:
        self._reader = reader
        self._place = place
        self._session_id: int | None = None
        self._shown: Learning | None = None
        self.deeds = Deeds(services, who)
        self._build_windows(services, colours)
        with place, box("emc-panel", "learning-panel"):
            self._build()

    @property
    def shown(self) -> Learning | None:
        """What was read last."""
        return self._shown

    def recolour(self, colours: Palette) -> None:
        """Draw in another theme."""
        self._job_window.recolour(colours)

    async def refresh(self, session_id: int | None, *, anew: bool = False) -> None:
        """Read how things stand for a session's viewer, and show it."""
        self._session_id = session_id
        try:
            found = await asyncio.to_thread(self._reader.read, session_id, anew=anew)
        except StoreError:
            return  # the lights say so
        if not self._place.is_deleted:
            self.show(found)

    def show(self, learning: Learning) -> None:
        """Say how things stand."""
        self._shown = learning
        self._show_model(learning)
        self._show_domain(learning)
        self._show_shift(learning)
        self._show_candidate(learning)
        job = learning.job
        self._progress.show(job, learning.ahead, learning.domain_names)
        self._queue.show(learning.others, learning.domain_names)
        self._show_buttons(learning)
        self._job_window.follow(learning)
        self._place.classes(
            add="calls" if calls(learning) else "",
            remove="" if calls(learning) else "calls",
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
        self._compare = CompareDialog(services, self.deeds, self._promote.ask)
        self._report = CandidateDialog(
            services,
            promote=self._promote.ask,
            compare=self._compare_candidate,
            turn_down=self._do_turn_down,
            may_change=self.deeds.may_change,
        )

    def _build(self) -> None:
        with box("emc-heading"):
            ui.label("Model and domain").classes("emc-heading-text")
            tool("Events", self._open_events, "what happened when, and by whom")
        with box("emc-shift", "shift") as self._badge:
            self._badge.props["role"] = "status"
            self._shift_title = text("emc-shift-title", "shift-reason")
            self._shift_advice = text("emc-note", "shift-advice")
        with box("emc-facts-grid"):
            self._build_model()
            self._build_domain()
        with box("emc-candidate", "candidate") as self._candidate_box:
            self._candidate_title = text("emc-candidate-title", "candidate-title")
            self._candidate_name = text("emc-note", "candidate-name")
            tool("Report", self._open_report, "figures, reasons and pictures")
        self._progress = JobProgress(
            self.deeds, self._job_window.open, self._refresh_anew
        )
        self._queue = JobQueue(self._open_job)
        self._build_buttons()

    def _build_model(self) -> None:
        ui.label("Live model").classes("emc-note")
        with box("emc-fact"):
            self._live = text("emc-name", "live-model")
            self._live_facts = text("emc-note", "live-facts")

    def _build_domain(self) -> None:
        ui.label("Domain").classes("emc-note")
        with box("emc-fact"):
            with box("emc-row"):
                self._domain = text("emc-name", "domain")
                self._renames = tool("Rename", self._ask_name, "give it your own name")
            self._domain_facts = text("emc-note", "domain-facts")
            self._selects = ui.switch("", on_change=self._set_selects)
            self._selects.props("dense size=xs").classes("emc-selects")
            self._selects.props["data-part"] = "selects"

    def _build_buttons(self) -> None:
        with box("emc-actions", "learning-actions"):
            self._adapts = _action("Adapt to this domain", "adapt", self._ask_adapt)
            self._compares = _action("Compare", "compare", self._open_compare)
            self._promotes = _action("Promote", "promote", self._ask_promote)
            self._rolls_back = _action("Roll back", "roll-back", self._ask_roll_back)

    # What is shown

    def _show_model(self, learning: Learning) -> None:
        self._live.set_text(learning.live or "one model for good")
        self._live.props["title"] = learning.live or ""
        self._live_facts.set_text(learning.doing or live_facts(learning))

    def _show_domain(self, learning: Learning) -> None:
        domain = learning.domain
        self._domain.set_text(domain.name if domain else NOTHING)
        facts = domain_facts(domain, learning.look) if domain else _NO_DOMAIN
        self._domain_facts.set_text(facts)
        self._renames.set_visibility(domain is not None and self.deeds.may_change)
        remembers = domain is not None and learning.domain_model_works
        self._selects.set_visibility(remembers)
        if domain and remembers:
            self._selects.set_text(f"Its frames turn the server to {domain.model_id}")
            self._selects.set_enabled(self.deeds.may_change)
            # Known before it is set: nobody switched it.
            if self._selects.value != domain.selects_model:
                self._selects.set_value(domain.selects_model)

    def _show_shift(self, learning: Learning) -> None:
        title = shift_title(learning.shift, learning.domain_names)
        self._badge.set_visibility(bool(title))
        self._shift_title.set_text(title)
        self._shift_advice.set_text(shift_advice(learning.shift))

    def _show_candidate(self, learning: Learning) -> None:
        candidate = learning.candidate
        self._candidate_box.set_visibility(candidate is not None)
        if candidate:
            verdict = candidate.model.verdict
            self._candidate_title.set_text(candidate_title(verdict))
            self._candidate_name.set_text(candidate.model.model_id)
            for word in ("promote", "doubtful", "reject"):
                self._candidate_box.classes(remove=word)
            self._candidate_box.classes(add=verdict or "doubtful")

    def _show_buttons(self, learning: Learning) -> None:
        may, domain, job = self.deeds.may_change, learning.domain, learning.job
        is_learning = bool(
            job and job.is_open and domain and job.domain_id == domain.id
        )
        offered = _proposed(learning)
        _able(
            self._adapts,
            _first_of(
                (not may, _NEEDS_SCOPE),
                (not learning.has_jobs, "this server runs no adaptation jobs"),
                (domain is None, _NO_DOMAIN),
                (is_learning, "a job of this domain runs already"),
            ),
        )
        _able(
            self._compares,
            _first_of((not learning.has_models, "this server has one model")),
        )
        _able(
            self._promotes,
            _first_of(
                (not may, _NEEDS_SCOPE),
                (learning.doing is not None, learning.doing or ""),
                (offered is None, "no candidate is ready"),
            ),
        )
        _able(
            self._rolls_back,
            _first_of(
                (not may, _NEEDS_SCOPE),
                (learning.doing is not None, learning.doing or ""),
                (learning.rollback_to is None, "there is no promotion to undo"),
            ),
        )
        wants = "promote" if offered else ("adapt" if _wants_adapt(learning) else "")
        for name, button in (("promote", self._promotes), ("adapt", self._adapts)):
            is_wanted = name == wants and button.enabled
            button.classes(
                add="wanted" if is_wanted else "", remove="" if is_wanted else "wanted"
            )

    # What is asked

    def _ask_name(self) -> None:
        if self._shown and self._shown.domain:
            self._rename.ask(self._shown.domain)

    async def _ask_adapt(self) -> None:
        if self._shown and self._shown.domain:
            await self._adapt.ask(self._shown)

    async def _ask_promote(self) -> None:
        model_id = _proposed(self._shown) if self._shown else None
        if model_id:
            await self._promote.ask(model_id)

    def _ask_roll_back(self) -> None:
        if self._shown and self._shown.rollback_to:
            self._rollback.ask(self._shown.live or "", self._shown.rollback_to)

    async def _open_report(self) -> None:
        if self._shown and self._shown.candidate and self._shown.job:
            await self._report.open(self._shown.job, self._shown.candidate)

    async def _open_compare(self) -> None:
        if self._shown:
            await self._compare.open(self._session_id, _proposed(self._shown))

    async def _open_events(self) -> None:
        await self._events.open()

    async def _compare_candidate(self, model_id: str) -> None:
        await self._compare.open(self._session_id, model_id)

    async def _open_job(self, job: Job) -> None:
        names = self._shown.domain_names if self._shown else {}
        await self._job_window.open(job, job_title(job, names))

    # What is done

    async def _refresh_anew(self) -> None:
        await self.refresh(self._session_id, anew=True)

    async def _do_adapt(self, domain_id: int, **order) -> bool:
        done = await self.deeds.adapt(domain_id, **order)
        await self._refresh_anew()
        return done

    async def _do_rename(self, domain_id: int, name: str) -> None:
        await self.deeds.rename(domain_id, name)
        await self._refresh_anew()

    async def _do_promote(self, model_id: str, override: bool, reason: str) -> bool:
        done = await self.deeds.promote(model_id, override=override, reason=reason)
        await self._refresh_anew()
        return done

    async def _do_roll_back(self) -> None:
        await self.deeds.roll_back()
        await self._refresh_anew()

    async def _do_turn_down(self, job_id: int) -> bool:
        done = await self.deeds.turn_down(job_id)
        await self._refresh_anew()
        return done

    async def _set_selects(self, event: ValueChangeEventArguments) -> None:
        domain = self._shown.domain if self._shown else None
        if domain is None or bool(event.value) == domain.selects_model:
            return
        await self.deeds.remember(domain.id, domain.model_id, selects=bool(event.value))
        await self._refresh_anew()


def calls(learning: Learning) -> bool:
    """Say whether something asks for the operator."""
    shift, job = learning.shift, learning.job
    is_changed = shift is not None and shift.state != "ok"
    return is_changed or bool(job and (job.is_open or job.state == AWAITING_OPERATOR))


def _proposed(learning: Learning) -> str | None:
    """Return the model that Promote is about: the candidate, else what the alarm proposes."""
    if learning.candidate:
        return learning.candidate.model.model_id
    asked = learning.shift.proposal if learning.shift else None
    if asked and asked.action == "promote" and asked.model_id != learning.live:
        return asked.model_id
    return None


def _wants_adapt(learning: Learning) -> bool:
    shift = learning.shift
    return shift is not None and shift.state == "shifted"


def _first_of(*reasons: tuple[bool, str]) -> str:
    return next((why for applies, why in reasons if applies), "")


def _able(button: ui.button, why_not: str) -> None:
    """Let a button be pressed, or say on hovering why it cannot."""
    if button.enabled == bool(why_not):
        button.set_enabled(not why_not)
    if button.props.get("title", "") != why_not:
        button.props["title"] = why_not


def _action(name: str, part: str, then: Callable[[], object]) -> ui.button:
    # No colour of Quasar's: its rules are weightier than any of ours.
    button = ui.button(name, on_click=then, color=None).props("flat dense no-caps")
    button.classes("emc-action").mark(part)
    button.props["data-part"] = part
    return button
