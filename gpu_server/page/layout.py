"""The operator's page: what lies where, and what refreshes it.

The picture comes straight from the server into the canvas. Everything else is read from the
store twice a second, in a thread, and only texts change: no widget is rebuilt while nothing
happened. What is cheap and what grows with the session are read apart, so that a long one holds
up neither lights nor picture.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from nicegui import ui
from nicegui.events import KeyEventArguments

from emcopilot.errors import EMcopilotError, StoreError
from emcopilot.live_packet import LiveHeader
from gpu_server.api.services import Services
from gpu_server.auth import IDENTITY
from gpu_server.page.dialogs import HelpDialog, PixelSizeDialog
from gpu_server.page.file_drop import FileDrop
from gpu_server.page.frame_canvas import API, FilmState, FrameCanvas, Levels
from gpu_server.page.header import Commands, Header
from gpu_server.page.learning_panel import LearningPanel
from gpu_server.page.learning_view import LearningReader
from gpu_server.page.panels import Agents, Figures, Problems, box, text, tool
from gpu_server.page.psd_panel import SizeDistribution
from gpu_server.page.theme import (
    ICON,
    LEARNING_SHEET,
    STYLE_SHEET,
    THEME_COOKIE,
    Palette,
    palette,
    variables,
)
from gpu_server.page.timeline_panel import Timeline
from gpu_server.page.tools import ViewTools
from gpu_server.page.users import UsersDialog
from gpu_server.page.view import Looker, Measured, View, Wanted
from gpu_server.page.wording import frame_facts, last_frames
from gpu_server.tokens import Identity, Tokens

log = logging.getLogger(__name__)

REFRESH_S = 0.5
RECONNECT_S = 30.0
"""So long a page is kept whose connection broke: a new one is live, and what was typed is gone."""
_NOBODY = Identity("nobody", "viewer", 0)
_REMEMBER_THEME = (
    f"document.cookie = '{THEME_COOKIE}=%s;path=/;max-age=31536000;samesite=strict'"
)
_TO_LEARNING = (
    "const panel = document.querySelector('[data-part=learning-panel]');"
    "panel.scrollIntoView({block: 'nearest'});"
    "panel.querySelector('.emc-action:not(.disabled)')?.focus();"
)
_LOG_OUT = "fetch('/logout', {method: 'POST'}).finally(() => location.assign('/login'))"


def mount(app: FastAPI, looker: Looker, services: Callable[[], Services]) -> None:
    """Put the page at "/" of `app`; call it after every API route is registered."""
    reader = LearningReader(services)

    @ui.page("/", title="EMcopilot")
    def page(request: Request) -> None:
        who = request.scope.get(IDENTITY)
        light = request.cookies.get(THEME_COOKIE) == "light"
        known = who if isinstance(who, Identity) else _NOBODY
        OperatorPage(looker, services, known, reader, light=light)

    ui.run_with(
        app,
        title="EMcopilot",
        favicon=ICON,
        dark=True,
        tailwind=False,  # half a megabyte of script for what page.css says in 200 lines
        show_welcome_message=False,
        reconnect_timeout=RECONNECT_S,
    )


class OperatorPage:
    """One browser's page."""

    def __init__(
        self,
        looker: Looker,
        services: Callable[[], Services],
        who: Identity,
        reader: LearningReader,
        *,
        light: bool,
    ) -> None:
        self._looker = looker
        self._services = services
        self._who = who
        self._reader = reader
        self._may_change = who.allows("operator")
        self._light = light
        self._dark_mode = ui.dark_mode(value=not light)
        self._film = FilmState()
        self._frame: LiveHeader | None = None
        self._session_id: int | None = None
        self._last_number = 0
        ui.add_css(variables())
        ui.add_css(STYLE_SHEET)
        ui.add_css(LEARNING_SHEET)
        self._build()
        # Only where letters are typed they are letters: a button that was clicked keeps the focus.
        ui.keyboard(on_key=self._key, ignore=["input", "textarea"])
        ui.timer(REFRESH_S, self._refresh)
        ui.timer(REFRESH_S, self._refresh_measured)

    def _build(self) -> None:
        colours = palette(light=self._light)
        day = time.strftime("%Y-%m-%d")
        self._help = HelpDialog()
        self._pixel_size = PixelSizeDialog(self._calibrate)
        self._users = UsersDialog(
            lambda: Tokens(self._services().store.database), self._who
        )
        self._header = Header(self._who, self._commands())
        with box("emc-main"):
            with box("emc-left"):
                self._build_frame()
            with box("emc-right"):
                self._build_panels(colours)
        self._drop = FileDrop(
            f"uploads {day}",
            allowed=self._may_change,
            on_archive=self._learning.take_archive,
        )

    def _build_panels(self, colours: Palette) -> None:
        with box("emc-column"):
            self._figures = Figures()
            self._distribution = SizeDistribution(colours)
            self._timeline = Timeline(colours, self._go_to)
        with box("emc-column"):
            self._learning = LearningPanel(
                self._services,
                self._reader,
                self._who,
                colours,
                box("emc-learning", "learning"),
                choose_archive=lambda: self._drop.choose_archive(),  # noqa: PLW0108 - built last
            )
            self._agents = Agents()
            self._problems = Problems(self._retry if self._may_change else None)

    def _commands(self) -> Commands:
        may_change, is_admin = self._may_change, self._who.allows("admin")
        return Commands(
            pick=self._pick,
            go_live=lambda: self._canvas.go_live(),  # noqa: PLW0108 - built after the header
            export=self._export,
            calibrate=self._ask_pixel_size if may_change else None,
            upload=(lambda: self._drop.choose()) if may_change else None,  # noqa: PLW0108
            users=self._users.open if is_admin else None,
            theme=self._switch_theme,
            help=self._help.toggle,
            log_out=lambda: _run(_LOG_OUT),
        )

    def _build_frame(self) -> None:
        with box("emc-caption", "caption"):
            self._file = ui.label().classes("emc-file")
            self._facts = text("emc-facts")
            self._uncalibrated = tool(
                "Set pixel size", self._ask_pixel_size, "sizes are in px until then"
            )
            self._uncalibrated.classes("emc-calibrate").set_visibility(False)
        self._canvas = FrameCanvas(
            may_change=self._may_change,
            on_frame=self._on_frame,
            on_film=self._on_film,
            on_levels=self._on_levels,
        )
        self._tools = ViewTools(self._canvas)

    # What the canvas tells

    def _on_frame(self, header: LiveHeader) -> None:
        self._frame = header
        self._file.set_text(header.name)
        self._facts.set_text(frame_facts(header))
        missing = header.pixel_size_nm is None and bool(header.model_id)
        self._uncalibrated.set_visibility(missing and self._may_change)

    def _on_film(self, film: FilmState) -> None:
        self._film = film

    def _on_levels(self, levels: Levels) -> None:
        self._tools.take(levels)

    # What the operator asks for

    def _key(self, event: KeyEventArguments) -> None:
        held = event.modifiers
        if not event.action.keydown or event.action.repeat:
            return
        if held.ctrl or held.alt or held.meta:
            return
        match event.key.name.lower():
            case "z":
                self._tools.outlines.set_value(not self._tools.outlines.value)
            case "x":
                self._tools.masks.set_value(not self._tools.masks.value)
            case "f":
                self._canvas.fit()
            case "m":
                _run(_TO_LEARNING)
            case "?":
                self._help.toggle()

    async def _pick(self, session_id: int) -> None:
        if session_id == self._session_id:
            return
        self._session_id = session_id
        before = self._film
        # As the canvas will tell: what it showed before would take the choice back.
        self._film = FilmState(mode="review", session=session_id)
        try:
            newest = await asyncio.to_thread(self._looker.last_number, session_id)
        except StoreError as error:
            if self._session_id == session_id:  # none was picked after it
                self._film = before
            ui.notify(str(error), type="warning")
            return
        self._canvas.go_to(session_id, newest, newest)

    def _go_to(self, number: int) -> None:
        if self._session_id is not None:
            self._canvas.go_to(self._session_id, number, self._last_number)

    def _export(self) -> None:
        if self._session_id is None:
            ui.notify("there is no session yet")
        else:
            ui.navigate.to(f"{API}/sessions/{self._session_id}/export")

    def _ask_pixel_size(self) -> None:
        self._pixel_size.open(self._frame)

    async def _calibrate(self, session_id: int, size_nm: float | None) -> None:
        services = self._services()
        size = None if size_nm is None else (size_nm, size_nm)

        def write() -> None:
            services.store.calibrate_session(session_id, size, self._who.name)

        if await _told(write):
            services.ring()
            services.publisher.announce()
            self._canvas.refresh()

    async def _retry(self, frame_id: int) -> None:
        services = self._services()
        if await _told(
            lambda: services.store.reprocess_frame(frame_id, self._who.name)
        ):
            services.ring()
            services.publisher.announce()

    def _switch_theme(self) -> None:
        self._light = not self._light
        self._dark_mode.set_value(not self._light)
        _run(_REMEMBER_THEME % ("light" if self._light else "dark"))
        colours = palette(light=self._light)
        self._distribution.recolour(colours)
        self._timeline.recolour(colours)
        self._learning.recolour(colours)
        self._canvas.redraw()

    # What is read twice a second

    def _wanted(self) -> Wanted:
        looked_at = self._film.session or (self._frame and self._frame.session_id)
        return Wanted(
            session_id=looked_at or None,
            span=self._distribution.span.value or "session",
            frame_id=self._frame.frame_id if self._frame else None,
            bins=self._distribution.chosen_bins,
        )

    async def _refresh(self) -> None:
        wanted = self._wanted()
        try:
            view = await asyncio.to_thread(self._looker.view, wanted)
        except StoreError as error:
            self._header.trouble(str(error))
            return
        if self._wanted().session_id != wanted.session_id:
            return  # of a session that was left meanwhile; the next reading is due soon
        self._show(view)
        await self._learning.refresh(view.session.id if view.session else None)
        if self._learning.shown:
            self._header.show_adapter(self._learning.shown)

    def _show(self, view: View) -> None:
        if view.session:
            self._session_id = view.session.id
            self._last_number = view.last_number
            self._canvas.tell_count(view.session.id, view.last_number)
        self._header.show(view, self._film.mode)
        self._figures.show_latency(view.stats)
        self._agents.show(view.agents, view.clocks_s, last_frames(view))
        self._problems.show(view.problems)

    async def _refresh_measured(self) -> None:
        wanted = self._wanted()
        try:
            found = await asyncio.to_thread(self._looker.measured, wanted)
        except StoreError:
            return  # the lights say so
        if self._wanted().session_id == wanted.session_id:
            self._show_measured(found)

    def _show_measured(self, found: Measured) -> None:
        self._figures.show(found.psd)
        self._distribution.show(found.psd, found.convergence)
        self._timeline.show(found.timeline, found.marks)


async def _told(write: Callable[[], object]) -> bool:
    """Write in a thread; say why it did not work, if so."""
    try:
        await asyncio.to_thread(write)
    except (EMcopilotError, LookupError) as error:
        ui.notify(str(error), type="warning")
        return False
    return True


def _run(script: str) -> None:
    ui.run_javascript(script)
