"""The curves of one stage as an ECharts option: losses left, shares right."""

from collections.abc import Sequence

from gpu_server.job_view import Curve
from gpu_server.page.psd_chart import Option, axis
from gpu_server.page.theme import Palette

_SHARES = ("miou", "pa", "iou", "f1", "accuracy", "fidelity", "share")
"""Figures between 0 and 1, better when higher; all others are losses or distances."""
_SYMBOL_POINTS = 40
_FAR = 8.0
_NAMES = {
    "pa": "pixel accuracy",
    "miou": "mean IoU",
    "iou": "IoU",
    "l1": "L1",
    "gan": "GAN",
    "mmd": "MMD",
    "fid": "FID",
}


def figure_name(figure: str) -> str:
    """Write a figure's name for people."""
    words = [_NAMES.get(word, word) for word in figure.split("_")]
    return " ".join(words)


def is_share(figure: str) -> bool:
    """Say whether a figure is better when higher, and at most 1."""
    return any(word in _SHARES for word in figure.split("_"))


def options(curves: Sequence[Curve], colours: Palette) -> Option:
    """Return the whole chart; losses on the left axis, shares on the right one."""
    has_shares = any(is_share(one.figure) for one in curves)
    palette = [
        colours.count, colours.fit, colours.spread, colours.latency, colours.good,
        colours.mean, colours.bar,
    ]  # fmt: skip
    steps = [step for one in curves for step in one.step]
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Roboto, system-ui, sans-serif"},
        "grid": {"left": 52, "right": 46 if has_shares else 16, "top": 34, "bottom": 34},
        "legend": {
            "left": 46, "top": 0, "type": "scroll", "itemWidth": 14, "itemHeight": 8,
            "textStyle": {"color": colours.faint}, "icon": "roundRect",
            "pageTextStyle": {"color": colours.faint}, "pageIconColor": colours.faint,
        },
        "tooltip": {
            "trigger": "axis", "backgroundColor": colours.panel, "borderColor": colours.line,
            "textStyle": {"color": colours.ink, "fontSize": 12}, "confine": True,
        },
        "xAxis": {
            **axis(colours), "type": "value", "name": "step", "nameLocation": "middle",
            "nameGap": 22, "min": 0, "max": max(steps, default=1), "minInterval": 1,
            "splitLine": {"show": False}, "axisLabel": {"color": colours.faint},
        },
        "yAxis": [
            {**_value(colours), "type": "log" if _far_apart(curves) else "value"},
            _value(colours, is_right=True),
        ],
        "series": [
            _curve(one, palette[n % len(palette)]) for n, one in enumerate(curves)
        ],
    }  # fmt: skip


def _far_apart(curves: Sequence[Curve]) -> bool:
    """Say whether losses differ so much that the small ones would lie flat on one scale."""
    losses = [
        [value for value in one.value if value is not None]
        for one in curves
        if not is_share(one.figure)
    ]
    last = [values[-1] for values in losses if values]
    positive = all(value > 0 for values in losses for value in values)
    return positive and len(last) > 1 and max(last) > _FAR * min(last)


def _value(colours: Palette, *, is_right: bool = False) -> Option:
    return {
        **axis(colours), "type": "value", "scale": True, "splitNumber": 3,
        "position": "right" if is_right else "left", "axisLine": {"show": False},
        "axisLabel": {"color": colours.faint, "fontSize": 11},
        **({"splitLine": {"show": False}, "max": 1} if is_right else {}),
    }  # fmt: skip


def _curve(one: Curve, colour: str) -> Option:
    points = [
        [step, value]
        for step, value in zip(one.step, one.value, strict=True)
        if value is not None
    ]
    return {
        "name": figure_name(one.figure), "type": "line", "data": points, "symbolSize": 4,
        "yAxisIndex": int(is_share(one.figure)),
        "showSymbol": len(points) <= _SYMBOL_POINTS,
        "lineStyle": {"color": colour, "width": 1.5}, "itemStyle": {"color": colour},
    }  # fmt: skip
