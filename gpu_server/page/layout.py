"""The operator's page: what lies where, and what refreshes it.

The picture comes straight from the live WebSocket into the canvas. Everything else is read from
the store twice a second, in a thread, and only texts change: no widget is rebuilt while nothing
happened.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import FastAPI
from nicegui import ui
from nicegui.events import KeyEventArguments

from emcopilot.errors import StoreError
from emcopilot.messages import (
    AgentAnswer,
    Convergence,
    ProblemFile,
    PsdAnswer,
    SessionAnswer,
    Stats,
)
from gpu_server.page.frame_canvas import FrameCanvas
from gpu_server.page.panels import Agents, Figures, Light, Problems, SizeDistribution
from gpu_server.page.theme import CSS

log = logging.getLogger(__name__)

REFRESH_S = 0.5
Span = Literal["session", "frame"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this viewer looks at."""

    session_id: int | None
    """None: the session of the newest frame."""
    span: Span
    frame_id: int | None
    """The frame on the canvas."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything beside the picture, read at one moment."""

    sessions: list[SessionAnswer]
    session: SessionAnswer | None
    psd: PsdAnswer
    convergence: Convergence | None
    stats: Stats
    agents: list[AgentAnswer]
    problems: list[ProblemFile]
    device: str
    model_id: str


Look = Callable[[Wanted], View]
"""Reads a view; blocks for milliseconds, so it is called in a thread."""


def mount(app: FastAPI, look: Look) -> None:
    """Put the page at "/" of `app`; call it after every API route is registered."""

    @ui.page("/", title="EMcopilot")
    def live() -> None:
        LivePage(look)

    ui.run_with(
        app, title="EMcopilot", dark=True, tailwind=True, show_welcome_message=False
    )


class LivePage:
    """One browser's page."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._frame: dict[str, object] = {}
        ui.add_css(CSS)
        self._header()
        with ui.element("main").classes("emc-main"):
            with ui.element("section").classes("emc-left"):
                self._frame_panel()
            with ui.element("aside").classes("emc-right"):
                self._figures = Figures()
                self._distribution = SizeDistribution()
                self._agents = Agents()
                self._problems = Problems()
        ui.keyboard(on_key=self._key)
        ui.timer(REFRESH_S, self._refresh)

    def _header(self) -> None:
        with ui.row().classes("emc-header items-center justify-between no-wrap"):
            with ui.row().classes("items-center gap-5 no-wrap"):
                ui.label("EMcopilot").classes("emc-title")
                self._session = (
                    ui.label("no session yet").classes("emc-note").mark("session")
                )
            with ui.row().classes("items-center gap-6 no-wrap"):
                self._agent_light = Light("agent", "light-agent")
                self._queue_light = Light("queue", "light-queue")
                self._inference_light = Light("inference", "light-inference")

    def _frame_panel(self) -> None:
        self._caption = ui.label("").classes("emc-caption").mark("caption")
        self._canvas = FrameCanvas(self._on_frame)
        with ui.row().classes("emc-tools items-center gap-4"):
            self._outlines = ui.switch(
                "Outlines (Z)", value=True, on_change=self._restyle
            )
            self._masks = ui.switch("Masks (X)", value=False, on_change=self._restyle)
            ui.label("Brightness").classes("emc-note")
            self._brightness = _slider("brightness", self._restyle)
            ui.label("Contrast").classes("emc-note")
            self._contrast = _slider("contrast", self._restyle)
            ui.button("Auto", on_click=self._auto).props("flat dense no-caps")
            ui.button("Fit", on_click=self._canvas.fit).props("flat dense no-caps")

    def _on_frame(self, header: dict[str, object]) -> None:
        self._frame = header

    def _key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.action.repeat:
            return
        if event.key == "z":
            self._outlines.set_value(not self._outlines.value)
        elif event.key == "x":
            self._masks.set_value(not self._masks.value)
        elif event.key == "f":
            self._canvas.fit()

    def _auto(self) -> None:
        self._brightness.set_value(1.0)
        self._contrast.set_value(1.0)

    def _restyle(self) -> None:
        self._canvas.show(
            {
                "outlines": bool(self._outlines.value),
                "masks": bool(self._masks.value),
                "brightness": self._brightness.value or 1.0,
                "contrast": self._contrast.value or 1.0,
            }
        )

    async def _refresh(self) -> None:
        frame_id = self._frame.get("frame_id")
        wanted = Wanted(
            session_id=None,
            span=self._distribution.span.value or "session",
            frame_id=frame_id if isinstance(frame_id, int) else None,
        )
        try:
            view = await asyncio.to_thread(self._look, wanted)
        except StoreError as error:
            self._queue_light.show("red", "store", str(error))
            return
        self._show(view)

    def _show(self, view: View) -> None:
        name = view.session.name if view.session else "no session yet"
        self._session.set_text(name)
        self._caption.set_text(_caption(self._frame))
        self._figures.show(view.psd, view.stats)
        self._distribution.show(view.psd, view.convergence)
        self._agents.show(view.agents)
        self._problems.show(view.problems)
        self._queue_light.show(*queue_light(view.stats))
        self._agent_light.show(*agents_light(view.agents))
        self._inference_light.show("green", view.device, f"model {view.model_id}")


def queue_light(stats: Stats) -> tuple[str, str, str]:
    """Say how the queue stands: (colour, figure, hover text)."""
    waiting = stats.queued + stats.leased
    tip = (
        f"{stats.processed} processed, {waiting} waiting, {stats.quarantined} quarantined; "
        f"{stats.skipped} display frames skipped, every frame is processed"
    )
    if not stats.balanced:
        return "red", "accounts do not balance", tip
    colour = "green" if stats.lag_s < 10 else "yellow"
    return colour, f"{waiting} waiting", tip


def agents_light(agents: list[AgentAnswer]) -> tuple[str, str, str]:
    """Say how the agents stand; the worst one decides the colour."""
    if not agents:
        return "off", "none", "no microscope is enrolled"
    order = ("red", "yellow", "green")
    worst = min((agent.light for agent in agents), key=order.index)
    pending = sum(agent.pending for agent in agents)
    return (
        worst,
        f"{len(agents)}, {pending} files waiting",
        ", ".join(a.name for a in agents),
    )


def _caption(frame: dict[str, object]) -> str:
    if not frame:
        return ""
    page = f" page {frame['page']}" if frame.get("page") else ""
    size = f"{frame['width']} x {frame['height']} px"
    pixel = frame.get("pixel_size_nm")
    if isinstance(pixel, list) and pixel:
        scale = f"{float(pixel[1]):.4g} nm/px from {frame['pixel_size_source']}"
    else:
        scale = "no pixel size: sizes in px"
    return f"{frame['name']}{page}   ·   {size}   ·   {scale}   ·   {frame['particles']} particles"


def _slider(name: str, on_change: Callable[[], None]) -> ui.slider:
    slider = ui.slider(min=0.3, max=3.0, step=0.05, value=1.0, on_change=on_change)
    return slider.classes("w-28").props(f'aria-label="{name}"')
