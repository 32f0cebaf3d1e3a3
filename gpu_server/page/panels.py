"""The panels beside the frame: each builds its widgets once and then only changes their text."""

from collections.abc import Sequence

from nicegui import ui

from emcopilot.messages import AgentAnswer, Convergence, ProblemFile, PsdAnswer, Stats
from gpu_server.page import psd_chart
from gpu_server.page.theme import LIGHTS, OFF

NOTHING = "–"


class Light:
    """A coloured dot, a name and one figure."""

    def __init__(self, name: str, marker: str) -> None:
        with ui.row().classes("items-center gap-2 no-wrap").mark(marker):
            self._dot = ui.element("span").classes("emc-light")
            ui.label(name).classes("text-sm")
            self._figure = ui.label(NOTHING).classes("emc-note")
        self.show("off", NOTHING, "no news yet")

    def show(self, colour: str, figure: str, tip: str) -> None:
        """Set the dot's colour (green, yellow, red, off), the figure and the hover text."""
        self._dot.style(f"background: {LIGHTS.get(colour, OFF)}")
        self._dot.props(f'role="img" aria-label="{colour}"')
        self._figure.set_text(figure)
        self._figure.props(f'title="{tip}"')


class Figures:
    """What the operator reads at a glance: particles, mean diameter, dispersion, latency."""

    def __init__(self) -> None:
        with ui.element("div").classes("emc-panel grid grid-cols-2 gap-3"):
            self._particles = _figure("Particles counted", "kpi-particles")
            self._mean = _figure("Mean diameter", "kpi-mean")
            self._spread = _figure("Geometric spread σg", "kpi-sigma")
            self._latency = _figure("File to result", "kpi-latency")

    def show(self, psd: PsdAnswer, stats: Stats) -> None:
        """Fill in the figures of the shown distribution and of the live path."""
        cut = f"{psd.excluded_border:,} cut by the border, not counted"
        self._particles(f"{psd.counted:,}", cut)
        self._mean(
            _with_unit(psd.mean_number, psd.unit),
            psd.unit_reason or _interval(psd),
        )
        self._spread(_number(psd.sigma_g), f"sd / mean {_number(psd.dispersion)}")
        self._latency(
            _with_unit(stats.latency_p50_s, "s"),
            f"95 % within {_with_unit(stats.latency_p95_s, 's')}",
        )


class SizeDistribution:
    """Histogram, log-normal fit and "enough particles yet?"."""

    def __init__(self) -> None:
        with ui.element("div").classes("emc-panel"):
            with ui.row().classes("items-center justify-between w-full"):
                ui.label("Particle size distribution").classes("emc-heading")
                self.span = ui.toggle(["session", "frame"], value="session").props(
                    "dense no-caps size=sm"
                )
            self._chart = (
                ui.echart(psd_chart.empty()).classes("w-full h-56").mark("psd")
            )
            self._quantiles = ui.label().classes("emc-note").mark("psd-quantiles")
            self._known = ui.label().classes("text-sm mt-1").mark("convergence")

    def show(self, psd: PsdAnswer, convergence: Convergence | None) -> None:
        """Redraw the histogram and say how well the mean is known."""
        self._chart.run_chart_method("setOption", psd_chart.options(psd))
        self._quantiles.set_text(
            f"D10 {_number(psd.d10)}   D50 {_number(psd.d50)}   D90 {_number(psd.d90)}   "
            f"surface mean {_number(psd.mean_surface)}   volume mean {_number(psd.mean_volume)}"
            f"   ({psd.unit})"
        )
        self._known.set_text(_known_text(convergence))


class Agents:
    """Every microscope PC: is it there, what waits on it."""

    def __init__(self) -> None:
        with ui.element("div").classes("emc-panel"):
            ui.label("Microscopes").classes("emc-heading")
            self._rows = ui.column().classes("w-full gap-1 mt-1").mark("agents")
        self._shown: Sequence[AgentAnswer] = ()

    def show(self, agents: Sequence[AgentAnswer]) -> None:
        """List agents with their light and backlog; redrawn only when something changed."""
        if list(agents) == list(self._shown):
            return
        self._shown = agents
        self._rows.clear()
        with self._rows:
            if not agents:
                ui.label(
                    "None enrolled: run `emcopilot keys new` on the server."
                ).classes("emc-note")
            for agent in agents:
                _agent_row(agent)


class Problems:
    """Files without a result, by name and with the reason."""

    def __init__(self) -> None:
        with ui.element("div").classes("emc-panel"):
            ui.label("Problem files").classes("emc-heading")
            self._rows = ui.column().classes("w-full gap-1 mt-1").mark("problems")
        self._shown: Sequence[ProblemFile] = ()
        self._say_none()

    def show(self, problems: Sequence[ProblemFile]) -> None:
        """List the newest problems."""
        if list(problems) == list(self._shown):
            return
        self._shown = problems
        self._rows.clear()
        if not problems:
            self._say_none()
        with self._rows:
            for problem in problems:
                # Labels escape their text: file names come from outside.
                ui.label(f"{problem.name}: {problem.reason}").classes("emc-problem")

    def _say_none(self) -> None:
        with self._rows:
            ui.label("None.").classes("emc-note")


class _Cell:
    def __init__(self, heading: str, marker: str) -> None:
        with ui.column().classes("gap-0"):
            ui.label(heading).classes("emc-heading")
            self._value = ui.label(NOTHING).classes("emc-figure").mark(marker)
            self._note = ui.label().classes("emc-note")

    def __call__(self, value: str, note: str) -> None:
        self._value.set_text(value)
        self._note.set_text(note)


def _figure(heading: str, marker: str) -> _Cell:
    return _Cell(heading, marker)


def _agent_row(agent: AgentAnswer) -> None:
    with ui.row().classes("items-center gap-2 no-wrap w-full"):
        dot = ui.element("span").classes("emc-light")
        dot.style(f"background: {LIGHTS[agent.light]}")
        ui.label(agent.name).classes("text-sm")
        seen = "never seen" if agent.last_seen_s is None else _ago(agent.last_seen_s)
        ui.label(f"{seen}; {agent.pending} waiting, {agent.stored} stored").classes(
            "emc-note"
        )
    for problem in agent.problems[:3]:
        ui.label(problem).classes("emc-problem")


def _ago(seconds: float) -> str:
    return "now" if seconds < 5 else f"{seconds:.0f} s ago"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _with_unit(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{value:.4g} {unit}"


def _interval(psd: PsdAnswer) -> str:
    if psd.ci_low is None or psd.ci_high is None:
        return "95 % interval: too few particles"
    return f"95 % within {psd.ci_low:.4g} to {psd.ci_high:.4g} {psd.unit}"


def _known_text(convergence: Convergence | None) -> str:
    if convergence is None or convergence.relative_half_width is None:
        return "Enough particles? Too few to say."
    width = 100 * convergence.relative_half_width
    target = 100 * convergence.target
    if convergence.known:
        return f"Enough particles: the mean is known to {width:.1f} % (asked: {target:.0f} %)."
    more = (
        f"; about {convergence.needed_more:,} more" if convergence.needed_more else ""
    )
    return f"Not enough yet: the mean is known to {width:.1f} % (asked: {target:.0f} %){more}."
