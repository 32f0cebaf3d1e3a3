"""Distributions of known diameters, and how honest the confidence interval is."""

import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from emcopilot.psd import Psd, measure_psd


def lognormal(n: int, seed: int = 0, sigma: float = 0.3) -> NDArray[np.float64]:
    return np.random.default_rng(seed).lognormal(2.0, sigma, n)


def test_means_of_known_diameters() -> None:
    psd = measure_psd(np.array([1.0, 2.0, 3.0]), unit="nm")
    assert psd.n == 3
    assert psd.unit == "nm"
    assert psd.mean_number == pytest.approx(2.0)
    assert psd.mean_surface == pytest.approx(36 / 14)
    assert psd.mean_volume == pytest.approx(98 / 36)
    assert psd.sd == pytest.approx(1.0)
    assert psd.dispersion == pytest.approx(0.5)
    assert psd.geometric_mean == pytest.approx(6 ** (1 / 3))


def test_percentiles_by_number_and_by_volume() -> None:
    psd = measure_psd(np.linspace(1, 100, 100_001), unit="nm")
    assert (psd.d10, psd.d50, psd.d90) == pytest.approx((10.9, 50.5, 90.1), rel=1e-3)
    # Volume grows with the fourth power: half of it lies above 100 / 2**(1/4).
    assert psd.d50_volume == pytest.approx(100 * 0.5**0.25, rel=1e-3)
    assert psd.d10_volume == pytest.approx(100 * 0.1**0.25, rel=1e-3)
    assert psd.d90_volume == pytest.approx(100 * 0.9**0.25, rel=1e-3)


def test_order_of_the_diameters_does_not_matter() -> None:
    sizes = lognormal(200)
    assert measure_psd(sizes, unit="px") == measure_psd(sizes[::-1], unit="px")


def test_the_same_seed_gives_the_same_interval() -> None:
    sizes = lognormal(100)
    assert measure_psd(sizes, unit="nm") == measure_psd(sizes, unit="nm")
    assert (
        measure_psd(sizes, unit="nm", seed=1).ci_low
        != measure_psd(sizes, unit="nm").ci_low
    )


def test_a_lognormal_sample_is_fitted() -> None:
    fit = measure_psd(lognormal(5000), unit="nm").lognormal
    assert fit is not None
    assert fit.ok
    # Standard errors: sigma / sqrt(n) = 0.004 and sigma / sqrt(2 n) = 0.003.
    assert fit.mu == pytest.approx(2.0, abs=0.015)
    assert fit.sigma == pytest.approx(0.3, abs=0.01)


def test_two_populations_are_no_lognormal() -> None:
    mixed = np.concatenate((lognormal(300, sigma=0.05), 5 * lognormal(300, 1, 0.05)))
    fit = measure_psd(mixed, unit="nm").lognormal
    assert fit is not None
    assert not fit.ok


def test_the_fit_of_lognormal_samples_is_seldom_doubted() -> None:
    fits = [measure_psd(lognormal(60, s), unit="nm").lognormal for s in range(200)]
    doubted = sum(fit is None or not fit.ok for fit in fits)
    assert doubted <= 20  # 5 % of 200 expected, 20 is five standard deviations up


@pytest.mark.parametrize(("n", "least"), [(30, 0.88), (200, 0.91), (3000, 0.91)])
def test_the_interval_holds_the_true_mean(n: int, least: float) -> None:
    truth = np.exp(2.0 + 0.3**2 / 2)
    runs = 300
    inside = 0
    for seed in range(runs):
        psd = measure_psd(lognormal(n, seed), unit="nm", bootstrap=400, seed=seed)
        assert psd.ci_low is not None
        assert psd.ci_high is not None
        inside += psd.ci_low <= truth <= psd.ci_high
    # 95 % nominal; 300 trials scatter by 1.3 %, small samples fall 2-3 % short.
    assert inside / runs >= least


def test_bootstrap_and_normal_interval_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = lognormal(2000)
    bootstrap = measure_psd(sizes, unit="nm", bootstrap=4000)
    monkeypatch.setattr("emcopilot.psd._BOOTSTRAP_LIMIT", 100)
    normal = measure_psd(sizes, unit="nm")
    assert bootstrap.relative_half_width == pytest.approx(
        normal.relative_half_width, rel=0.05
    )


