from dataclasses import replace

import numpy as np
import pytest

from emcopilot.optics import (
    Backdrop,
    Optics,
    bright_field,
    digitise,
    haadf,
    random_optics,
    uneven_beam,
)

SHAPE = (128, 128)
PLAIN = Optics(
    dose=400, support_contrast=0.5, tail=0, illumination=0, jitter_px=0, line_noise=0,
    read_noise=0, grain=0, inner_contrast=0,
)  # fmt: skip


def backdrop(shape: tuple[int, int] = SHAPE, seed: int = 0) -> Backdrop:
    rng = np.random.default_rng(seed)
    flat = np.ones(shape, np.float32)
    grain = rng.standard_normal(shape, np.float32)
    return Backdrop(flat, grain, grain, np.ones(SHAPE, np.float32))


def half_plane() -> np.ndarray:
    mass = np.zeros(SHAPE, np.float32)
    mass[:, 64:] = 1
    return mass


def test_haadf_adds_the_particle_to_the_support() -> None:
    counts = haadf(half_plane(), backdrop(), PLAIN, np.random.default_rng(1))
    support, particle = counts[:, :50].mean(), counts[:, 78:].mean()
    # Expected 400 * 0.6 and 400 * (0.6 + 1.2); Poisson over 6,400 px knows 0.2 %.
    assert support == pytest.approx(240, rel=0.01)
    assert particle == pytest.approx(720, rel=0.01)
    assert counts[:, :50].var() == pytest.approx(240, rel=0.1)


def test_bright_field_dims_exponentially() -> None:
    counts = bright_field(half_plane(), backdrop(), PLAIN, np.random.default_rng(2))
    film, particle = counts[:, :50].mean(), counts[:, 78:].mean()
    assert film == pytest.approx(400 * np.exp(-0.5), rel=0.01)
    assert particle == pytest.approx(400 * np.exp(-1.7), rel=0.02)


@pytest.mark.parametrize("sign", [-1, 1])
def test_defocus_makes_a_fringe_that_turns_with_its_sign(sign: int) -> None:
    optics = replace(PLAIN, dose=1e5, defocus_px2=sign * 20.0)
    counts = bright_field(half_plane(), backdrop(), optics, np.random.default_rng(3))
    profile = counts.mean(axis=0) / counts[:, 30:45].mean()
    outside = profile[50:63]
    fringe = outside.max() - 1 if sign < 0 else 1 - outside.min()
    assert fringe > 0.02


def test_grain_appears_with_defocus_only() -> None:
    optics = replace(PLAIN, dose=1e6, grain=0.2)
    none = np.zeros(SHAPE, np.float32)
    focus = bright_field(none, backdrop(), optics, np.random.default_rng(4))
    under = replace(optics, defocus_px2=-10.0)
    defocus = bright_field(none, backdrop(), under, np.random.default_rng(4))
    assert defocus.std() > 5 * focus.std()


def test_jitter_moves_lines_but_no_brightness() -> None:
    steady = haadf(half_plane(), backdrop(), PLAIN, np.random.default_rng(5))
    optics = replace(PLAIN, jitter_px=0.5)
    shaken = haadf(half_plane(), backdrop(), optics, np.random.default_rng(5))
    assert shaken.mean() == pytest.approx(steady.mean(), rel=0.01)
    assert shaken[:, 62:66].std(axis=0).max() > 1.2 * steady[:, 62:66].std(axis=0).max()


def test_flyback_brightens_the_left_edge() -> None:
    optics = replace(PLAIN, flyback=0.5)
    counts = haadf(
        np.zeros(SHAPE, np.float32), backdrop(), optics, np.random.default_rng(6)
    )
    assert counts[:, 0].mean() > 1.5 * counts[:, 40:].mean()


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_stored_pixels_saturate_at_their_depth(bits: int, dtype: type) -> None:
    optics = replace(PLAIN, bits=bits, gain=2.0, offset=10.0)
    grey = digitise(np.array([[-100.0, 0.0, 1.4, 1e6]]), optics)
    assert grey.dtype == dtype
    assert grey[0].tolist() == [0, 10, 13, 2**bits - 1]


def test_a_shifted_backdrop_is_the_same_film_elsewhere() -> None:
    canvas = backdrop((140, 140), seed=7)
    seen = canvas.shifted(4.0, 6.0, SHAPE)
    assert np.array_equal(seen.grain, canvas.grain[4:132, 6:134])
    assert np.allclose(seen.relief, canvas.relief[4:132, 6:134])
    between = canvas.shifted(4.5, 6.0, SHAPE).relief
    middle = (canvas.relief[4:132] + canvas.relief[5:133]) / 2
    assert np.allclose(between, middle[:, 6:134], atol=1e-5)


def test_an_uneven_beam_is_never_dark() -> None:
    for seed in range(20):
        assert uneven_beam(SHAPE, 0.5, np.random.default_rng(seed)).min() >= 0.1


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_random_optics_keep_particles_above_the_noise(mode: str) -> None:
    for seed in range(50):
        optics = random_optics(mode, 6.0, np.random.default_rng(seed))
        signal = optics.particle_contrast
        if mode == "haadf":
            noise = np.sqrt(0.2 * (1 + optics.support_contrast) / optics.dose)
        else:
            noise = np.sqrt(np.exp(optics.support_contrast) / optics.dose)
        assert signal > 2 * noise
