"""The size distribution as an ECharts option: bars, the fitted law, the mean's interval."""

import math
from itertools import pairwise

from emcopilot.messages import PsdAnswer
from gpu_server.page.theme import DARK, Palette

Option = dict[str, object]
Point = list[float]

_FIT_POINTS = 80
"""Enough for a curve without corners at the chart's few hundred pixels."""
# Runs in the browser: a bar's point carries [lower edge, particles, upper edge].
_TOOLTIP = (
    "(bars) => { const [low, count, high] = bars[0].value; if (high === undefined) return '';"
    " return `${low.toPrecision(3)} – ${high.toPrecision(3)}: <b>${count}</b> particles`; }"
)


def options(psd: PsdAnswer, colours: Palette = DARK) -> Option:
    """Return the whole chart of one distribution; empty axes where there is no particle."""
    edges = psd.histogram.edges
    bars_and_law = [_bars(psd, colours), _fit(psd, colours)]
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Roboto, system-ui, sans-serif"},
        "grid": {"left": 44, "right": 14, "top": 30, "bottom": 40},
        "legend": {
            "right": 6, "top": 0, "itemWidth": 14, "itemHeight": 8, "itemGap": 14,
            "textStyle": {"color": colours.faint}, "selectedMode": False, "icon": "roundRect",
            # A law that is not drawn has no place in the legend.
            "data": [part["name"] for part in bars_and_law if part["data"]],
        },
        "tooltip": {
            "trigger": "axis", "backgroundColor": colours.panel, "borderColor": colours.line,
            "textStyle": {"color": colours.ink, "fontSize": 12}, ":formatter": _TOOLTIP,
            "axisPointer": {"lineStyle": {"color": colours.faint}},
        },
        "xAxis": {
            **axis(colours), "type": "value", "name": f"equivalent diameter ({psd.unit})",
            "nameLocation": "middle", "nameGap": 26, "splitLine": {"show": False},
            "min": edges[0] if edges else 0, "max": edges[-1] if edges else 1,
            "axisLabel": {"show": bool(edges), "color": colours.faint, "showMinLabel": False,
                          "showMaxLabel": False},
        },
        "yAxis": {
            **axis(colours), "type": "value", "name": "particles",
            "minInterval": 1, "splitNumber": 3,
            "axisLine": {"show": False}, "axisLabel": {"color": colours.faint},
            "nameTextStyle": {"color": colours.faint, "align": "left", "padding": [0, 0, 0, -34]},
        },
        "series": bars_and_law,
    }  # fmt: skip


def bars(psd: PsdAnswer) -> list[list[float | None]]:
    """Return the histogram's steps as [lower edge, particles, upper edge]."""
    edges, counts = psd.histogram.edges, psd.histogram.counts
    steps: list[list[float | None]] = [
        [low, count, high]
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    ]
    # The last step needs its right end drawn.
    return [*steps, [edges[-1], counts[-1], None]] if steps else []


def as_csv(psd: PsdAnswer) -> str:
    """Return the histogram as a table: one line a bin, edges in the distribution's unit."""
    unit, edges = psd.unit, psd.histogram.edges
    rows = zip(pairwise(edges), psd.histogram.counts, strict=True) if edges else ()
    lines = [f"from_{unit},to_{unit},particles"]
    lines += [f"{low:.6g},{high:.6g},{count}" for (low, high), count in rows]
    return "\n".join(lines) + "\n"


def fitted_curve(psd: PsdAnswer) -> list[Point]:
    """Return the particles a bin that the fitted law predicts; empty where it does not fit."""
    law, edges = psd.lognormal, psd.histogram.edges
    if law is None or not law.ok or law.sigma <= 0 or len(edges) < 2:
        return []
    low, high = edges[0], edges[-1]
    in_a_bin = psd.counted * (high - low) / (len(edges) - 1)
    sizes = [low + (high - low) * i / _FIT_POINTS for i in range(_FIT_POINTS + 1)]
    return [
        [size, in_a_bin * _lognormal_density(size, law.mu, law.sigma)] for size in sizes
    ]


def _lognormal_density(diameter: float, mu: float, sigma: float) -> float:
    if diameter <= 0:
        return 0.0
    z = (math.log(diameter) - mu) / sigma
    return math.exp(-0.5 * z * z) / (diameter * sigma * math.sqrt(2.0 * math.pi))


def _bars(psd: PsdAnswer, colours: Palette) -> Option:
    return {
        "name": "particles", "type": "line", "step": "end", "data": bars(psd),
        "symbol": "none", "lineStyle": {"color": colours.bar, "width": 1.2},
        "itemStyle": {"color": colours.bar}, "areaStyle": {"color": colours.bar, "opacity": 0.45},
        "markLine": _mean(psd, colours), "markArea": _interval(psd, colours),
    }  # fmt: skip


def _fit(psd: PsdAnswer, colours: Palette) -> Option:
    return {
        "name": "log-normal fit", "type": "line", "data": fitted_curve(psd),
        "symbol": "none", "lineStyle": {"color": colours.fit, "width": 2},
        "itemStyle": {"color": colours.fit}, "tooltip": {"show": False},
    }  # fmt: skip


def _mean(psd: PsdAnswer, colours: Palette) -> Option:
    known = [] if psd.mean_number is None else [{"xAxis": psd.mean_number}]
    return {
        "symbol": "none", "silent": True, "data": known, "animation": False,
        "lineStyle": {"color": colours.mean, "type": "dashed", "width": 1},
        "label": {"formatter": "mean", "color": colours.mean, "fontSize": 11, "distance": 2},
    }  # fmt: skip


def _interval(psd: PsdAnswer, colours: Palette) -> Option:
    known = psd.ci_low is not None and psd.ci_high is not None
    return {
        "silent": True, "animation": False,
        "data": [[{"xAxis": psd.ci_low}, {"xAxis": psd.ci_high}]] if known else [],
        "itemStyle": {"color": colours.mean, "opacity": 0.16},
    }  # fmt: skip


def axis(colours: Palette) -> Option:
    """Return what all axes of the page's charts have in common."""
    return {
        "axisLine": {"lineStyle": {"color": colours.line}},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": colours.line}},
        "nameTextStyle": {"color": colours.faint},
    }