def test_enough_particles_make_the_mean_known() -> None:
    few, many = (measure_psd(lognormal(n), unit="nm") for n in (50, 5000))
    assert not few.enough(0.02)
    assert many.enough(0.02)
    needed = few.needed(0.02)
    assert needed is not None
    # 1.96 * 0.307 / sqrt(n) = 0.02 at n = 905; the spread of 50 is known to 10 %.
    assert needed == pytest.approx(905, rel=0.4)
    assert many.needed(0.02) <= 5000


def test_a_handful_is_never_enough() -> None:
    alike = measure_psd(np.full(5, 7.0), unit="nm")
    assert alike.relative_half_width == 0.0
    assert not alike.enough(0.5)
    assert alike.needed() == 30
    assert measure_psd(np.full(30, 7.0), unit="nm").enough()


def assert_plain(psd: Psd) -> None:
    again = json.loads(json.dumps(psd.to_json(), allow_nan=False))
    assert again["n"] == psd.n
    assert again["histogram"]["counts"] == list(psd.histogram.counts)


def test_no_particle_is_safe() -> None:
    psd = measure_psd(np.array([]), unit="nm")
    assert psd.n == 0
    assert psd.mean_number is None
    assert psd.lognormal is None
    assert not psd.enough()
    assert psd.needed() is None
    assert psd.histogram.counts == ()
    assert_plain(psd)


def test_one_particle_is_safe() -> None:
    psd = measure_psd(np.array([5.0]), unit="nm")
    assert psd.mean_number == psd.d10 == psd.d50 == psd.d90_volume == 5.0
    assert psd.sd is psd.ci_low is psd.relative_half_width is psd.lognormal is None
    assert psd.needed() is None
    assert sum(psd.histogram.counts) == 1
    assert_plain(psd)


@pytest.mark.parametrize("n", [2, 3, 30, 2000, 2001])
def test_identical_sizes_are_safe(n: int) -> None:
    psd = measure_psd(np.full(n, 0.1), unit="nm")
    assert psd.ci_low == pytest.approx(0.1)
    assert psd.ci_high == pytest.approx(0.1)
    assert psd.dispersion == pytest.approx(0, abs=1e-9)
    assert psd.lognormal is None
    assert sum(psd.histogram.counts) == n
    assert_plain(psd)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_few_particles_are_safe(n: int) -> None:
    for seed in range(50):
        psd = measure_psd(lognormal(n, seed), unit="px")
        assert psd.ci_low is not None
        assert psd.ci_high is not None
        assert psd.ci_low <= psd.mean_number <= psd.ci_high
        assert_plain(psd)


def test_one_giant_among_many_is_safe() -> None:
    psd = measure_psd(np.append(np.full(400, 5.0), 5000.0), unit="nm")
    assert 8 <= len(psd.histogram.counts) <= 60
    assert_plain(psd)


def test_a_million_particles_take_seconds_at_most() -> None:
    began = time.process_time()
    psd = measure_psd(lognormal(1_000_000), unit="nm")
    assert time.process_time() - began < 2.0  # 0.2 s on an idle core
    assert psd.n == 1_000_000
    assert psd.relative_half_width < 0.001


@pytest.mark.parametrize("bins", [None, 7])
def test_one_size_has_a_histogram_even_where_its_last_digit_differs(
    bins: int | None,
) -> None:
    # 100 px of 0.3 nm and 25 px of 0.6 nm have the same area but for its last digit.
    for size in (0.3, 12.0, 5000.0):
        psd = measure_psd(
            np.array([size, np.nextafter(size, 1e9)]), unit="nm", bins=bins
        )
        assert sum(psd.histogram.counts) == 2
        assert 0 < psd.histogram.edges[0] < size < psd.histogram.edges[-1]
        assert_plain(psd)


def test_given_bins_are_kept() -> None:
    edges = np.array([0.0, 5.0, 10.0, 100.0])
    psd = measure_psd(lognormal(500), unit="nm", bins=edges)
    assert psd.histogram.edges == tuple(edges)
    assert sum(psd.histogram.counts) == 500
    assert len(measure_psd(lognormal(500), unit="nm", bins=7).histogram.counts) == 7
    assert measure_psd(np.array([]), unit="nm", bins=edges).histogram.counts == (
        0,
        0,
        0,
    )


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_impossible_diameters_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        measure_psd(np.array([5.0, wrong]), unit="nm")
