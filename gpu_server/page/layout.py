"""The operator's page: what lies where, and what refreshes it.

The picture comes straight from the live WebSocket into the canvas. Everything else is read from
the store twice a second, in a thread, and only texts change: no widget is rebuilt while nothing
happened.
"""

import asyncio
import logging
from collections.abc import Callable

from fastapi import FastAPI
from nicegui import ui
from nicegui.events import KeyEventArguments

from emcopilot.errors import StoreError
from emcopilot.live_packet import LiveHeader
from gpu_server.page.frame_canvas import FrameCanvas
from gpu_server.page.panels import (
    Agents,
    Figures,
    Problems,
    SizeDistribution,
    StatusLight,
    box,
)
from gpu_server.page.theme import ICON, STYLE_SHEET, variables
from gpu_server.page.view import Look, View, Wanted
from gpu_server.page.wording import (
    Light,
    agents_light,
    frame_facts,
    inference_light,
    queue_light,
    session_text,
)

log = logging.getLogger(__name__)

REFRESH_S = 0.5


def mount(app: FastAPI, look: Look) -> None:
    """Put the page at "/" of `app`; call it after every API route is registered."""

    @ui.page("/", title="EMcopilot")
    def live() -> None:
        LivePage(look)

    ui.run_with(
        app,
        title="EMcopilot",
        favicon=ICON,
        dark=True,
        tailwind=False,  # half a megabyte of script for what page.css says in 100 lines
        show_welcome_message=False,
    )


class LivePage:
    """One browser's page."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._frame: LiveHeader | None = None
        ui.add_css(variables())
        ui.add_css(STYLE_SHEET)
        self._header()
        with box("emc-main"):
            with box("emc-left"):
                self._frame_panel()
            with box("emc-right"):
                self._figures = Figures()
                self._distribution = SizeDistribution()
                self._agents = Agents()
                self._problems = Problems()
        # Only where letters are typed they are letters: a button that was clicked keeps the focus.
        ui.keyboard(on_key=self._key, ignore=["input", "textarea"])
        ui.timer(REFRESH_S, self._refresh)

    def _header(self) -> None:
        with box("emc-header"):
            with box("emc-where"):
                ui.label("EMcopilot").classes("emc-title")
                self._session = ui.label(session_text(None, 0.0)).classes("emc-session")
                self._session.props["data-part"] = "session"
            with box("emc-lights"):
                self._agent_light = StatusLight("Agent", "light-agent")
                self._queue_light = StatusLight("Queue", "light-queue")
                self._inference_light = StatusLight("Inference", "light-inference")

    def _frame_panel(self) -> None:
        with box("emc-caption", "caption"):
            self._file = ui.label().classes("emc-file")
            self._facts = ui.label().classes("emc-facts")
        self._canvas = FrameCanvas(self._on_frame)
        with box("emc-tools"):
            self._outlines = _switch("Outlines", "Z", value=True, then=self._restyle)
            self._masks = _switch("Masks", "X", value=False, then=self._restyle)
            self._opacity = _knob("Opacity", 0.05, 1.0, 0.35, self._restyle)
            self._brightness = _knob("Brightness", 0.3, 3.0, 1.0, self._restyle)
            self._contrast = _knob("Contrast", 0.3, 3.0, 1.0, self._restyle)
            box("emc-gap")
            _button("Reset", "", self._reset)
            _button("Fit", "F", self._canvas.fit)

    def _on_frame(self, header: LiveHeader) -> None:
        self._frame = header
        self._file.set_text(header.name)
        self._facts.set_text(frame_facts(header))

    def _key(self, event: KeyEventArguments) -> None:
        held = event.modifiers
        if (
            not event.action.keydown
            or event.action.repeat
            or held.ctrl
            or held.alt
            or held.meta
        ):
            return
        match event.key.name.lower():
            case "z":
                self._outlines.set_value(not self._outlines.value)
            case "x":
                self._masks.set_value(not self._masks.value)
            case "f":
                self._canvas.fit()

    def _reset(self) -> None:
        self._opacity.set_value(0.35)
        self._brightness.set_value(1.0)
        self._contrast.set_value(1.0)

    def _restyle(self) -> None:
        self._canvas.show(
            {
                "outlines": bool(self._outlines.value),
                "masks": bool(self._masks.value),
                "opacity": _value(self._opacity),
                "brightness": _value(self._brightness),
                "contrast": _value(self._contrast),
            }
        )

    async def _refresh(self) -> None:
        wanted = Wanted(
            session_id=None,
            span=self._distribution.span.value or "session",
            frame_id=self._frame.frame_id if self._frame else None,
        )
        try:
            view = await asyncio.to_thread(self._look, wanted)
        except StoreError as error:
            self._queue_light.show(Light("red", "store", str(error)))
            return
        self._show(view)

    def _show(self, view: View) -> None:
        self._session.set_text(session_text(view.session, view.at))
        self._figures.show(view.psd, view.stats)
        self._distribution.show(view.psd, view.convergence)
        self._agents.show(view.agents)
        self._problems.show(view.problems)
        self._agent_light.show(agents_light(view.agents))
        self._queue_light.show(queue_light(view.stats, view.troubles))
        self._inference_light.show(
            inference_light(view.device, view.model_id, view.troubles)
        )


def _switch(name: str, key: str, *, value: bool, then: Callable[[], None]) -> ui.switch:
    with box("emc-knob"):
        switch = ui.switch(name, value=value, on_change=then).props("dense size=sm")
        switch.props["aria-label"] = name
        _key_cap(key)
    return switch


def _knob(
    name: str, low: float, high: float, value: float, then: Callable[[], None]
) -> ui.slider:
    with box("emc-knob"):
        ui.label(name)
        slider = ui.slider(min=low, max=high, step=0.05, value=value, on_change=then)
        slider.props["aria-label"] = name
    return slider


def _value(slider: ui.slider) -> float:
    return 1.0 if slider.value is None else float(slider.value)


def _button(name: str, key: str, then: Callable[[], None]) -> None:
    with box("emc-knob"):
        ui.button(name, on_click=then).props("flat dense no-caps")
        if key:
            _key_cap(key)


def _key_cap(key: str) -> None:
    with ui.element("kbd"):
        ui.label(key)
