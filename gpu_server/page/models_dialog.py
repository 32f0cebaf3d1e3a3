"""The models of this server: promote, export, import, delete; each where it may be."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nicegui import ui

from emcopilot.errors import EMcopilotError, ModelError
from gpu_server import domains
from gpu_server.api.services import Services
from gpu_server.model_desk import ModelDesk
from gpu_server.model_files import model_files
from gpu_server.page.file_drop import ArchiveNews
from gpu_server.page.learning_deeds import Deeds
from gpu_server.page.learning_dialogs import flat
from gpu_server.page.learning_view import Learning
from gpu_server.page.learning_wording import model_facts
from gpu_server.page.panels import box, text, tool
from gpu_server.registry import StoredModel

_NO_MODELS = "this server has one model for good"
_HINT = "Import takes the .zip that Export saved; you can also drop it on the page."


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One row of the list."""

    model: StoredModel
    facts: str
    is_live: bool
    needed_for: str | None
    """Why it cannot be deleted; None: it can."""
    trouble: str | None
    """Why its files cannot be used; None: they can."""


class ModelsDialog:
    """Lists the models anew when it opens, when this page changed them, and when another is live.

    Parameters
    ----------
    services : callable
    deeds : Deeds
    promote : callable
        Asks whether a model shall be live.
    choose_archive : callable
        Opens the browser's chooser; what comes of it is told to `take_news`.
    """

    def __init__(
        self,
        services: Callable[[], Services],
        deeds: Deeds,
        *,
        promote: Callable[[str], Awaitable[None]],
        choose_archive: Callable[[], None],
    ) -> None:
        self._services, self._deeds, self._promote = services, deeds, promote
        self._live: str | None = None
        self._delete = DeleteDialog(services, self._do_delete)
        with ui.dialog() as self._dialog, box("emc-dialog wide", "models"):
            ui.label("Models").classes("emc-dialog-title")
            self._rows = box("emc-models")
            self._news = text("emc-note", "models-news")
            self._news.props["role"] = "status"
            with box("emc-dialog-buttons"):
                flat("Close", self._dialog.close)
                if deeds.may_change:
                    flat("Import", choose_archive)

    async def open(self) -> None:
        """Show what there is."""
        self._say(_HINT if self._deeds.may_change else "")
        await self._list_and_open()

    async def follow(self, learning: Learning) -> None:
        """List them anew if another one became live while they are shown."""
        if learning.live != self._live:
            await self._list_if_open()

    async def take_news(self, news: ArchiveNews) -> None:
        """Say how far the import of an archive is; who shut the window meanwhile has it shut."""
        is_first = not (news.refused or news.model_id)
        if news.refused:
            self._say(f"{news.name} was not taken: {news.refused}", is_bad=True)
        elif news.model_id:
            self._say(f"{news.name} is here as {news.model_id}")
        else:
            self._say(f"{news.name} is on its way; it is taken once it passes its test")
        if is_first:
            await self._list_and_open()
        elif self._dialog.value:
            await self._list()
        else:
            ui.notify(self._news.text)

    async def _list_and_open(self) -> None:
        if await self._list():
            self._dialog.open()

    async def _list_if_open(self) -> None:
        if self._dialog.value:
            await self._list()

    async def _list(self) -> bool:
        """Fill the rows; say whether they could be read."""
        try:
            found = await asyncio.to_thread(self._read)
        except EMcopilotError as error:
            ui.notify(str(error), type="warning")
            return False
        self._live = next((row.model.model_id for row in found if row.is_live), None)
        self._rows.clear()
        with self._rows:
            for row in found:
                self._row(row)
        return True

    def _read(self) -> list[ListedModel]:
        registry = _desk(self._services()).registry
        with registry.database.read() as connection:
            names = {row.id: row.name for row in domains.domain_list(connection)}
            live = registry.live(connection)
            return [
                ListedModel(
                    model=model,
                    facts=model_facts(model, names, time.time()),
                    is_live=model.model_id == live,
                    needed_for=registry.needed_for(connection, model),
                    trouble=_trouble(registry.folder_of, model),
                )
                for model in registry.list(connection)
            ]

    def _row(self, row: ListedModel) -> None:
        name = row.model.model_id
        with box("emc-model"):
            with box("emc-model-text"):
                with box("emc-row"):
                    ui.label(name).classes("emc-name").props["title"] = name
                    if row.is_live:
                        ui.label("LIVE").classes("emc-mode live")
                ui.label(row.facts).classes("emc-note")
                if row.trouble:
                    ui.label(row.trouble).classes("emc-problem emc-warning")
            if self._deeds.may_change and not row.trouble:
                if not row.is_live:
                    _act("Promote", name, self._ask_promote)
                _act("Export", name, self._do_export)
            if self._deeds.may_delete and row.needed_for is None:
                _act("Delete", name, self._delete.ask)

    async def _ask_promote(self, model_id: str) -> None:
        await self._promote(model_id)

    async def _do_export(self, model_id: str) -> None:
        self._say(f"{model_id} is packed")
        done = await self._deeds.export(model_id)
        self._say(f"{model_id} is handed to the browser" if done else _HINT)

    async def _do_delete(self, model_id: str) -> None:
        await self._deeds.delete(model_id)
        await self._list_if_open()

    def _say(self, what: str, *, is_bad: bool = False) -> None:
        self._news.set_text(what)
        bad, plain = "emc-warning", "emc-note"
        self._news.classes(
            add=bad if is_bad else plain, remove=plain if is_bad else bad
        )


