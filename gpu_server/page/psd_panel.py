"""The size distribution: histogram, log-normal fit, "enough particles yet?", export."""

from functools import partial

from nicegui import ui

from emcopilot.messages import Convergence, PsdAnswer
from gpu_server.page import psd_chart
from gpu_server.page.menu import menu
from gpu_server.page.panels import Cell, box, text
from gpu_server.page.theme import Palette
from gpu_server.page.wording import known_fraction, known_text, number

_BINS = {
    0: "Bins by the particles",
    10: "10 bins",
    20: "20 bins",
    40: "40 bins",
    80: "80 bins",
}
_PICTURE = (
    "const chart = getElement({id}).chart; const link = document.createElement('a');"
    "link.href = chart.getDataURL({{type: 'png', pixelRatio: 3, backgroundColor: '{ground}'}});"
    "link.download = 'psd.png'; link.click();"
)


class SizeDistribution:
    """Histogram of the chosen span, with what to choose and to take away."""

    def __init__(self, colours: Palette) -> None:
        self._colours = colours
        self._shown: PsdAnswer | None = None
        with box("emc-panel grows", "psd-panel"):
            self._build_heading()
            self._chart = ui.echart({}).classes("emc-chart").mark("psd")
            self._chart.props["role"] = "img"
            with box("emc-quantiles"):
                names = ("D10", "D50", "D90", "D[3,2]", "D[4,3]")
                self._quantiles = [Cell(name, f"psd-{name}") for name in names]
            self._reason = text("emc-note emc-warning", "unit-reason")
            with box("emc-known"):
                self._known = text("", "convergence")
                with box("emc-bar"):
                    self._bar = box("")

    def _build_heading(self) -> None:
        with box("emc-heading"):
            ui.label("Size distribution").classes("emc-heading-text")
            spans = {"frame": "Frame", "minute": "60 s", "session": "Session"}
            self.span = ui.toggle(spans, value="session")
            self.span.classes("emc-span").props(
                "no-caps unelevated dense toggle-color=raised toggle-text-color=ink"
            )
            self.span.mark("span")
            self._build_menu()

    def _build_menu(self) -> None:
        self._bins: int | None = None
        with ui.button("⋯").props("flat dense no-caps").classes("emc-tool") as button:
            button.props["aria-label"] = "bins and export of the distribution"
            button.mark("psd-menu")
            with menu():
                for bins, name in _BINS.items():
                    ui.item(name, on_click=partial(self._choose, bins))
                ui.separator()
                ui.item("Save as PNG", on_click=self._save_picture)
                ui.item("Save as CSV", on_click=self._save_table)

    def _choose(self, bins: int) -> None:
        self._bins = bins or None

    @property
    def chosen_bins(self) -> int | None:
        """How many bins are asked for; None: as the particles ask."""
        return self._bins

    def show(self, psd: PsdAnswer, convergence: Convergence | None) -> None:
        """Redraw the histogram and say how well the mean is known."""
        if psd != self._shown:
            self._shown = psd
            self._draw(psd)
            figures = (psd.d10, psd.d50, psd.d90, psd.mean_surface, psd.mean_volume)
            for cell, figure in zip(self._quantiles, figures, strict=True):
                cell.show(number(figure))
            self._reason.set_text(psd.unit_reason or "")
        self._known.set_text(known_text(convergence))
        self._bar.style(f"width: {100 * known_fraction(convergence):.1f}%")
        done = convergence is not None and convergence.known
        self._bar.classes(add="done" if done else "", remove="" if done else "done")

    def recolour(self, colours: Palette) -> None:
        """Draw in another theme."""
        self._colours = colours
        if self._shown:
            self._draw(self._shown)

    def _draw(self, psd: PsdAnswer) -> None:
        self._chart.props["options"] = psd_chart.options(psd, self._colours)
        self._chart.props["aria-label"] = (
            f"histogram of {psd.counted} diameters, mean {number(psd.mean_number, 4)} {psd.unit}"
        )

    def _save_picture(self) -> None:
        ui.run_javascript(
            _PICTURE.format(id=self._chart.id, ground=self._colours.panel)
        )

    def _save_table(self) -> None:
        if self._shown:
            ui.download.content(psd_chart.as_csv(self._shown), "psd.csv")
