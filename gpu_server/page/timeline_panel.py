"""The session's course: four curves on one time axis; a click goes to the frame."""

from collections.abc import Callable, Sequence

from nicegui import ui
from nicegui.events import GenericEventArguments

from emcopilot.messages import TimelineAnswer
from emcopilot.review_messages import Mark
from gpu_server.page import timeline_chart
from gpu_server.page.panels import box, text
from gpu_server.page.theme import Palette
from gpu_server.page.wording import duration

_EVENTS_SHOWN = 40
_TO_TIME = (
    "(event) => { const chart = getElement(%d).chart;"
    " const at = chart.convertFromPixel({xAxisIndex: 0}, event.offsetX);"
    " if (Number.isFinite(at)) emit(at); }"
)
_WORDS = {
    "calibration": "C",
    "reject": "R",
    "model": "M",
    "problem": "!",
}


class Timeline:
    """Mean diameter with its spread, count, dispersion and latency, and what happened."""

    def __init__(self, colours: Palette, go_to: Callable[[int], None]) -> None:
        self._colours = colours
        self._go_to = go_to
        self._line: TimelineAnswer | None = None
        self._marks: Sequence[Mark] = ()
        with box("emc-panel", "timeline-panel"):
            with box("emc-heading"):
                ui.label("Course").classes("emc-heading-text")
                self._extent = text("emc-note")
            self._chart = ui.echart({}).classes("emc-timeline").mark("timeline")
            self._chart.style(f"height: {timeline_chart.HEIGHT_PX}px")
            self._chart.props["role"] = "img"
            self._chart.on("click", self._clicked, js_handler=_TO_TIME % self._chart.id)
            self._events = box("emc-rows emc-events", "events")
        self._draw()

    def show(self, line: TimelineAnswer | None, marks: Sequence[Mark]) -> None:
        """Redraw where something is new."""
        if line == self._line and list(marks) == list(self._marks):
            return
        if list(marks) != list(self._marks):
            self._list(marks)
        self._line, self._marks = line, marks
        self._draw()

    def recolour(self, colours: Palette) -> None:
        """Draw in another theme."""
        self._colours = colours
        self._draw()

    def _draw(self) -> None:
        self._chart.props["options"] = timeline_chart.options(
            self._line, self._marks, self._colours
        )
        counted = self._line.frames if self._line else 0
        shown = len(self._line.frame) if self._line else 0
        self._chart.props["aria-label"] = f"course of {counted} frames"
        thinned = f", {shown:,} drawn" if shown < counted else ""
        self._extent.set_text(f"{counted:,} frames counted{thinned}")

    def _clicked(self, event: GenericEventArguments) -> None:
        divisor, _ = timeline_chart.time_axis(self._line)
        if self._line and isinstance(event.args, int | float):
            number = timeline_chart.number_at(self._line, event.args * divisor)
            if number:
                self._go_to(number)

    def _list(self, marks: Sequence[Mark]) -> None:
        self._events.clear()
        with self._events:
            for mark in list(reversed(marks))[:_EVENTS_SHOWN]:
                self._row(mark)

    def _row(self, mark: Mark) -> None:
        with box(f"emc-row emc-event {mark.kind}"):
            ui.label(_WORDS[mark.kind]).classes("emc-mark")
            if mark.number is None:
                ui.label(mark.text)
            else:
                number = mark.number
                link = ui.button(mark.text, on_click=lambda: self._go_to(number))
                link.props("flat dense no-caps").classes("emc-link")
            when = "" if mark.time_s is None else duration(mark.time_s)
            ui.label(when).classes("emc-note")
