import numpy as np
import pytest

from emcopilot.support import FAMILIES, draw_support, power_law_noise

SHAPE = (96, 128)


def test_families_share_no_generator() -> None:
    assert not set(FAMILIES["training"]) & set(FAMILIES["demo"])


@pytest.mark.parametrize("style", FAMILIES)
def test_every_support_is_a_finite_thickness(style: str) -> None:
    for number, generator in enumerate(FAMILIES[style]):
        thickness = generator(SHAPE, np.random.default_rng(number))
        assert thickness.shape == SHAPE
        assert thickness.dtype == np.float32
        assert np.isfinite(thickness).all()
        assert -0.5 < thickness.min() <= thickness.max() < 5


def test_the_same_seed_draws_the_same_support() -> None:
    first = draw_support("demo", SHAPE, np.random.default_rng(3))
    assert np.array_equal(first, draw_support("demo", SHAPE, np.random.default_rng(3)))
    assert not np.array_equal(
        first, draw_support("demo", SHAPE, np.random.default_rng(4))
    )


def test_noise_follows_its_exponent() -> None:
    field = power_law_noise((256, 256), 3.0, np.random.default_rng(5), coarsest=1)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256) * 256] * 2, indexing="ij"))
    rings = [(8, 12), (32, 48)]
    low, high = (power[(frequency > a) & (frequency < b)].mean() for a, b in rings)
    # Four times the frequency: 4**3 times less power, to the 5 % of some hundred waves.
    assert low / high == pytest.approx(64, rel=0.25)
    assert field.std() == pytest.approx(1, abs=1e-3)
