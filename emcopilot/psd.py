"""Diameters -> particle size distribution: moments, percentiles, fit, how sure we are.

Everything answers for no particle, for one and for a million: what a set of diameters
cannot tell is None, never a number that looks like an answer.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

FloatArray = NDArray[np.float64]
Unit = Literal["nm", "px"]

_BOOTSTRAP_LIMIT = 2_000
"""Above this many particles the mean is normal to well under 1 % of its interval."""
_CONFIDENCE = 0.95
_MIN_ENOUGH = 30
"""Fewer particles never are enough: their own spread is not known well enough."""
_MIN_FIT = 20
_BINS = (8, 60)
_SAME = 1e-9
"""Diameters that differ by a smaller fraction are one size and a rounding error."""
_LILLIEFORS = 0.895
"""5 % point of (sqrt n - 0.01 + 0.85 / sqrt n) D for a normal fitted by its own mean and
variance. Source: M. A. Stephens, J. Am. Stat. Assoc. 69 (1974) 730, table 1A."""
_CLOSE_FIT = 0.05
"""A cumulative curve that is never more than this away describes a sample well, even when
its size alone makes a test reject; steps of whole pixels come to about 0.02."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Particles by diameter."""

    edges: tuple[float, ...]
    """B + 1 rising bin edges in the distribution's unit; empty without particles."""
    counts: tuple[int, ...]
    """B counts; the last bin holds its right edge too."""


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Maximum-likelihood log-normal: ln d has mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float
    distance: float
    """Kolmogorov-Smirnov distance between sample and fit, 0..1."""
    ok: bool
    """The fit describes the sample: worth drawing and quoting."""


@dataclass(frozen=True, slots=True)
class Psd:
    """A particle size distribution; lengths are in `unit`, None means cannot be told."""

    unit: Unit
    n: int
    """Particles in the distribution; those cut by the frame's edge are not in it."""
    histogram: Histogram
    mean_number: float | None
    """Arithmetic mean diameter, d10 of the moment notation."""
    mean_surface: float | None
    """Sauter mean, sum d³ / sum d²."""
    mean_volume: float | None
    """De Brouckere mean, sum d⁴ / sum d³."""
    d10: float | None
    """A tenth of the particles (by number) is smaller."""
    d50: float | None
    d90: float | None
    d10_volume: float | None
    """A tenth of the particle volume lies in smaller particles."""
    d50_volume: float | None
    d90_volume: float | None
    sd: float | None
    """Sample standard deviation (n - 1)."""
    dispersion: float | None
    """sd / mean_number."""
    geometric_mean: float | None
    sigma_g: float | None
    """Geometric standard deviation, exp of the standard deviation of ln d."""
    lognormal: LogNormal | None
    ci_low: float | None
    """95 % confidence interval of mean_number."""
    ci_high: float | None
    relative_half_width: float | None
    """Half the interval over mean_number: 0.02 is "known to 2 %"."""

    def enough(self, target: float = 0.02) -> bool:
        """Say whether the mean is known to `target`, a fraction of itself."""
        width = self.relative_half_width
        return self.n >= _MIN_ENOUGH and width is not None and width <= target

    def needed(self, target: float = 0.02) -> int | None:
        """Estimate how many particles in all would make the mean known to `target`."""
        if self.relative_half_width is None:
            return None
        # The interval of a mean narrows with the root of the count.
        in_all = math.ceil(self.n * (self.relative_half_width / target) ** 2)
        return max(in_all, _MIN_ENOUGH)

    def to_json(self) -> dict[str, object]:
        """Return plain floats, ints, lists and None, ready for json.dumps."""
        return asdict(self)


