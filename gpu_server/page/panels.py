"""The panels beside the frame: each builds its widgets once and then only changes their text.

Labels escape what they show, and props are set by name and never parsed from a text: names of
files, sessions and microscopes come from outside.
"""

from collections.abc import Sequence
from typing import TypeVar

from nicegui import ui
from nicegui.element import Element

from emcopilot.messages import AgentAnswer, Convergence, ProblemFile, PsdAnswer, Stats
from gpu_server.page import psd_chart
from gpu_server.page.theme import LIGHTS
from gpu_server.page.wording import (
    NOTHING,
    Light,
    agent_account,
    interval,
    known_fraction,
    known_text,
    number,
    with_unit,
)

ElementT = TypeVar("ElementT", bound=Element)


class StatusLight:
    """A coloured dot, a name and one figure."""

    def __init__(self, name: str, marker: str) -> None:
        self._shown = Light("off", NOTHING, "no news yet")
        self._row = box("emc-status", marker)
        with self._row:
            self._dot = _dot("off")
            ui.label(name)
            self._figure = _text("emc-note")

    def show(self, light: Light) -> None:
        """Set the dot's colour, the figure and the hover text."""
        if light == self._shown:
            return
        self._shown = light
        _colour(self._dot, light.colour)
        self._figure.set_text(light.figure)
        self._row.props["title"] = light.tip


class Figures:
    """What the operator reads at a glance: particles, mean diameter, dispersion, latency."""

    def __init__(self) -> None:
        with box("emc-panel emc-cells"):
            self._particles = _Cell("Particles counted", "kpi-particles")
            self._mean = _Cell("Mean diameter", "kpi-mean")
            self._spread = _Cell("Geometric spread σg", "kpi-sigma")
            self._latency = _Cell("File to result", "kpi-latency")

    def show(self, psd: PsdAnswer, stats: Stats) -> None:
        """Fill in the figures of the shown distribution and of the live path."""
        cut = f"{psd.excluded_border:,} cut by the border left out"
        self._particles.show(f"{psd.counted:,}", cut)
        self._mean.show(with_unit(psd.mean_number, psd.unit), interval(psd))
        self._spread.show(number(psd.sigma_g), f"sd / mean {number(psd.dispersion)}")
        self._latency.show(
            with_unit(stats.latency_p50_s, "s", 3),
            f"95 % within {with_unit(stats.latency_p95_s, 's', 3)}",
        )


class SizeDistribution:
    """Histogram, log-normal fit and "enough particles yet?"."""

    def __init__(self) -> None:
        self._shown: PsdAnswer | None = None
        with box("emc-panel grows"):
            with box("emc-heading"):
                ui.label("Particle size distribution")
                self.span = ui.toggle(
                    {"session": "Session", "frame": "This frame"}, value="session"
                )
                self.span.classes("emc-span").props(
                    "no-caps unelevated dense toggle-color=raised toggle-text-color=ink"
                )
                self.span.mark("span")
            self._chart = ui.echart({}).classes("emc-chart").mark("psd")
            with box("emc-quantiles"):
                names = ("D10", "D50", "D90", "D[3,2]", "D[4,3]")
                self._quantiles = [_Cell(name, f"psd-{name}") for name in names]
            self._reason = _text("emc-note emc-warning", "unit-reason")
            with box("emc-known"):
                self._known = _text("", "convergence")
                with box("emc-bar"):
                    self._bar = box("")

    def show(self, psd: PsdAnswer, convergence: Convergence | None) -> None:
        """Redraw the histogram and say how well the mean is known."""
        if psd != self._shown:
            self._shown = psd
            self._chart.props["options"] = psd_chart.options(psd)
            figures = (psd.d10, psd.d50, psd.d90, psd.mean_surface, psd.mean_volume)
            for cell, figure in zip(self._quantiles, figures, strict=True):
                cell.show(number(figure))
            self._reason.set_text(psd.unit_reason or "")
        self._known.set_text(known_text(convergence))
        self._bar.style(f"width: {100 * known_fraction(convergence):.1f}%")
        done = convergence is not None and convergence.known
        self._bar.classes(add="done" if done else "", remove="" if done else "done")


class Agents:
    """Every microscope PC: is it there, what waits on it."""

    def __init__(self) -> None:
        with box("emc-panel"):
            with box("emc-heading"):
                ui.label("Microscopes")
            self._rows = box("emc-rows", "agents")
        self._shown: list[tuple[str, str, str, tuple[str, ...]]] | None = None

    def show(self, agents: Sequence[AgentAnswer]) -> None:
        """List agents with their light and backlog; redrawn only when a word changed."""
        rows = [
            (agent.light, agent.name, agent_account(agent), tuple(agent.problems[:3]))
            for agent in agents
        ]
        if rows == self._shown:
            return
        self._shown = rows
        self._rows.clear()
        with self._rows:
            if not rows:
                ui.label("None enrolled yet: run emcopilot keys new on the server")
            for light, name, account, problems in rows:
                with box("emc-row"):
                    _colour(_dot("off"), light)
                    ui.label(name)
                    ui.label(account).classes("emc-note")
                for problem in problems:
                    ui.label(problem).classes("emc-problem emc-warning")


class Problems:
    """Files without a result, by name and with the reason."""

    def __init__(self) -> None:
        with box("emc-panel scrolls"):
            with box("emc-heading"):
                ui.label("Problem files")
            self._rows = box("emc-rows", "problems")
        self._shown: list[ProblemFile] | None = None

    def show(self, problems: list[ProblemFile]) -> None:
        """List the newest problems; redrawn only when they change."""
        if problems == self._shown:
            return
        self._shown = problems
        self._rows.clear()
        with self._rows:
            if not problems:
                ui.label("None: every file has its result").classes("emc-note")
            for problem in problems:
                with box("emc-problem"):
                    ui.label(problem.name)
                    ui.label(f"{problem.kind}: {problem.reason}").classes("emc-note")


class _Cell:
    """A heading, a figure and an optional note below it."""

    def __init__(self, heading: str, marker: str) -> None:
        with box("emc-cell"):
            ui.label(heading).classes("emc-note")
            self._value = _text("emc-figure", marker)
            self._value.set_text(NOTHING)
            self._note: ui.label | None = None
            if marker.startswith("kpi"):
                self._note = _text("emc-note", f"{marker}-note")

    def show(self, value: str, note: str = "") -> None:
        self._value.set_text(value)
        if self._note:
            self._note.set_text(note)


def box(classes: str, marker: str = "") -> Element:
    """Return a plain block; `marker` becomes its data-part, by which tests find it."""
    return _named(ui.element("div").classes(classes), marker)


def _text(classes: str, marker: str = "") -> ui.label:
    return _named(ui.label().classes(classes), marker)


def _named(element: ElementT, marker: str) -> ElementT:
    if marker:
        element.props["data-part"] = marker
        element.mark(marker)
    return element


def _dot(colour: str) -> Element:
    dot = ui.element("span").classes("emc-light")
    dot.props["role"] = "img"
    _colour(dot, colour)
    return dot


def _colour(dot: Element, colour: str) -> None:
    dot.style(f"background: {LIGHTS[colour]}")
    dot.props["aria-label"] = colour
