"""Small questions: a domain's name, promote, roll back; and what happened when."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from nicegui import ui

from emcopilot.errors import StoreError
from gpu_server.api.services import Services
from gpu_server.domains import DomainRow
from gpu_server.objections import objection
from gpu_server.page.learning_events import Happening, happenings
from gpu_server.page.learning_wording import domain_origin
from gpu_server.page.panels import box, text

LONGEST_NAME = 80
_GRAVITY = {"good": "good", "warn": "asks for you", "bad": "went wrong", "off": "note"}


class RenameDialog:
    """The operator's name for a domain."""

    def __init__(self, rename: Callable[[int, str], Awaitable[None]]) -> None:
        self._rename = rename
        self._domain: DomainRow | None = None
        with ui.dialog() as self._dialog, box("emc-dialog", "rename"):
            ui.label("Name of the domain").classes("emc-dialog-title")
            self._origin = text("emc-note", "rename-origin")
            self._name = ui.input("Name").props(
                f"outlined dense autofocus maxlength={LONGEST_NAME}"
            )
            self._name.on("keydown.enter", self._accept)
            with box("emc-dialog-buttons"):
                flat("Cancel", self._dialog.close)
                flat("Rename", self._accept)

    def ask(self, domain: DomainRow) -> None:
        """Ask for the name of a domain."""
        self._domain = domain
        self._name.set_value(domain.name)
        origin = domain_origin(domain)
        self._origin.set_text(origin)
        self._origin.set_visibility(bool(origin))
        self._dialog.open()

    async def _accept(self) -> None:
        name = " ".join((self._name.value or "").split())[:LONGEST_NAME]
        if not name or self._domain is None:
            ui.notify("a name has at least one letter")
            return
        self._dialog.close()
        await self._rename(self._domain.id, name)


class PromoteDialog:
    """Asks once before a model becomes live; against a bad verdict it asks for the reason."""

    def __init__(
        self,
        services: Callable[[], Services],
        promote: Callable[[str, bool, str], Awaitable[bool]],
    ) -> None:
        self._services, self._promote = services, promote
        self._model_id, self._objection = "", None
        with ui.dialog() as self._dialog, box("emc-dialog", "ask-promote"):
            ui.label("Make this model live?").classes("emc-dialog-title")
            self._what = text("", "promote-what")
            self._why_not = text("emc-warning", "promote-objection")
            self._reason = ui.input("Your reason, for the record").props(
                "outlined dense maxlength=500"
            )
            self._reason.on_value_change(self._weigh)
            ui.label(
                "It is warmed and tested beside the live one, then frames go to it; "
                "no frame is lost, and Roll back is one press."
            ).classes("emc-note")
            with box("emc-dialog-buttons"):
                flat("Cancel", self._dialog.close)
                self._accepts = flat("Promote", self._accept)

    async def ask(self, model_id: str) -> None:
        """Ask whether `model_id` shall be live."""
        self._model_id = model_id
        try:
            live, self._objection = await asyncio.to_thread(self._look_up, model_id)
        except (LookupError, StoreError) as error:
            ui.notify(str(error), type="warning")
            return
        self._what.set_text(f"{model_id} takes the place of {live or 'nothing'}.")
        told = f"Not advised: {self._objection}." if self._objection else ""
        self._why_not.set_text(told)
        self._reason.set_value("")
        self._accepts.set_text("Promote anyway" if self._objection else "Promote")
        self._weigh()
        self._dialog.open()

    def _look_up(self, model_id: str) -> tuple[str | None, str | None]:
        desk = self._services().models
        if desk is None:
            raise LookupError("this server has one model for good")
        with desk.registry.database.read() as connection:
            model = desk.registry.find(connection, model_id)
            against = objection(desk.registry, connection, model)
            return desk.registry.live(connection), against

    def _weigh(self) -> None:
        is_told = bool((self._reason.value or "").strip())
        self._accepts.set_enabled(self._objection is None or is_told)

    async def _accept(self) -> None:
        if not self._accepts.enabled:
            return
        self._dialog.close()
        ui.notify(f"warming {self._model_id} up; frames go on meanwhile")
        reason = (self._reason.value or "").strip()
        await self._promote(self._model_id, self._objection is not None, reason)


class RollbackDialog:
    """Asks once before the model before is live again."""

    def __init__(self, roll_back: Callable[[], Awaitable[None]]) -> None:
        self._roll_back = roll_back
        with ui.dialog() as self._dialog, box("emc-dialog", "ask-roll-back"):
            ui.label("Roll back?").classes("emc-dialog-title")
            self._what = text("", "roll-back-what")
            ui.label(
                "From the next frame on. Results that are there stay, each with its model."
            ).classes("emc-note")
            with box("emc-dialog-buttons"):
                flat("Cancel", self._dialog.close)
                flat("Roll back", self._accept)

    def ask(self, live: str, back_to: str) -> None:
        """Ask whether `back_to` shall be live again."""
        self._what.set_text(f"{back_to} is live again in place of {live}.")
        self._dialog.open()

    async def _accept(self) -> None:
        self._dialog.close()
        await self._roll_back()


class EventsDialog:
    """What happened to models, domains and jobs, with how grave it is and when."""

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services
        with ui.dialog() as self._dialog, box("emc-dialog wide", "happenings"):
            ui.label("What happened").classes("emc-dialog-title")
            self._rows = box("emc-happenings")
            with box("emc-dialog-buttons"):
                flat("Close", self._dialog.close)

    async def open(self) -> None:
        """Show it, the newest first."""
        found = await asyncio.to_thread(self._read)
        self._rows.clear()
        with self._rows:
            if not found:
                ui.label("nothing yet").classes("emc-note")
            for one in found:
                _happening(one)
        self._dialog.open()

    def _read(self) -> list[Happening]:
        with self._services().store.read() as connection:
            return happenings(connection)


def _happening(one: Happening) -> None:
    dot = box("emc-light")
    dot.style(f"background: var(--{one.severity})")
    dot.props["role"], dot.props["aria-label"] = "img", _GRAVITY[one.severity]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
    ui.label(when).classes("emc-note")
    with box("emc-happening"):
        ui.label(one.what)
        if one.more:
            ui.label(one.more).classes("emc-note")


def flat(name: str, then: Callable[[], object]) -> ui.button:
    """Return a button of a window's last row."""
    return ui.button(name, on_click=then).props("flat no-caps")
