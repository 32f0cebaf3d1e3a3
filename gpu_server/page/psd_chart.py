"""The size distribution as an ECharts option: bars, the fitted law, the mean's interval."""

import math
from itertools import pairwise

from emcopilot.messages import PsdAnswer
from gpu_server.page.theme import BAR, FAINT, FIT, INK, LINE

Option = dict[str, object]


def empty() -> Option:
    """Return the chart before the first particle."""
    axis = {
        "axisLine": {"lineStyle": {"color": LINE}},
        "axisLabel": {"color": FAINT, "hideOverlap": True},
        "splitLine": {"lineStyle": {"color": LINE}},
        "nameTextStyle": {"color": FAINT},
    }
    return {
        "animation": False,
        "grid": {"left": 46, "right": 12, "top": 24, "bottom": 42},
        "xAxis": {
            **axis,
            "type": "category",
            "data": [],
            "name": "equivalent diameter",
            "nameLocation": "middle",
            "nameGap": 26,
        },
        "yAxis": {**axis, "type": "value", "name": "particles", "minInterval": 1},
        "tooltip": {"trigger": "axis", "backgroundColor": "#141a20", "borderColor": LINE,
                    "textStyle": {"color": INK}},
        "legend": {"right": 8, "top": 0, "textStyle": {"color": FAINT}, "itemHeight": 8},
        "series": [
            {"name": "counted", "type": "bar", "data": [], "barCategoryGap": "8%",
             "itemStyle": {"color": BAR}},
            {"name": "log-normal fit", "type": "line", "data": [], "smooth": True,
             "showSymbol": False, "lineStyle": {"color": FIT, "width": 2},
             "itemStyle": {"color": FIT}},
        ],
    }  # fmt: skip


def options(psd: PsdAnswer) -> Option:
    """Return what changes when the distribution does."""
    edges, counts = psd.histogram.edges, psd.histogram.counts
    centres = [f"{(low + high) / 2:.3g}" for low, high in pairwise(edges)]
    return {
        "xAxis": {"data": centres, "name": f"equivalent diameter ({psd.unit})"},
        "series": [
            {"name": "counted", "data": counts},
            {"name": "log-normal fit", "data": expected_counts(psd)},
        ],
    }


def expected_counts(psd: PsdAnswer) -> list[float]:
    """Return the particles a bin that the fitted law predicts; empty where it does not fit."""
    law, edges = psd.lognormal, psd.histogram.edges
    if not law.fits or law.mu is None or not law.sigma:
        return []
    below = [_lognormal_cdf(edge, law.mu, law.sigma) for edge in edges]
    return [round(psd.counted * (high - low), 2) for low, high in pairwise(below)]


def _lognormal_cdf(diameter: float, mu: float, sigma: float) -> float:
    if diameter <= 0:
        return 0.0
    return 0.5 * (1.0 + math.erf((math.log(diameter) - mu) / (sigma * math.sqrt(2.0))))