def measure_psd(
    diameters: FloatArray,
    *,
    unit: Unit,
    bins: int | FloatArray | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Psd:
    """Measure the distribution of `diameters`.

    Parameters
    ----------
    diameters : float64 array, shape (n,)
        Equivalent diameters of the particles that count, in `unit`; see
        `particles.countable`.
    unit : {"nm", "px"}
    bins : int or float64 array of edges, optional
        Histogram bins; None chooses by the Freedman-Diaconis rule, 8 to 60.
    bootstrap : int
        Resamples for the confidence interval of the mean.
    seed : int
        Makes the interval the same at every call.

    Raises
    ------
    ValueError
        If a diameter is not positive and finite.

    Notes
    -----
    The interval is bias-corrected and accelerated (B. Efron, J. Am. Stat. Assoc. 82
    (1987) 171) up to 2,000 particles and normal above. Particles are taken as
    independent: a film that shows the same ones in every frame is surer than it is.
    """
    sizes = np.sort(np.asarray(diameters, np.float64).ravel())
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError("diameters must be positive and finite; leave out NaN first")
    histogram = _histogram(sizes, bins)
    if len(sizes) == 0:
        return Psd(unit, 0, histogram, *(None,) * 17)
    return _described(sizes, unit, histogram, _interval(sizes, bootstrap, seed))


def _described(
    sizes: FloatArray,
    unit: Unit,
    histogram: Histogram,
    interval: tuple[float, float] | None,
) -> Psd:
    mean = float(sizes.mean())
    several = len(sizes) > 1
    sd = float(sizes.std(ddof=1)) if several else None
    low, high = interval or (None, None)
    logs = np.log(sizes)
    squares = sizes**2
    cubes = squares * sizes
    number, volume = (
        _percentiles(sizes, np.ones_like(sizes)),
        _percentiles(sizes, cubes),
    )
    return Psd(
        unit=unit,
        n=len(sizes),
        histogram=histogram,
        mean_number=mean,
        mean_surface=float(cubes.sum() / squares.sum()),
        mean_volume=float((cubes * sizes).sum() / cubes.sum()),
        d10=number[0],
        d50=number[1],
        d90=number[2],
        d10_volume=volume[0],
        d50_volume=volume[1],
        d90_volume=volume[2],
        sd=sd,
        dispersion=None if sd is None else sd / mean,
        geometric_mean=float(np.exp(logs.mean())),
        sigma_g=float(np.exp(logs.std(ddof=1))) if several else None,
        lognormal=_fit(logs),
        ci_low=low,
        ci_high=high,
        relative_half_width=interval and (interval[1] - interval[0]) / 2.0 / mean,
    )


def _percentiles(sizes: FloatArray, weights: FloatArray) -> tuple[float, float, float]:
    """Give the 10, 50 and 90 % points of sorted `sizes`, each weighing `weights`."""
    # The middle of each particle's own share, so that one particle is its own median.
    reached = np.cumsum(weights) - weights / 2.0
    shares = np.array((0.1, 0.5, 0.9)) * weights.sum()
    points = cast(FloatArray, np.interp(shares, reached, sizes))
    return float(points[0]), float(points[1]), float(points[2])


def _histogram(sizes: FloatArray, bins: int | FloatArray | None) -> Histogram:
    if bins is None and len(sizes) == 0:
        return Histogram((), ())
    chosen = _bin_count(sizes) if bins is None else bins
    counts, edges = np.histogram(sizes, chosen, _range(sizes))
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _range(sizes: FloatArray) -> tuple[float, float] | None:
    """Say from where to where equal bins go; None for from the least to the greatest."""
    if len(sizes) == 0 or sizes[-1] - sizes[0] > _SAME * sizes[-1]:
        return None
    # The same size twice, worked out from two pixel sizes, differs in its last digit: no
    # room for bins. And half a unit either way would begin below zero for 0.3 nm.
    return 0.5 * float(sizes[0]), 1.5 * float(sizes[-1])


def _bin_count(sizes: FloatArray) -> int:
    fewest, most = _BINS
    quarter, three_quarters = np.quantile(sizes, (0.25, 0.75))
    width = 2.0 * (three_quarters - quarter) / len(sizes) ** (1 / 3)
    span = float(sizes[-1] - sizes[0])
    if width <= span / most:
        return most if width > 0 else fewest
    return max(fewest, math.ceil(span / width))


def _fit(logs: FloatArray) -> LogNormal | None:
    """Fit sorted logarithms of diameters; None where all are the same or too few."""
    n, mu, sigma = len(logs), float(logs.mean()), float(logs.std())
    if n < 2 or sigma <= _SAME:
        return None
    expected = special.ndtr((logs - mu) / sigma)
    step = np.arange(n) / n
    distance = float(max((expected - step).max(), (step + 1.0 / n - expected).max()))
    critical = _LILLIEFORS / (math.sqrt(n) - 0.01 + 0.85 / math.sqrt(n))
    return LogNormal(
        mu, sigma, distance, n >= _MIN_FIT and distance <= max(critical, _CLOSE_FIT)
    )


def _interval(
    sizes: FloatArray, resamples: int, seed: int
) -> tuple[float, float] | None:
    """Give the confidence interval of the mean; None for one particle."""
    n, mean = len(sizes), float(sizes.mean())
    off = sizes - mean
    squares = float(off @ off)
    if n < 2:
        return None
    z = float(special.ndtri((1.0 + _CONFIDENCE) / 2.0))
    if n > _BOOTSTRAP_LIMIT or squares <= (_SAME * mean) ** 2 * n:
        half = z * math.sqrt(squares / (n - 1) / n)
        return mean - half, mean + half
    rng = np.random.default_rng(seed)
    means = np.sort(sizes[rng.integers(0, n, (resamples, n), np.int32)].mean(axis=1))
    # Efron's two corrections; for a mean the jackknife acceleration is the skewness / 6.
    below = (np.searchsorted(means, mean) + 0.5) / (resamples + 1.0)
    bias = float(special.ndtri(below))
    lean = float((off**3).sum()) / (6.0 * squares**1.5)
    tails = bias + np.array((-z, z))
    low, high = np.quantile(means, special.ndtr(bias + tails / (1.0 - lean * tails)))
    return float(low), float(high)
