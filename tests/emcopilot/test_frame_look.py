"""The statistics say of simulated frames what was put into them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from emcopilot.frame_look import (
    LOOK_WIDTH,
    NETWORK_WIDTH,
    STATISTICS,
    FrameLook,
    measure_statistics,
    ruined,
)
from emcopilot.optics import Mode
from emcopilot.simulate import demo_scene, render_micrograph


def frame(mode: Mode = "haadf", **optics: float) -> np.ndarray:
    scene = demo_scene(mode, size=256)
    scene = replace(scene, optics=replace(scene.optics, **optics))
    return np.asarray(
        render_micrograph(scene, np.random.default_rng(5)).pixels, np.float32
    )


def normal(pixels: np.ndarray) -> np.ndarray:
    """Centre and scale as `models.preprocess` does, to its robust range."""
    low, middle, high = np.percentile(pixels, (0.1, 50, 99.9))
    return ((pixels - middle) / (high - low) * 6.18).astype(np.float32)


def look(pixels: np.ndarray) -> FrameLook:
    statistics = measure_statistics(normal(pixels))
    return FrameLook(np.concatenate([np.zeros(NETWORK_WIDTH, np.float32), statistics]))


def test_polarity_tells_bright_particles_from_dark_ones() -> None:
    assert look(frame("haadf"))["polarity"] > 0.2
    assert look(frame("bf"))["polarity"] < -0.2


def test_polarity_turns_round_when_the_frame_is_inverted() -> None:
    pixels = frame()
    upright, inverted = look(pixels)["polarity"], look(-pixels)["polarity"]
    assert inverted == pytest.approx(-upright, abs=0.02)


def test_a_tenth_of_the_dose_is_more_noise() -> None:
    rise = look(frame(dose=5))["noise"] - look(frame(dose=50))["noise"]
    # sqrt(10) of the counts' noise; the range, by which it is divided, widens with it
    assert 0.2 < rise <= math.log10(math.sqrt(10)) + 0.05


def test_blur_lowers_sharpness() -> None:
    pixels = frame()
    blurred = ndimage.gaussian_filter(pixels, 6)
    assert look(blurred)["sharpness"] < look(pixels)["sharpness"] + math.log10(0.6)


def test_noise_alone_has_no_structure() -> None:
    noise = np.random.default_rng(1).poisson(40, (256, 256)).astype(np.float32)
    assert abs(look(noise)["structure"]) < 0.15
    assert look(frame())["structure"] > 0.6


def test_structures_twice_as_large_are_an_octave_coarser() -> None:
    rng = np.random.default_rng(2)

    def texture(size_px: float) -> np.ndarray:
        return ndimage.gaussian_filter(rng.standard_normal((320, 320)), size_px)

    octaves = look(texture(4))["grain_px"] - look(texture(2))["grain_px"]
    assert octaves == pytest.approx(1.0, abs=0.35)  # bands are an octave wide


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((64, 64), 7, np.uint16), "blank"),
        (np.full((64, 64), np.nan, np.float32), "blank"),
        (np.zeros((8, 8), np.uint8), "blank"),
        (np.where(np.arange(4096).reshape(64, 64) % 3, 255, 9), "saturated"),
        (np.where(np.arange(4096).reshape(64, 64) % 3, 0, 9), "saturated"),
        (np.arange(4096).reshape(64, 64), None),
    ],
)
def test_frames_that_show_nothing_are_ruined(pixels, reason) -> None:
    assert ruined(pixels) == reason


def test_a_look_survives_its_bytes() -> None:
    vector = np.arange(LOOK_WIDTH, dtype=np.float32)
    read = FrameLook.from_bytes(FrameLook(vector).to_bytes())
    assert np.array_equal(read.vector, vector)
    assert read[STATISTICS[0]] == NETWORK_WIDTH


def test_a_look_of_another_release_is_refused() -> None:
    with pytest.raises(ValueError, match="another release"):
        FrameLook.from_bytes(b"\0" * 12)
