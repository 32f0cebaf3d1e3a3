"""Models for tests of their way, not of their answers: two small real ones, and paper ones.

A paper model is a whole folder whose weights are no network; a child made of paper runs it by a
threshold that its card names. What is tested with it never looks into weights.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emcopilot.errors import ModelError
from gpu_server import segment, side_segmenter
from gpu_server.inference_child import InferenceSpec, Segmentation


def save_model(folder: Path, seed: int, name: str) -> str:
    """Write a model whose network loads in a moment; return its id."""
    import torch  # not every test run needs it, and it takes seconds

    from models import checkpoint
    from models.npssegnet import Architecture, build

    torch.manual_seed(seed)
    architecture = Architecture(name="unet", encoder="mobilenet_v2", dropout=0.0)
    network = build(architecture)
    card = checkpoint.save(
        folder,
        network,
        name=name,
        architecture=architecture,
        data={"verdict": {"verdict": "promote"}},
        training={"seed": seed},
    )
    return card.model_id


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders by model id; the ids begin with "first" and "second"."""
    root = tmp_path_factory.mktemp("two-models")
    return {
        save_model(root / name, seed, name): root / name
        for seed, name in enumerate(("first", "second"), 1)
    }


def paper_model(folder: Path, name: str, above: float = 2.0) -> Path:
    """Write a folder that looks like a model; `above` is its threshold, in standard deviations."""
    folder.mkdir()
    weights = f"weights of {name}".encode() * 100
    sha256 = hashlib.sha256(weights).hexdigest()
    card = {"model_id": name, "sha256": sha256, "above": above}
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "report.json").write_text('{"figure": 1}')
    (folder / "state.pt").write_text("not part of a model")
    return folder


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, Path]:
    """Three paper models, by id."""
    levels = {"a": 2.0, "b": 1.5, "c": 2.5}
    return {name: paper_model(tmp_path / name, name, at) for name, at in levels.items()}


@pytest.fixture
def judge() -> Callable[..., None]:
    """Write into a paper model's card what its job's report says, as `models.adapt` does."""

    def write(folder: Path, **report: object) -> None:
        card = json.loads((folder / "card.json").read_text())
        data = {"verdict": {"verdict": "promote", **report}}
        (folder / "card.json").write_text(json.dumps({**card, "data": data}))

    return write


class PaperChild:
    """Runs a paper model in this process; one that is spoilt fails as a real one does."""

    device, batch = "paper", 2

    def __init__(self, spec: InferenceSpec) -> None:
        self.folder, self.is_alive = Path(spec.model), True
        self.model_id = ""

    def wait_until_ready(self) -> None:
        card = json.loads((self.folder / "card.json").read_text())
        if "above" not in card:
            raise ModelError("weights do not fit the network its card names")
        self.model_id, self.above = card["model_id"], card["above"]

    def exchange(self, frames: list[np.ndarray]) -> list[Segmentation]:
        if not self.is_alive:
            raise EOFError
        return [self._answer(frame.astype(float)) for frame in frames]

    def _answer(self, pixels: np.ndarray) -> Segmentation:
        inside = pixels > pixels.mean() + self.above * pixels.std()
        found = np.where(inside, 255, 0).astype(np.uint8)
        return Segmentation(found, self.model_id, 0.01, self.device)

    def come_forward(self) -> None:
        """There is no process to rank."""

    def kill(self) -> None:
        self.is_alive = False


@pytest.fixture
def paper_children(monkeypatch: pytest.MonkeyPatch) -> type[PaperChild]:
    """Let every inference child be of paper: real ones take seconds each."""
    monkeypatch.setattr(segment, "InferenceChild", PaperChild)
    monkeypatch.setattr(side_segmenter, "InferenceChild", PaperChild)
    return PaperChild
