"""The split of catalysts by family, and its two folds in bright field."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.box_truth import Boxes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NONE = Boxes(np.empty((0, 4)), np.empty(0))


@pytest.fixture(scope="module")
def arda() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("arda")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("trained_on", ["Pt_carbon", "PtC", ""])
def test_a_fold_trains_on_no_bright_field_family_but_its_own(
    arda: ModuleType, trained_on: str
) -> None:
    bright = ["Cu1", "Cu3", "Pd_silica1", "Pd_silica2", "PtC3", "Cu_silica1"]
    dark = ["PtC1", "PtC2", "Pt_carbon1", "Pt_carbon2"]
    images = [arda.ArdaImage(Path(f"{name}.jpg"), NONE, True) for name in bright]
    images += [arda.ArdaImage(Path(f"{name}.png"), NONE, False) for name in dark]
    training, validation = arda.split_families(images, trained_on)
    assert {i.family for i in training if not i.is_bright} == {trained_on} - {""}
    assert len(training) + len(validation) == len(images)
    for kind in (True, False):
        seen = {i.family for i in training if i.is_bright == kind}
        assert not seen & {i.family for i in validation if i.is_bright == kind}
    assert any(i.is_bright for i in validation)
