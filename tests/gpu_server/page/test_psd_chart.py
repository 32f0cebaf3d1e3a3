"""The chart's option: what the operator sees of a distribution, without a browser."""

import json

import numpy as np
import pytest

from emcopilot.messages import PsdAnswer
from emcopilot.psd import measure_psd
from gpu_server.distribution import psd_answer
from gpu_server.page.look import nothing_yet
from gpu_server.page.psd_chart import bars, fitted_curve, options


def distribution(diameters: np.ndarray) -> PsdAnswer:
    return psd_answer(
        measure_psd(diameters, unit="nm"),
        reason=None,
        frames=1,
        excluded_border=0,
        rejected=0,
        event=1,
    )


@pytest.fixture(scope="module")
def lognormal() -> PsdAnswer:
    return distribution(np.random.default_rng(1).lognormal(np.log(8.0), 0.25, 800))


def series(psd: PsdAnswer, index: int) -> dict:
    return options(psd)["series"][index]  # pyright: ignore


def test_bars_are_the_histogram_with_both_edges(lognormal: PsdAnswer) -> None:
    steps = bars(lognormal)
    edges, counts = lognormal.histogram.edges, lognormal.histogram.counts
    assert [step[:2] for step in steps[:-1]] == [
        [low, count] for low, count in zip(edges, counts, strict=False)
    ]
    assert [step[2] for step in steps[:-1]] == edges[1:]
    assert steps[-1] == [edges[-1], counts[-1], None]  # the last step's right end


def test_the_curve_covers_the_bars_and_their_area(lognormal: PsdAnswer) -> None:
    curve = np.array(fitted_curve(lognormal))
    edges = lognormal.histogram.edges
    assert (curve[0, 0], curve[-1, 0]) == pytest.approx((edges[0], edges[-1]))
    bin_width = (edges[-1] - edges[0]) / (len(edges) - 1)
    area = np.trapezoid(curve[:, 1], curve[:, 0]) / bin_width
    # The law's tails beyond the smallest and largest of 800 particles hold about 1/400.
    assert area == pytest.approx(lognormal.counted, rel=0.02)


def test_the_curve_peaks_at_the_mode_of_the_law(lognormal: PsdAnswer) -> None:
    curve = np.array(fitted_curve(lognormal))
    law = lognormal.lognormal
    assert law is not None
    step = curve[1, 0] - curve[0, 0]
    mode = np.exp(law.mu - law.sigma**2)
    assert curve[curve[:, 1].argmax(), 0] == pytest.approx(mode, abs=step)


def test_a_law_that_does_not_fit_is_not_drawn() -> None:
    two_kinds = np.r_[np.full(200, 3.0), np.full(200, 30.0)]
    psd = distribution(two_kinds + np.linspace(0, 0.1, 400))
    assert fitted_curve(psd) == []
    assert options(psd)["legend"]["data"] == ["particles"]  # pyright: ignore


@pytest.mark.parametrize("particles", [0, 1, 2])
def test_few_particles_make_a_chart_all_the_same(particles: int) -> None:
    psd = distribution(np.full(particles, 5.0))
    chart = json.loads(json.dumps(options(psd), allow_nan=False))
    assert len(chart["series"]) == 2
    assert sum(step[1] for step in bars(psd)[:-1]) == particles


def test_mean_and_interval_are_marked_where_they_are_known(
    lognormal: PsdAnswer,
) -> None:
    shown = series(lognormal, 0)
    assert shown["markLine"]["data"] == [{"xAxis": lognormal.mean_number}]
    assert shown["markArea"]["data"] == [
        [{"xAxis": lognormal.ci_low}, {"xAxis": lognormal.ci_high}]
    ]
    empty = series(nothing_yet(), 0)
    assert (empty["markLine"]["data"], empty["markArea"]["data"]) == ([], [])


def test_the_axis_names_the_unit() -> None:
    psd = psd_answer(
        measure_psd(np.array([4.0, 5.0, 6.0]), unit="px"),
        reason="1 of 1 frames have no known pixel size",
        frames=1,
        excluded_border=0,
        rejected=0,
        event=1,
    )
    assert options(psd)["xAxis"]["name"] == "equivalent diameter (px)"  # pyright: ignore
