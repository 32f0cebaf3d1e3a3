"""Live model and another one on the same recent frames, side by side under a wipe."""

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from emcopilot.errors import EMcopilotError
from emcopilot.model_messages import FrameComparison, ModelLook
from gpu_server.api.services import Services
from gpu_server.compare import compare_frames
from gpu_server.page.compare_view import CompareView
from gpu_server.page.learning_deeds import Deeds
from gpu_server.page.learning_dialogs import flat
from gpu_server.page.panels import box, text
from gpu_server.page.wording import with_unit
from gpu_server.side_results import recent_frames

FRAMES = 6
"""So many of the latest are compared."""
_KEYS = (
    ("← →", "move the wipe"),
    ("PageUp PageDown", "frame before, next frame"),
    ("B", "both outlines at once"),
    ("wheel, drag", "zoom, move"),
)


class CompareDialog:
    """Computes what is missing of either model's results, quietly; they do not count.

    Parameters
    ----------
    services : callable
    deeds : Deeds
        Whose right it is to have results computed; a viewer sees what is there.
    promote : callable
        Asks whether a model shall be live.
    """

    def __init__(
        self,
        services: Callable[[], Services],
        deeds: Deeds,
        promote: Callable[[str], Awaitable[None]],
    ) -> None:
        self._services, self._deeds, self._promote = services, deeds, promote
        self._session_id: int | None = None
        self._live, self._other = "", ""
        self._frame_ids: list[int] = []
        self._place = 0
        self._turn = 0
        with (
            ui.dialog().props("maximized") as self._dialog,
            box("emc-dialog compare", "compare-window"),
        ):
            self._build()
        self._dialog.on_value_change(self._switched)

    def _build(self) -> None:
        with box("emc-compare-head"):
            ui.label("Compare").classes("emc-dialog-title")
            with box("emc-key"):
                box("emc-swatch live")
                self._live_name = text("emc-name", "compare-live")
            with box("emc-key"):
                box("emc-swatch candidate")
                self._choice = ui.select({}, on_change=self._picked)
                self._choice.props("dense borderless options-dense")
                self._choice.classes("emc-picker")
                self._choice.props["aria-label"] = "model to compare with"
                self._choice.props["data-part"] = "compare-other"
            box("emc-gap")
            self._back = _step("‹", "frame before (PageUp)", lambda: self._go(-1))
            self._where = text("emc-place", "compare-place")
            self._on = _step("›", "next frame (PageDown)", lambda: self._go(1))
        with box("emc-compare-main"):
            self._view = CompareView(self._go)
            with box("emc-compare-side"):
                self._said = text("", "compare-said")
                with box("emc-compare-table", "compare-table"):
                    self._cells = _figure_cells()
                _keys()
                with box("emc-dialog-buttons"):
                    flat("Close", self._dialog.close)
                    self._promotes = flat("Promote", self._ask)
                    self._promotes.set_enabled(self._deeds.may_change)

    async def open(self, session_id: int | None, other: str | None) -> None:
        """Compare on the latest frames of a session; `other` None leaves the choice open."""
        self._session_id = session_id
        try:
            live, choices = await asyncio.to_thread(self._look_up)
        except LookupError as error:
            ui.notify(str(error), type="warning")
            return
        self._live = live
        self._live_name.set_text(f"{live}, live")
        # Whatever was promoted last but is not live is what people compare with otherwise.
        self._other = other if other in choices else next(iter(choices), "")
        self._choice.set_options(choices, value=self._other or None)
        self._view.clear_frame()
        self._dialog.open()
        await self._begin()

    def _look_up(self) -> tuple[str, dict[str, str]]:
        desk = self._services().models
        if desk is None:
            raise LookupError("this server has one model for good")
        with desk.registry.database.read() as connection:
            live = desk.registry.live(connection) or ""
            stored = desk.registry.list(connection)
        return live, {m.model_id: m.model_id for m in stored if m.model_id != live}

    async def _picked(self, event: ValueChangeEventArguments) -> None:
        if event.value and event.value != self._other:
            self._other = str(event.value)
            await self._begin()

    async def _begin(self) -> None:
        """Have what is missing computed, then show the newest frame."""
        turn = self._turn = self._turn + 1
        self._say("")
        for cell in self._cells:
            cell.set_text("")
        if not self._other:
            self._say("There is no other model yet: adapt to a domain, or import one")
            return
        desk = self._services().models
        assert desk is not None, "looked up just now"
        self._frame_ids = await asyncio.to_thread(self._recent)
        self._place = 0
        if not self._frame_ids:
            self._say("No frame of this session has a result yet")
            return
        if self._deeds.may_change:
            self._say("Computing what is missing; live frames go first")
            try:
                for model_id in (self._other, self._live):
                    await desk.side_results.fill(model_id, self._frame_ids)
            except (EMcopilotError, LookupError) as error:
                self._say(f"Cannot be computed: {error}")
                return
        if turn == self._turn and self._dialog.value:
            await self._show()

    def _recent(self) -> list[int]:
        with self._services().store.read() as connection:
            return recent_frames(connection, FRAMES, session_id=self._session_id)

    async def _show(self) -> None:
        count = len(self._frame_ids)
        self._where.set_text(f"{self._place + 1} / {count}")
        self._back.set_enabled(self._place > 0)
        self._on.set_enabled(self._place + 1 < count)
        frame_id = self._frame_ids[self._place]
        found = await asyncio.to_thread(self._compared, frame_id)
        if found is None:
            self._view.clear_frame()
            self._say("This frame has no result of both models")
            return
        self._view.show(found)
        overlap = f"the masks overlap by {100 * found.iou:.0f} %"
        self._say(f"Frame {found.number}: {overlap}")
        self._tell(found)

    def _compared(self, frame_id: int) -> FrameComparison | None:
        with self._services().store.read() as connection:
            pair = (self._live, self._other)
            found = compare_frames(connection, pair, [frame_id]).frames
        return found[0] if found else None

    def _tell(self, found: FrameComparison) -> None:
        sides = [_figures(look, found.unit) for look in found.looks]
        texts = [value for row in zip(*sides, strict=True) for value in row]
        for cell, value in zip(self._cells, texts, strict=True):
            cell.set_text(value)

    async def _go(self, step: int) -> None:
        place = self._place + step
        if 0 <= place < len(self._frame_ids):
            self._place = place
            await self._show()

    def _switched(self) -> None:
        if not self._dialog.value:
            self._turn += 1  # what is still computed is kept, but not shown
            self._view.clear_frame()

    async def _ask(self) -> None:
        if self._other:
            self._dialog.close()
            await self._promote(self._other)

    def _say(self, what: str) -> None:
        self._said.set_text(what)


def _figures(look: ModelLook, unit: str) -> list[str]:
    return [
        f"{look.particles:,}",
        f"{look.counted:,}",
        with_unit(look.mean_diameter, unit),
        f"{100 * look.covered:.2f} %",
    ]


def _figure_cells() -> list[ui.label]:
    """Return the cells of `_figures`, live and candidate side by side, row by row."""
    for heading in ("", "Live", "Candidate"):
        ui.label(heading).classes("emc-note")
    cells: list[ui.label] = []
    for name in ("Particles", "Not cut by the border", "Mean diameter", "Covered"):
        ui.label(name).classes("emc-note")
        cells += [ui.label(), ui.label()]
    return cells


def _keys() -> None:
    with box("emc-compare-keys"):
        for keys, what in _KEYS:
            with ui.element("kbd"):
                ui.label(keys)
            ui.label(what).classes("emc-note")


def _step(sign: str, name: str, then: Callable[[], object]) -> ui.button:
    button = ui.button(sign, on_click=then, color=None).props("flat dense no-caps")
    button.classes("emc-step")
    button.props["aria-label"] = button.props["title"] = name
    return button
