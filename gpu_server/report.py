"""A session on one page of HTML that needs nothing beside itself: figures and plots inline."""

import html
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from emcopilot.messages import PsdAnswer, SessionAnswer, TimelineAnswer
from emcopilot.review_messages import Mark
from gpu_server.page.psd_chart import fitted_curve
from gpu_server.page.wording import NOTHING, interval, number, with_unit

_WIDTH, _HEIGHT = 720.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 12.0, 12.0, 40.0

Points = Sequence[tuple[float, float]]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #14191e; max-width: 780px; margin: 40px auto;
       padding: 0 16px }
h1 { font-size: 22px; margin-bottom: 4px } h2 { font-size: 16px; margin: 28px 0 6px }
p, td, th { font-size: 14px } .faint { color: #54616e }
table { border-collapse: collapse }
td, th { padding: 3px 18px 3px 0; text-align: left; vertical-align: top }
th { font-weight: 500; color: #54616e } svg { width: 100%; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif; fill: #54616e }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px }
@media print { body { margin: 0 } }
"""


def report_html(
    session: SessionAnswer,
    psd: PsdAnswer,
    line: TimelineAnswer,
    marks: Sequence[Mark],
    run: dict[str, object],
) -> str:
    """Return the report; every name from outside is escaped."""
    title = html.escape(f"{session.name} - particle sizes")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{_STYLE}</style></head><body>
<h1>{html.escape(session.name)}</h1>
<p class="faint">{html.escape(session.agent or "no microscope named")}, folder
{html.escape(session.folder)}, begun {_date(session.started_at)};
{line.frames:,} frames counted. Made by {html.escape(str(run["made_by"]))} on {run["made_at"]}.</p>
<h2>Figures</h2>{_figures(psd)}
<h2>Particle size distribution</h2>{_histogram(psd)}
<h2>Course</h2>{_curves(line)}
<h2>What happened</h2>{_happened(marks)}
<h2>Where the numbers come from</h2>{_provenance(run)}
</body></html>
"""


def _figures(psd: PsdAnswer) -> str:
    unit = psd.unit
    rows = {
        "Particles counted": f"{psd.counted:,}",
        "Cut by the border, left out": f"{psd.excluded_border:,}",
        "Rejected by the operator": f"{psd.rejected:,}",
        "Mean diameter": with_unit(psd.mean_number, unit),
        "How well it is known": interval(psd),
        "Median (D10, D90)": f"{with_unit(psd.d50, unit)} ({number(psd.d10)}, {number(psd.d90)})",
        "Surface, volume mean": f"{number(psd.mean_surface)}, {with_unit(psd.mean_volume, unit)}",
        "Standard deviation over mean": number(psd.dispersion),
        "Geometric mean, spread": f"{with_unit(psd.geometric_mean, unit)}, {number(psd.sigma_g)}",
        "Log-normal law": _law(psd),
    }
    if psd.unit_reason:
        rows["Why px"] = psd.unit_reason
    return _table(rows)


def _law(psd: PsdAnswer) -> str:
    law = psd.lognormal
    if law is None:
        return NOTHING
    fits = "describes the particles" if law.ok else "does not describe the particles"
    return f"mu {law.mu:.4f}, sigma {law.sigma:.4f}; {fits} (KS distance {law.distance:.3f})"


def _histogram(psd: PsdAnswer) -> str:
    edges, counts = psd.histogram.edges, psd.histogram.counts
    if not counts:
        return "<p>No particle was counted.</p>"
    curve = [(x, y) for x, y in fitted_curve(psd)]
    top = max([*counts, *(y for _, y in curve)]) or 1
    x_of, y_of = _scales((edges[0], edges[-1]), (0.0, 1.05 * top))
    bars = "".join(
        f'<rect x="{x_of(low):.1f}" y="{y_of(count):.1f}" width="{x_of(high) - x_of(low):.1f}" '
        f'height="{y_of(0) - y_of(count):.1f}" fill="#8fb8e0" stroke="#3f7fc4"/>'
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    )
    law = _path([(x_of(x), y_of(y)) for x, y in curve], "#b45309") if curve else ""
    axes = _axes((edges[0], edges[-1]), (0.0, 1.05 * top))
    return _svg(bars + law + axes + _x_name(f"equivalent diameter ({psd.unit})"))


def _curves(line: TimelineAnswer) -> str:
    drawn = (
        (f"mean diameter ({line.unit})", line.mean_diameter, "#b45309"),
        ("particles counted", line.counted, "#0072b2"),
        ("standard deviation over mean", line.dispersion, "#7b3fb5"),
    )
    return "".join(
        f'<p class="faint">{html.escape(name)}</p>{_curve(line.time_s, values, colour)}'
        for name, values, colour in drawn
    )


def _curve(
    times: Sequence[float | None], values: Sequence[float | None], colour: str
) -> str:
    points = [
        (at, value)
        for at, value in zip(times, values, strict=True)
        if at is not None and value is not None
    ]
    if not points:
        return "<p>Nothing to draw.</p>"
    xs, ys = zip(*points, strict=True)
    x_range = _room(min(xs), max(xs))
    y_range = _room(min(ys), max(ys))
    x_of, y_of = _scales(x_range, y_range)
    path = _path([(x_of(x), y_of(y)) for x, y in points], colour)
    return _svg(path + _axes(x_range, y_range) + _x_name("time (s)"))


def _room(low: float, high: float) -> tuple[float, float]:
    spare = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - spare, high + spare


def _scales(
    x_range: tuple[float, float], y_range: tuple[float, float]
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    def x_of(x: float) -> float:
        share = (x - x_range[0]) / (x_range[1] - x_range[0])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        share = (y - y_range[0]) / (y_range[1] - y_range[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    return x_of, y_of


def _axes(x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    x_of, y_of = _scales(x_range, y_range)
    floor = _HEIGHT - _BOTTOM
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - _RIGHT}" fill="none" stroke="#7d8894"/>'
    ]
    parts += [
        f'<text x="{x_of(x):.1f}" y="{floor + 16}" text-anchor="middle">{_plain(x)}</text>'
        for x in _ticks(*x_range)
    ]
    parts += [
        f'<text x="{_LEFT - 8}" y="{y_of(y) + 4:.1f}" text-anchor="end">{_plain(y)}</text>'
        f'<path d="M{_LEFT} {y_of(y):.1f}H{_WIDTH - _RIGHT}" stroke="#e3e8ec"/>'
        for y in _ticks(*y_range)
    ]
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return some four round values between `low` and `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    steps = (power * factor for factor in (1, 2, 5, 10))
    step = next(s for s in steps if (high - low) / s <= 6)
    first = math.ceil(low / step)
    return [step * i for i in range(first, math.floor(high / step) + 1)]


def _plain(value: float) -> str:
    return f"{value:.6g}"


def _path(points: Points, colour: str) -> str:
    joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _x_name(name: str) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(name)}</text>'


def _svg(inside: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img">{inside}</svg>'


def _happened(marks: Sequence[Mark]) -> str:
    if not marks:
        return "<p>Nothing besides its frames.</p>"
    return _table(
        {
            f"{number(mark.time_s, 4)} s, no. {i}": f"{mark.kind}: {mark.text}"
            for i, mark in enumerate(marks, start=1)
        }
    )


def _provenance(run: dict[str, object]) -> str:
    shown = ("models", "calibration_sources", "pixel_sizes_nm", "versions")
    return _table({name.replace("_", " "): str(run[name]) for name in shown}) + (
        "<p>run.json beside this report says the same for programs, with the hash of every file."
        "</p>"
    )


def _table(rows: dict[str, str]) -> str:
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{lines}</table>"


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
