"""The comparison of networks trusts no run of other settings, and reports what there is so far."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models import curves
from models.checkpoint import ModelCard
from models.npssegnet import Architecture
from models.scores import MarkedParticles

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def networks() -> Iterator[object]:
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("networks")
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def card_of(settings) -> ModelCard:
    """Return the card that training with these settings leaves."""
    training = settings.for_frames(72).model_dump(mode="json", exclude={"architecture"})
    return ModelCard(
        model_id="m", sha256="", preprocess_version=1, code_version="0", licence="MIT",
        architecture=settings.architecture, data={},
        training={**training, "steps_done": 9, "device": "cuda", "edge_offset": None},
    )  # fmt: skip


def test_a_finished_run_of_the_same_settings_is_taken(networks) -> None:
    for network in networks.NETWORKS:
        settings = networks.settings_for(network, 0, "cpu", "auto")
        networks.require_same(card_of(settings), settings, Path("run"))


def test_a_finished_run_of_other_settings_is_refused(networks) -> None:
    settings = networks.settings_for("npssegnet", 0, "cpu", "auto")
    plain = {"architecture": Architecture(dropout=0.0), "epochs": 3.0}
    card = card_of(settings.model_copy(update=plain))
    with pytest.raises(SystemExit, match="choose another --out") as refused:
        networks.require_same(card, settings, Path("run"))
    said = str(refused.value)
    assert "'epochs': 3.0" in said.partition("expected")[0]
    assert "'epochs': 30.0" in said.partition("expected")[2]
    assert "'seed'" not in said  # what is the same is not told


def test_one_seed_is_reported_before_the_next_is_trained(
    networks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = networks.EmpsImage(None, doi="10.1/1", is_core=True)
    labels = np.zeros((64, 64), np.int32)
    labels[20:30, 20:30] = 1
    truth = MarkedParticles(labels)
    validation = [
        networks.Judged(pair, labels, truth, is_small=True, is_faint=True)
        for _ in range(3)
    ]
    found = np.where(labels > 0, 255, 0).astype(np.uint8)
    scores = [[truth.score(str(n), found) for n in range(3)]]
    for network in networks.NETWORKS:
        directory = tmp_path / f"cpu-{network}-4"
        directory.mkdir()
        held_out = {"held_out_loss": 0.1, "held_out_pa": 0.9, "held_out_miou": 0.8}
        curves.record(directory, {"step": 250, **held_out})
    every = dict.fromkeys((*networks.NETWORKS, "otsu"), scores)
    networks.report(tmp_path / "cpu", every, validation, [4])
    assert "NPsSegNet" in capsys.readouterr().out
    written = json.loads((tmp_path / "cpu.json").read_text())
    figure = written["figures"]["all/miou/unetplusplus"]
    assert (figure["mean"], figure["n_seeds"]) == (1.0, 1)
    assert (tmp_path / "cpu.png").exists()
    assert (tmp_path / "cpu-curves.png").exists()
