"""The masks that the verdict is tried on are what they are called."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def worth_of_masks() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("worth_of_masks")
    sys.path.remove(str(BENCHMARKS))


def dots(count: int) -> np.ndarray:
    mask = np.zeros((9, 6 * count), bool)
    mask[3:6] = np.arange(6 * count) % 6 < 3
    return mask


@pytest.mark.parametrize(("count", "left"), [(1, 1), (3, 2), (30, 20)])
def test_a_third_of_the_particles_is_left_out(
    worth_of_masks: ModuleType, count: int, left: int
) -> None:
    thinned = worth_of_masks.without_a_third(dots(count), np.random.default_rng(0))
    assert ndimage.label(thinned)[1] == left


def test_not_the_same_ones_of_every_frame(worth_of_masks: ModuleType) -> None:
    rng = np.random.default_rng(0)
    one, other = (worth_of_masks.without_a_third(dots(30), rng) for _ in range(2))
    assert (one != other).any()