class DeleteDialog:
    """Asks once before a model's files go, and says what goes with them."""

    def __init__(
        self,
        services: Callable[[], Services],
        delete: Callable[[str], Awaitable[None]],
    ) -> None:
        self._services, self._delete = services, delete
        self._model_id = ""
        with ui.dialog() as self._dialog, box("emc-dialog", "ask-delete"):
            ui.label("Delete this model?").classes("emc-dialog-title")
            self._what = text("", "delete-what")
            self._forgets = text("emc-warning", "delete-forgets")
            ui.label(
                "Export it first if you may want it again. Frames that it measured keep their "
                "results, and its name."
            ).classes("emc-note")
            with box("emc-dialog-buttons"):
                flat("Cancel", self._dialog.close)
                flat("Delete", self._accept)

    async def ask(self, model_id: str) -> None:
        """Ask whether `model_id` shall go."""
        self._model_id = model_id
        try:
            size_bytes, forgetful = await asyncio.to_thread(self._look_up, model_id)
        except (EMcopilotError, LookupError) as error:
            ui.notify(str(error.args[0]), type="warning")
            return
        size = f"its weights, {size_bytes / 1e6:.3g} MB" if size_bytes else "its row"
        self._what.set_text(f"{model_id} goes for good: {size}.")
        names = ", ".join(forgetful)
        told = f"It is the model of {names}, which then has none." if names else ""
        self._forgets.set_text(told)
        self._dialog.open()

    def _look_up(self, model_id: str) -> tuple[int, list[str]]:
        """Return the size of a model's files, and the domains that would forget it."""
        registry = _desk(self._services()).registry
        with registry.database.read() as connection:
            model = registry.find(connection, model_id)
            known = domains.domain_list(connection)
            size_bytes = 0
            if _trouble(registry.folder_of, model) is None:
                files = model_files(registry.folder_of(model))
                size_bytes = sum(file.stat().st_size for file in files)
        return size_bytes, [row.name for row in known if row.model_id == model_id]

    async def _accept(self) -> None:
        self._dialog.close()
        await self._delete(self._model_id)


def _desk(services: Services) -> ModelDesk:
    if services.models is None:
        raise ModelError(_NO_MODELS)
    return services.models


def _trouble(
    folder_of: Callable[[StoredModel], object], model: StoredModel
) -> str | None:
    try:
        folder_of(model)
    except ModelError as error:
        return str(error)
    return None


def _act(name: str, model_id: str, then: Callable[[str], Awaitable[None]]) -> None:
    button = tool(name, lambda: then(model_id))
    button.props["aria-label"] = f"{name.lower()} {model_id}"
