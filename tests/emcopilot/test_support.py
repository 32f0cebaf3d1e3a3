import numpy as np
import pytest

from emcopilot.support import FAMILIES, _powder, draw_support, power_law_noise

SHAPE = (96, 128)


def test_families_share_no_generator() -> None:
    assert not set(FAMILIES["training"]) & set(FAMILIES["demo"])


@pytest.mark.parametrize("shape", [(96, 128), (160, 64), (32, 32)])
@pytest.mark.parametrize("style", FAMILIES)
def test_every_support_is_a_finite_thickness(style: str, shape) -> None:
    for generator in dict.fromkeys(FAMILIES[style]):
        for seed in range(5):
            thickness = generator(shape, np.random.default_rng(seed))
            assert thickness.shape == shape
            assert thickness.dtype == np.float32
            assert np.isfinite(thickness).all()
            assert -0.5 < thickness.min() <= thickness.max() < 5


@pytest.mark.parametrize("shape", [(64, 64), (48, 160)])
def test_a_powder_lies_somewhere_and_ends_somewhere_thinner(shape) -> None:
    for seed in range(20):
        thickness = _powder(shape, np.random.default_rng(seed))
        low, high = np.percentile(thickness, [5, 95])
        assert 0 <= low < high
        assert high > 0.8  # scaled so that 1.2 is thick, give or take its roughness


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
