"""What is live, which domain the frames are in, and what the alarm and the judge say of them."""

from collections.abc import Awaitable, Callable

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from gpu_server.domains import DomainRow
from gpu_server.page.learning_buttons import NO_DOMAIN
from gpu_server.page.learning_view import Learning
from gpu_server.page.learning_wording import (
    candidate_title,
    domain_facts,
    domain_origin,
    live_facts,
    shift_advice,
    shift_title,
)
from gpu_server.page.panels import box, text, tool
from gpu_server.page.wording import NOTHING

_VERDICTS = ("promote", "doubtful", "reject")


class ShiftBadge:
    """What changed in the image, while it is not what the live model knows."""

    def __init__(self) -> None:
        with box("emc-shift", "shift") as self._badge:
            self._badge.props["role"] = "status"
            self._title = text("emc-shift-title", "shift-reason")
            self._advice = text("emc-note", "shift-advice")

    def show(self, learning: Learning) -> None:
        """Say it, or hide."""
        title = shift_title(learning.shift, learning.domain_names)
        self._badge.set_visibility(bool(title))
        self._title.set_text(title)
        self._advice.set_text(shift_advice(learning.shift))


class ModelAndDomain:
    """The live model, the domain of the last frames, and the model that this one remembers.

    Parameters
    ----------
    ask_name : callable
        Asks for another name of the domain.
    remember : callable
        Given domain, model and whether the domain selects it.
    may_change : bool
    """

    def __init__(
        self,
        ask_name: Callable[[DomainRow], None],
        remember: Callable[[int, str | None, bool], Awaitable[None]],
        *,
        may_change: bool,
    ) -> None:
        self._ask_name, self._remember = ask_name, remember
        self._may_change = may_change
        self._row: DomainRow | None = None
        with box("emc-facts-grid"):
            ui.label("Live model").classes("emc-note")
            with box("emc-fact"):
                self._live = text("emc-name", "live-model")
                self._live_facts = text("emc-note", "live-facts")
            ui.label("Domain").classes("emc-note")
            with box("emc-fact"):
                self._build_domain()

    def _build_domain(self) -> None:
        with box("emc-row"):
            self._domain = text("emc-name", "domain")
            self._renames = tool("Rename", self._rename, "give it your own name")
        self._facts = text("emc-note", "domain-facts")
        self._origin = text("emc-note", "domain-origin")
        self._selects = ui.switch("", on_change=self._switched)
        self._selects.props("dense size=xs").classes("emc-selects")
        self._selects.props["data-part"] = "selects"

    def show(self, learning: Learning) -> None:
        """Say how they stand."""
        live = learning.live or ""
        self._live.set_text(live or "one model for good")
        if self._live.props.get("title", "") != live:
            self._live.props["title"] = live
        self._live_facts.set_text(learning.doing or live_facts(learning))
        domain = self._row = learning.domain
        self._domain.set_text(domain.name if domain else NOTHING)
        facts = domain_facts(domain, learning.look) if domain else NO_DOMAIN
        self._facts.set_text(facts)
        self._origin.set_text(domain_origin(domain) if domain else "")
        self._renames.set_visibility(domain is not None and self._may_change)
        self._show_memory(domain if learning.domain_model_works else None)

    def _show_memory(self, domain: DomainRow | None) -> None:
        self._selects.set_visibility(domain is not None)
        if domain is None:
            return
        self._selects.set_text(f"Its frames turn the server to {domain.model_id}")
        self._selects.set_enabled(self._may_change)
        # The row is known before the switch is set: nobody switched it.
        if self._selects.value != domain.selects_model:
            self._selects.set_value(domain.selects_model)

    def _rename(self) -> None:
        if self._row:
            self._ask_name(self._row)

    async def _switched(self, event: ValueChangeEventArguments) -> None:
        row, selects = self._row, bool(event.value)
        if row and selects != row.selects_model:
            await self._remember(row.id, row.model_id, selects)


class CandidatePlate:
    """The candidate that waits for the operator, and how it was judged."""

    def __init__(self, open_report: Callable[[], Awaitable[None]]) -> None:
        with box("emc-candidate", "candidate") as self._plate:
            self._title = text("emc-candidate-title", "candidate-title")
            self._name = text("emc-note", "candidate-name")
            tool("Report", open_report, "figures, reasons and pictures")

    def show(self, learning: Learning) -> None:
        """Say it, or hide."""
        candidate = learning.candidate
        self._plate.set_visibility(candidate is not None)
        if candidate is None:
            return
        verdict = candidate.model.verdict
        self._title.set_text(candidate_title(verdict, candidate.judged_against))
        self._name.set_text(candidate.model.model_id)
        colour = verdict or "doubtful"
        others = " ".join(word for word in _VERDICTS if word != colour)
        self._plate.classes(add=colour, remove=others)
