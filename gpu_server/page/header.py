"""The head of the page: where one is, how the parts stand, and what one may do besides."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nicegui import ui

from emcopilot.messages import SessionAnswer
from gpu_server.page.learning_view import Learning
from gpu_server.page.learning_wording import adapter_light
from gpu_server.page.menu import menu
from gpu_server.page.panels import StatusLight, box, text
from gpu_server.page.view import View
from gpu_server.page.wording import (
    agents_light,
    inference_light,
    queue_light,
    session_choice,
    session_text,
)
from gpu_server.tokens import Identity

_PICKED_FROM = 200
"""Sessions in the list, the most recently active first."""


@dataclass(frozen=True, slots=True)
class Commands:
    """What the menu can do; None where this viewer may not."""

    pick: Callable[[int], Awaitable[None]]
    go_live: Callable[[], object]
    export: Callable[[], object]
    calibrate: Callable[[], object] | None
    upload: Callable[[], object] | None
    users: Callable[[], object] | None
    theme: Callable[[], object]
    help: Callable[[], object]
    log_out: Callable[[], object]


class Header:
    """Title, mode, session picker, lights and menu."""

    def __init__(self, who: Identity, commands: Commands) -> None:
        self._commands = commands
        self._names: dict[int, str] = {}
        self._chosen: int | None = None
        with box("emc-header"):
            with box("emc-where"):
                ui.label("EMcopilot").classes("emc-title")
                self._mode = text("emc-mode live", "mode")
                self._mode.set_text("LIVE")
                self._picker = self._build_picker()
                self._session = text("emc-session", "session")
                self._session.set_text(session_text(None, 0.0))
            with box("emc-lights"):
                self._agent = StatusLight("Agent", "light-agent")
                self._queue = StatusLight("Queue", "light-queue")
                self._inference = StatusLight("Inference", "light-inference")
                self._adapter = StatusLight("Adapter", "light-adapter")
                self._build_menu(who)

    def show(self, view: View, mode: str) -> None:
        """Say where one is and how the parts stand."""
        self._list(view.sessions, view.session)
        self._session.set_text(session_text(view.session, view.at))
        self._mode.set_text("LIVE" if mode == "live" else "REVIEW")
        self._mode.classes(add=mode, remove="review" if mode == "live" else "live")
        self._agent.show(agents_light(view.agents))
        self._queue.show(queue_light(view.stats, view.troubles))
        self._inference.show(inference_light(view.device, view.model_id, view.troubles))

    def show_adapter(self, learning: Learning) -> None:
        """Say what domain and model ask of the operator."""
        self._adapter.show(adapter_light(learning))

    def trouble(self, why: str) -> None:
        """Say that the store cannot be read just now."""
        self._session.set_text(why)

    def _build_picker(self) -> ui.select:
        picker = ui.select({}, on_change=self._picked, with_input=True)
        picker.classes("emc-picker").mark("picker")
        picker.props("dense borderless options-dense hide-bottom-space")
        picker.props["aria-label"] = "session"
        picker.props["placeholder"] = "no session yet"
        picker.props["data-part"] = "picker"
        picker.props["popup-content-class"] = "emc-sessions"
        # Once the list has gone keys are for the film, not for typing; it takes the focus back
        # as it fades, after the choice was heard.
        picker.on("popup-hide", js_handler=_LET_GO)
        return picker

    def _build_menu(self, who: Identity) -> None:
        commands = self._commands
        with (
            ui.button("Menu").props("flat dense no-caps").classes("emc-menu") as button
        ):
            button.props["data-part"] = "menu"
            with menu():
                ui.item_label(f"{who.name}, {who.scope}").classes("emc-who")
                for name, then in _entries(commands).items():
                    ui.item(name, on_click=then).classes("emc-entry")

    def _list(
        self, sessions: list[SessionAnswer], chosen: SessionAnswer | None
    ) -> None:
        # A list that changes with every frame would be sent with every frame: what counts up
        # stands beside it.
        names = {one.id: _steady(one) for one in sessions[:_PICKED_FROM]}
        if chosen:
            names.setdefault(chosen.id, _steady(chosen))
        if self._picker.is_showing_popup:
            # A choice comes back as its place in the list: one that moved under the pointer would
            # pick its neighbour. So what is new comes last for now.
            new = {one: name for one, name in names.items() if one not in self._names}
            names = self._names | new
        if names != self._names:
            self._names = names
            self._picker.set_options(names)
        if chosen:
            self._chosen = chosen.id  # known before it is set: nobody picked it
            if self._picker.value != chosen.id:
                self._picker.set_value(chosen.id)

    async def _picked(self) -> None:
        shown = self._picker.value
        if isinstance(shown, int) and shown != self._chosen:
            self._chosen = shown
            self._picker.run_method("blur")  # keys are for the film now, not for typing
            await self._commands.pick(shown)


_LET_GO = """() => {
  const letGo = () => {
    const focused = document.activeElement;
    if (focused?.closest(".emc-picker")) focused.blur();
  };
  const stop = () => {
    document.removeEventListener("focusin", letGo);
    document.removeEventListener("pointerdown", stop, true);
  };
  letGo();
  document.addEventListener("focusin", letGo);
  document.addEventListener("pointerdown", stop, true);
  setTimeout(stop, 1000);
}"""


def _entries(commands: Commands) -> Mapping[str, Callable[[], object]]:
    offered = {
        "Follow the newest frame": commands.go_live,
        "Export session": commands.export,
        "Set pixel size": commands.calibrate,
        "Add image files": commands.upload,
        "Users and tokens": commands.users,
        "Light or dark": commands.theme,
        "Help": commands.help,
        "Log out": commands.log_out,
    }
    return {name: then for name, then in offered.items() if then}


def _steady(session: SessionAnswer) -> str:
    """Name a session by what does not change while it grows."""
    return session_choice(session).rpartition("  ·  ")[0]
