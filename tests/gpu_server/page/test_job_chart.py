"""A stage's curves as the chart's option."""

from gpu_server.job_view import Curve
from gpu_server.page import job_chart
from gpu_server.page.theme import DARK


def test_losses_go_left_and_shares_right() -> None:
    curves = [
        Curve("train", "held_out_loss", [1, 2], [0.5, 0.4]),
        Curve("train", "held_out_miou", [1, 2], [0.7, 0.8]),
    ]
    found = job_chart.options(curves, DARK)
    loss, share = found["series"]
    assert (loss["yAxisIndex"], share["yAxisIndex"]) == (0, 1)
    assert share["name"] == "held out mean IoU"
    assert found["xAxis"]["max"] == 2


def test_what_a_step_did_not_say_is_no_point() -> None:
    (curve,) = job_chart.options([Curve("a", "l1", [1, 2], [None, 3.0])], DARK)[
        "series"
    ]
    assert curve["data"] == [[2, 3.0]]


def test_a_stage_without_curves_is_an_empty_chart() -> None:
    assert job_chart.options([], DARK)["series"] == []


def test_losses_far_apart_share_a_logarithmic_axis() -> None:
    curves = [
        Curve("a", "cycle", [1, 2], [0.5, 0.3]),
        Curve("a", "frechet", [1, 2], [150.0, 20.0]),
    ]
    assert job_chart.options(curves, DARK)["yAxis"][0]["type"] == "log"
    assert job_chart.options(curves[:1], DARK)["yAxis"][0]["type"] == "value"
    below = [*curves, Curve("a", "score", [1], [-0.2])]
    assert job_chart.options(below, DARK)["yAxis"][0]["type"] == "value"
