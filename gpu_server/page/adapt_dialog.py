"""Adapt to this domain: what it will take, before it is begun."""

import asyncio
from collections.abc import Callable
from typing import Protocol, get_args

from nicegui import ui

from emcopilot.errors import EMcopilotError
from gpu_server import domains
from gpu_server.api.services import Services
from gpu_server.job_estimate import USUAL_FRAMES, Estimate
from gpu_server.job_rows import Preset
from gpu_server.page.learning_dialogs import flat
from gpu_server.page.learning_view import Learning
from gpu_server.page.learning_wording import (
    PRESETS,
    STAGE_NAMES,
    STAGE_TIPS,
    about,
    estimate_text,
)
from gpu_server.page.panels import box, text

_LIVE = ""


class Order(Protocol):
    """Whoever queues the job; answers whether it is queued."""

    async def __call__(
        self, domain_id: int, *, preset: Preset, model: str | None, wanted: int | None
    ) -> bool:
        """Queue a job."""
        ...


class AdaptDialog:
    """Preset, start model and frames, with the estimate that they make."""

    def __init__(self, services: Callable[[], Services], order: Order) -> None:
        self._services, self._order = services, order
        self._domain_id = 0
        with ui.dialog() as self._dialog, box("emc-dialog adapt", "ask-adapt"):
            ui.label("Adapt to this domain").classes("emc-dialog-title")
            self._about = text("", "adapt-domain")
            self._left_out = text("emc-note", "adapt-left-out")
            self._preset = ui.select(PRESETS, label="Preset")
            self._model = ui.select({_LIVE: "the live model"}, label="Start from")
            self._model.set_value(_LIVE)
            self._frames = ui.number("Frames at most", min=1, max=5000, format="%.0f")
            for field in (self._preset, self._model, self._frames):
                field.props("outlined dense options-dense")
                field.on_value_change(self._weigh)
            with box("emc-estimate"):
                self._total = text("emc-figure", "estimate")
                self._stages = box("emc-estimate-stages", "estimate-stages")
                self._source = text("emc-note", "estimate-source")
            self._why_not = text("emc-warning", "adapt-refused")
            ui.label(
                "It learns from the frames alone, in the background, and gives way to live "
                "frames. It ends with a candidate; nothing goes live by itself."
            ).classes("emc-note")
            with box("emc-dialog-buttons"):
                flat("Cancel", self._dialog.close)
                self._starts = flat("Start", self._start)

    async def ask(self, learning: Learning) -> None:
        """Ask what a job of the shown domain shall be like."""
        domain = learning.domain
        if domain is None:
            return
        self._domain_id = domain.id
        usual, choices, left_out = await asyncio.to_thread(self._look_up, domain.id)
        self._about.set_text(
            f"{domain.name}: {learning.look}, {domain.reservoir_count} frames to learn from"
        )
        self._left_out.set_text(left_out)
        self._model.set_options(choices, value=_LIVE)
        self._frames.set_value(None)
        self._preset.set_value(usual)
        await self._weigh()
        self._dialog.open()

    def _look_up(self, domain_id: int) -> tuple[Preset, dict[str, str], str]:
        services = self._services()
        usual: Preset = services.jobs.usual_preset() if services.jobs else "quick"
        choices = {_LIVE: "the live model"}
        with services.store.read() as connection:
            flaws = domains.flaws(connection, domain_id)
            if services.models:
                live = services.models.registry.live(connection)
                choices[_LIVE] = f"{live}, the live model"
                stored = services.models.registry.list(connection)
                choices |= {
                    m.model_id: m.model_id for m in stored if m.model_id != live
                }
        told = ", ".join(f"{count} {flaw}" for flaw, count in flaws.items())
        return usual, choices, f"Lately left out of it: {told}" if told else ""

    async def _weigh(self) -> None:
        """Estimate what is chosen, or say why it cannot be."""
        preset, wanted = self._chosen_preset, self._wanted
        try:
            found = await asyncio.to_thread(self._estimate, preset, wanted)
        except (EMcopilotError, LookupError) as error:
            self._refuse(str(error))
            return
        if (preset, wanted) == (self._chosen_preset, self._wanted):
            self._show(found)

    @property
    def _chosen_preset(self) -> Preset:
        chosen = self._preset.value
        return chosen if chosen in get_args(Preset) else "quick"

    @property
    def _wanted(self) -> int | None:
        value = self._frames.value
        return int(value) if value and 1 <= value <= 5000 else None

    def _estimate(self, preset: Preset, wanted: int | None) -> Estimate:
        desk = self._services().jobs
        if desk is None:
            raise LookupError("this server runs no adaptation jobs")
        return desk.estimate(self._domain_id, preset, wanted)

    def _refuse(self, why: str) -> None:
        self._total.set_text("–")
        self._stages.clear()
        self._source.set_text("")
        self._why_not.set_text(why)
        self._starts.set_enabled(False)

    def _show(self, found: Estimate) -> None:
        self._total.set_text(estimate_text(found))
        self._source.set_text(found.source[:1].upper() + found.source[1:])
        self._why_not.set_text("")
        self._starts.set_enabled(True)
        usual = USUAL_FRAMES[self._chosen_preset]
        self._frames.props["placeholder"] = f"as many as there are, up to {usual}"
        self._stages.clear()
        with self._stages:
            for name, seconds in found.stages.items():
                _stage(name, seconds, found.total_s)

    async def _start(self) -> None:
        if not self._starts.enabled:
            return
        self._dialog.close()
        await self._order(
            self._domain_id,
            preset=self._chosen_preset,
            model=self._model.value or None,
            wanted=self._wanted,
        )


def _stage(name: str, seconds: float, total_s: float) -> None:
    label = ui.label(STAGE_NAMES.get(name, name))
    label.props["title"] = STAGE_TIPS.get(name, "")
    with box("emc-bar"):
        box("").style(f"width: {100 * seconds / max(total_s, 1e-9):.1f}%")
    ui.label(about(seconds).removeprefix("about ")).classes("emc-note")
