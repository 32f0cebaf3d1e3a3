"""The panels beside the frame: each builds its widgets once and then only changes their text.

Labels escape what they show, and props are set by name and never parsed from a text: names of
files, sessions and microscopes come from outside.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from nicegui import ui
from nicegui.element import Element

from emcopilot.messages import AgentAnswer, ProblemFile, PsdAnswer, Stats
from gpu_server.page.wording import (
    NOTHING,
    Light,
    agent_account,
    clock_text,
    interval,
    number,
    with_unit,
)

ElementT = TypeVar("ElementT", bound=Element)
_STATES = {"green": "good", "yellow": "warn", "red": "bad", "off": "off"}
"""Colour of a light -> the theme's variable."""


class StatusLight:
    """A coloured dot, a name and one figure."""

    def __init__(self, name: str, marker: str) -> None:
        self._shown = Light("off", NOTHING, "no news yet")
        self._row = box("emc-status", marker)
        with self._row:
            self._dot = _dot("off")
            ui.label(name)
            self._figure = text("emc-note")

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
            self._particles = Cell("Particles counted", "kpi-particles")
            self._mean = Cell("Mean diameter", "kpi-mean")
            self._spread = Cell("Geometric spread σg", "kpi-sigma")
            self._latency = Cell("File to result", "kpi-latency")

    def show(self, psd: PsdAnswer) -> None:
        """Fill in the figures of the shown distribution."""
        cut = f"{psd.excluded_border:,} cut by the border left out"
        self._particles.show(f"{psd.counted:,}", cut)
        self._mean.show(with_unit(psd.mean_number, psd.unit), interval(psd))
        self._spread.show(number(psd.sigma_g), f"sd / mean {number(psd.dispersion)}")

    def show_latency(self, stats: Stats) -> None:
        """Fill in the figure of the live path."""
        self._latency.show(
            with_unit(stats.latency_p50_s, "s", 3),
            f"95 % within {with_unit(stats.latency_p95_s, 's', 3)}",
        )


class Agents:
    """Every microscope PC: is it there, what waits on it, is its clock right."""

    def __init__(self) -> None:
        with box("emc-panel"):
            with box("emc-heading"):
                ui.label("Microscopes").classes("emc-heading-text")
            self._rows = box("emc-rows", "agents")
        self._shown: list[tuple[str, str, str, str, tuple[str, ...]]] | None = None

    def show(
        self,
        agents: Sequence[AgentAnswer],
        clocks_s: Mapping[int, float],
        last_frames: Mapping[int, str],
    ) -> None:
        """List agents with light, backlog, last frame and clock; redrawn only when a word changed.

        Parameters
        ----------
        agents : sequence of AgentAnswer
        clocks_s : mapping
            Agent -> how far its clock is ahead, where that can be told.
        last_frames : mapping
            Agent -> how long ago its last frame was, in words.
        """
        rows = [
            (
                agent.light,
                agent.name,
                agent_account(agent),
                last_frames.get(agent.id, "no frame yet"),
                (*clock_text(clocks_s.get(agent.id)), *agent.problems[:3]),
            )
            for agent in agents
        ]
        if rows == self._shown:
            return
        self._shown = rows
        self._rows.clear()
        with self._rows:
            if not rows:
                ui.label(
                    "None enrolled yet: run emcopilot keys new on the server, "
                    "or drop image files on this page"
                ).classes("emc-note")
            for light, name, account, last_frame, problems in rows:
                with box("emc-row"):
                    _colour(_dot("off"), light)
                    ui.label(name)
                    ui.label(account).classes("emc-note")
                ui.label(last_frame).classes("emc-note emc-below")
                for problem in problems:
                    ui.label(problem).classes("emc-problem emc-warning")


class Problems:
    """Files without a result, by name and with the reason, and another try."""

    def __init__(self, retry: Callable[[int], Awaitable[None]] | None) -> None:
        self._retry = retry
        with box("emc-panel scrolls"):
            with box("emc-heading"):
                ui.label("Problem files").classes("emc-heading-text")
                self._count = text("emc-note")
            self._rows = box("emc-rows", "problems")
        self._shown: list[ProblemFile] | None = None

    def show(self, problems: list[ProblemFile]) -> None:
        """List the newest problems; redrawn only when they change."""
        if problems == self._shown:
            return
        self._shown = problems
        self._count.set_text(f"{len(problems)}" if problems else "")
        self._rows.clear()
        with self._rows:
            if not problems:
                ui.label("None: every file has its result").classes("emc-note")
            for problem in problems:
                self._row(problem)

    def _row(self, problem: ProblemFile) -> None:
        with box("emc-row emc-problem"):
            with box("emc-problem-text"):
                ui.label(problem.name)
                ui.label(f"{problem.kind}: {problem.reason}").classes("emc-note")
            if problem.frame_id is not None and self._retry:
                retry, frame_id = self._retry, problem.frame_id
                tool("Retry", lambda: retry(frame_id), "process this frame again")


class Cell:
    """A heading, a figure and an optional note below it."""

    def __init__(self, heading: str, marker: str) -> None:
        with box("emc-cell"):
            ui.label(heading).classes("emc-note")
            self._value = text("emc-figure", marker)
            self._value.set_text(NOTHING)
            self._note: ui.label | None = None
            if marker.startswith("kpi"):
                self._note = text("emc-note", f"{marker}-note")

    def show(self, value: str, note: str = "") -> None:
        """Set the figure and what stands below it."""
        self._value.set_text(value)
        if self._note:
            self._note.set_text(note)


def box(classes: str, marker: str = "") -> Element:
    """Return a plain block; `marker` becomes its data-part, by which tests find it."""
    return _named(ui.element("div").classes(classes), marker)


def text(classes: str, marker: str = "") -> ui.label:
    """Return an empty label; `marker` as for `box`."""
    return _named(ui.label().classes(classes), marker)


def tool(name: str, then: Callable[[], object], tip: str = "") -> ui.button:
    """Return a small text button."""
    button = ui.button(name, on_click=then).props("flat dense no-caps")
    button.classes("emc-tool")
    if tip:
        button.props["title"] = tip
    return button


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
    dot.style(f"background: var(--{_STATES[colour]})")
    dot.props["aria-label"] = colour
