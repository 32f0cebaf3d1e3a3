"""The session's course as an ECharts option: four curves above one time axis, and its marks."""

from collections.abc import Sequence

from emcopilot.messages import TimelineAnswer
from emcopilot.review_messages import Mark
from gpu_server.page.psd_chart import Option, axis
from gpu_server.page.theme import DARK, Palette

_HOUR_S, _MINUTE_S = 3600.0, 60.0
_TOP_PX, _ROW_PX, _GAP_PX = 20, 38, 24
_SYMBOL_FRAMES = 60
"""Fewer frames than that are drawn as points, too."""
# Runs in the browser: every series' point carries [time, value, frame number].
_TOOLTIP = (
    "(points) => { const rows = points.filter((p) => p.value && p.seriesName[0] !== '_' &&"
    " p.value[1] !== null); if (!rows.length) return '';"
    " return `frame ${rows[0].value[2].toLocaleString('en')}<br>` + rows.map((p) =>"
    " `${p.marker}${p.seriesName} <b>${Number(p.value[1].toPrecision(4))}</b>`).join('<br>'); }"
)
_ROWS = 4
HEIGHT_PX = _TOP_PX + _ROWS * (_ROW_PX + _GAP_PX) + 16


def options(
    line: TimelineAnswer | None, marks: Sequence[Mark], colours: Palette = DARK
) -> Option:
    """Return the whole chart; empty axes where no frame is counted yet."""
    unit = line.unit if line else "nm"
    names = (f"mean d ({unit})", "particles", "sd / mean", "latency (s)")
    divisor, time_name = time_axis(line)
    return {
        "animation": False,
        "textStyle": {"fontFamily": "Roboto, system-ui, sans-serif"},
        "grid": [_grid(row) for row in range(_ROWS)],
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "tooltip": {
            "trigger": "axis", "backgroundColor": colours.panel, "borderColor": colours.line,
            "textStyle": {"color": colours.ink, "fontSize": 12}, ":formatter": _TOOLTIP,
            "axisPointer": {"lineStyle": {"color": colours.faint}}, "confine": True,
        },
        "xAxis": [_time(row, time_name, colours) for row in range(_ROWS)],
        "yAxis": [_value(row, name, colours) for row, name in enumerate(names)],
        "series": _series(line, marks, divisor, names, colours) if line else [],
    }  # fmt: skip


def time_axis(line: TimelineAnswer | None) -> tuple[float, str]:
    """Return by what seconds are divided, and the name of the unit that makes."""
    times = [time_s for time_s in line.time_s if time_s is not None] if line else []
    span_s = max(times, default=0.0) - min(times, default=0.0)
    if span_s > 2 * _HOUR_S:
        return _HOUR_S, "time (h)"
    return (_MINUTE_S, "time (min)") if span_s > 2 * _MINUTE_S else (1.0, "time (s)")


def number_at(line: TimelineAnswer, time_s: float) -> int | None:
    """Return the number of the frame nearest to a time of the session."""
    known = [
        (abs(at - time_s), number)
        for at, number in zip(line.time_s, line.number, strict=True)
        if at is not None
    ]
    return min(known)[1] if known else None


def _grid(row: int) -> Option:
    top = _TOP_PX + row * (_ROW_PX + _GAP_PX)
    # Else ECharts makes room for the last label by moving one axis against the others.
    place = {"left": 44, "right": 14, "top": top, "height": _ROW_PX}
    return {**place, "outerBoundsMode": "none"}


def _time(row: int, name: str, colours: Palette) -> Option:
    last = row == _ROWS - 1
    return {
        **axis(colours), "type": "value", "gridIndex": row, "min": "dataMin", "max": "dataMax",
        "splitLine": {"show": False},
        "axisLabel": {"show": last, "color": colours.faint, "fontSize": 11, "hideOverlap": True,
                      "showMinLabel": False, "showMaxLabel": False},
        "name": name if last else "", "nameLocation": "middle", "nameGap": 22,
        "axisPointer": {"label": {"show": False}},
    }  # fmt: skip


def _value(row: int, name: str, colours: Palette) -> Option:
    return {
        **axis(colours), "type": "value", "gridIndex": row, "scale": row == 0, "splitNumber": 2,
        "name": name, "nameGap": 7, "axisLine": {"show": False},
        "nameTextStyle": {"color": colours.faint, "fontSize": 11, "align": "left",
                          "padding": [0, 0, 0, -34]},
        "axisLabel": {"color": colours.faint, "fontSize": 11, "hideOverlap": True},
    }  # fmt: skip


def _series(
    line: TimelineAnswer,
    marks: Sequence[Mark],
    divisor: float,
    names: Sequence[str],
    colours: Palette,
) -> list[Option]:
    spreads = [
        None if mean is None or part is None else mean * part
        for mean, part in zip(line.mean_diameter, line.dispersion, strict=True)
    ]
    low = [
        _less(mean, sd) for mean, sd in zip(line.mean_diameter, spreads, strict=True)
    ]
    band = [None if sd is None else 2 * sd for sd in spreads]
    shade = {"color": colours.fit, "opacity": 0.16}

    def points(values: Sequence[float | None]) -> list[list[float | None]]:
        return [
            [time_s / divisor, value, number]
            for time_s, value, number in zip(
                line.time_s, values, line.number, strict=True
            )
            if time_s is not None
        ]

    def curve(row: int, values: Sequence[float | None], colour: str) -> Option:
        return {
            "name": names[row], "type": "line", "xAxisIndex": row, "yAxisIndex": row,
            "data": points(values), "symbolSize": 4,
            "showSymbol": len(line.frame) <= _SYMBOL_FRAMES, "connectNulls": False,
            "lineStyle": {"color": colour, "width": 1.4}, "itemStyle": {"color": colour},
            "markLine": _marks(marks, divisor, colours, named=row == 0),
        }  # fmt: skip

    def hidden(name: str, values: Sequence[float | None], area: Option) -> Option:
        return {
            "name": name, "type": "line", "data": points(values), "stack": "band",
            "stackStrategy": "all", "symbol": "none", "silent": True,
            "lineStyle": {"opacity": 0}, "areaStyle": area,
        }  # fmt: skip

    return [
        hidden("_low", low, {"opacity": 0}),
        hidden("_band", band, shade),
        curve(0, line.mean_diameter, colours.fit),
        curve(1, line.counted, colours.count),
        curve(2, line.dispersion, colours.spread),
        curve(3, line.latency_s, colours.latency),
    ]


def _less(mean: float | None, sd: float | None) -> float | None:
    return None if mean is None or sd is None else mean - sd


def _marks(
    marks: Sequence[Mark], divisor: float, colours: Palette, *, named: bool
) -> Option:
    colour = {
        "calibration": colours.accent,
        "reject": colours.faint,
        "model": colours.good,
        "problem": colours.bad,
    }
    letter = {"calibration": "C", "reject": "R", "model": "M", "problem": "!"}
    return {
        "symbol": "none", "silent": True, "animation": False,
        "data": [
            {
                "xAxis": mark.time_s / divisor,
                "lineStyle": {"color": colour[mark.kind], "type": "dotted", "width": 1},
                "label": {"show": named, "formatter": letter[mark.kind], "fontSize": 10,
                          "color": colour[mark.kind], "distance": 1},
            }
            for mark in marks
            if mark.time_s is not None
        ],
    }  # fmt: skip
