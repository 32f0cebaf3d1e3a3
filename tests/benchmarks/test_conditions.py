"""The conditions of the robustness benchmark do what they say, and leave the truth true."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage


def load_script(name: str) -> ModuleType:
    """Import a benchmark, which is a script and no package."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


conditions = load_script("conditions")
CLEAN = conditions.CONDITIONS[0]


def named(name: str):
    return next(c for c in conditions.CONDITIONS if c.name == name)


@pytest.mark.parametrize("condition", conditions.CONDITIONS, ids=lambda c: c.name)
def test_every_condition_gives_a_frame_with_truth(condition) -> None:
    pixels, labels = condition.draw("bf", 0)
    assert pixels.shape == labels.shape
    assert pixels.dtype in (np.uint8, np.uint16)
    assert labels.max() >= 3


def test_a_frame_is_the_same_when_drawn_again() -> None:
    for first, again in zip(CLEAN.draw("bf", 3), CLEAN.draw("bf", 3), strict=True):
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "name", ["scan lines", "charging", "letters, scale bar", "saturated"]
)
@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_what_befalls_the_picture_moves_no_particle(name: str, mode: str) -> None:
    _, clean = CLEAN.draw(mode, 1)
    pixels, labels = named(name).draw(mode, 1)
    assert np.array_equal(labels, clean) or name.startswith("letters")
    # Ink only hides: what is left of a particle is of one particle.
    left = np.stack([labels[labels > 0], clean[labels > 0]])
    assert left.min() > 0
    assert len(np.unique(left, axis=1).T) == labels.max()
    inside, outside = np.median(pixels[labels > 0]), np.median(pixels[labels == 0])
    assert (inside > outside) == (mode == "haadf")


def test_sizes_are_those_of_the_name() -> None:
    for name, low, high in (("4-8 px", 3.4, 8.6), ("300 px", 255, 345)):
        _, labels = named(name).draw("haadf", 0)
        inner = labels[1:-1, 1:-1]
        cut = set(np.unique(labels)) - {0}
        cut &= set(np.unique(np.concatenate([labels[0], labels[-1]])))
        cut |= set(np.unique(np.concatenate([labels[:, 0], labels[:, -1]])))
        area = np.bincount(inner.ravel())
        whole = [n for n in range(1, len(area)) if n not in cut]
        diameter = np.sqrt(4 * area[whole] / np.pi)
        assert len(diameter) > 0
        # Pixel counts stray from drawn areas by less than half a pixel's diameter.
        assert ((diameter > low) & (diameter < high)).all()


def test_saturation_flattens_and_few_levels_are_few() -> None:
    pixels, labels = named("saturated").draw("haadf", 0)
    assert (pixels[labels > 0] == pixels.max()).mean() > 0.5
    film, labels = named("saturated").draw("bf", 0)
    assert (film[labels == 0] == film.max()).mean() > 0.5
    eight, _ = named("8-bit, 32 levels").draw("bf", 0)
    assert eight.dtype == np.uint8
    assert len(np.unique(eight)) <= 32


def test_nothing_hangs_in_vacuum() -> None:
    pixels, labels = named("carbon edge").draw("bf", 0)
    smooth = ndimage.gaussian_filter(pixels.astype(np.float32), 3)
    vacuum = smooth > 0.85 * smooth.max()  # film lets 70 % through
    assert vacuum.mean() > 0.1
    assert (labels[vacuum] > 0).mean() < 0.01


def test_an_empty_field_is_empty() -> None:
    pixels, labels = conditions.EMPTY.draw("haadf", 0)
    assert labels.max() == 0
    assert pixels.size == 2**20


def test_a_particle_that_letters_hide_whole_leaves_no_gap_in_the_labels() -> None:
    for number in range(4):
        for mode in ("haadf", "bf"):
            _, labels = named("letters, scale bar").draw(mode, number)
            assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
