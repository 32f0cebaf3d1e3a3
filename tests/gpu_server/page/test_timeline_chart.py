"""The course's option: what the operator sees of a session, without a browser."""

import json

from emcopilot.messages import TimelineAnswer
from emcopilot.review_messages import Mark
from gpu_server.page.timeline_chart import number_at, options, time_axis

LINE = TimelineAnswer(
    session_id=1, unit="nm", frame=[11, 12, 13], number=[1, 2, 3], frames=3,
    time_s=[0.0, 2.0, 4.0], particles=[5, 0, 7], counted=[4, 0, 6],
    mean_diameter=[8.0, None, 9.0], dispersion=[0.25, None, 0.5],
    latency_s=[1.0, 1.5, None],
)  # fmt: skip


def test_four_curves_share_one_time_axis_and_gaps_stay_gaps() -> None:
    drawn = options(LINE, [])
    json.dumps(drawn)
    curves = {part["name"]: part["data"] for part in drawn["series"]}  # pyright: ignore
    assert curves["mean d (nm)"] == [[0.0, 8.0, 1], [2.0, None, 2], [4.0, 9.0, 3]]
    assert curves["_low"] == [[0.0, 6.0, 1], [2.0, None, 2], [4.0, 4.5, 3]]
    assert curves["_band"] == [[0.0, 4.0, 1], [2.0, None, 2], [4.0, 9.0, 3]]
    assert [point[1] for point in curves["particles"]] == [4, 0, 6]
    assert drawn["axisPointer"] == {"link": [{"xAxisIndex": "all"}]}


def test_marks_stand_in_every_curve_and_have_their_letter_once() -> None:
    marks = [
        Mark(kind="calibration", text="pixel size 0.2 nm", time_s=2.0),
        Mark(kind="problem", text="no result", time_s=None),
    ]
    curves = [part for part in options(LINE, marks)["series"] if "markLine" in part]  # pyright: ignore
    lines = [curve["markLine"]["data"] for curve in curves]
    assert [[line["xAxis"] for line in row] for row in lines] == [[2.0]] * 4
    assert [row[0]["label"]["show"] for row in lines] == [True, False, False, False]


def test_nothing_yet_is_empty_axes() -> None:
    drawn = options(None, [])
    assert drawn["series"] == []
    assert len(drawn["xAxis"]) == 4  # pyright: ignore


def test_a_click_finds_the_nearest_frame_and_long_sessions_count_in_hours() -> None:
    assert number_at(LINE, 1.2) == 2
    assert number_at(LINE, 99.0) == 3
    long = LINE.model_copy(update={"time_s": [0.0, 3600.0, 10_000.0]})
    assert time_axis(long) == (3600.0, "time (h)")
    assert time_axis(LINE) == (1.0, "time (s)")
