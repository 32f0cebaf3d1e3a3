"""Models on disk: what was saved comes back, and nothing else is taken for it."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emcopilot.confidence import ParticleConfidence
from emcopilot.errors import ModelError
from models import checkpoint
from models.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    ModelCard,
    load,
    save,
    write_card,
)
from models.npssegnet import Architecture, build


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build().eval()


@pytest.fixture(scope="module")
def saved(
    network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ModelCard]:
    directory = tmp_path_factory.mktemp("model")
    card = save(
        directory,
        network,
        name="test",
        architecture=Architecture(),
        data={"sha256": "none"},
        training={"seed": 0},
    )
    return directory, card


@pytest.fixture
def copied(saved: tuple[Path, ModelCard], tmp_path: Path) -> Path:
    for name in (WEIGHTS_FILE, CARD_FILE):
        (tmp_path / name).write_bytes((saved[0] / name).read_bytes())
    return tmp_path


def edit_card(directory: Path, **changes: object) -> None:
    card = json.loads((directory / CARD_FILE).read_text())
    (directory / CARD_FILE).write_text(json.dumps(card | changes))


def test_a_loaded_network_answers_as_the_saved_one(
    network: torch.nn.Module, saved: tuple[Path, ModelCard]
) -> None:
    loaded, card = load(saved[0])
    frame = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        expected, got = network(frame), loaded(frame)
    # Weights rounded to 11 bits, over some 60 layers whose random errors partly cancel.
    assert (got - expected).abs().mean() < 0.02 * expected.std()
    assert not loaded.training
    assert next(loaded.parameters()).dtype == torch.float32
    assert card == saved[1]


def test_the_id_names_the_weights(saved: tuple[Path, ModelCard]) -> None:
    directory, card = saved
    assert card.model_id == f"test-{card.sha256[:8]}"
    # 26 million weights of two bytes.
    assert (directory / WEIGHTS_FILE).stat().st_size < 60e6


def test_a_card_keeps_the_map_of_confidence_and_need_not_have_one(
    saved: tuple[Path, ModelCard], copied: Path
) -> None:
    fitted = ParticleConfidence(constant=-1.9, per_lead=3.1, per_log_diameter=-1.2)
    write_card(copied, saved[1].model_copy(update={"particle_confidence": fitted}))
    assert load(copied)[1].particle_confidence == fitted
    card = json.loads((copied / CARD_FILE).read_text())
    del card["particle_confidence"]  # as cards were before there was one
    (copied / CARD_FILE).write_text(json.dumps(card))
    assert load(copied)[1].particle_confidence is None


@pytest.mark.parametrize("broken", [{"konstant": -1.9}, {"constant": "NaN"}])
def test_a_broken_map_of_confidence_is_refused(copied: Path, broken: object) -> None:
    edit_card(copied, particle_confidence=broken)
    with pytest.raises(
        ModelError, match=r"(?s)unreadable model card.*particle_confidence"
    ):
        load(copied)


def test_one_changed_byte_is_refused(copied: Path) -> None:
    weights = bytearray((copied / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (copied / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(ModelError, match=r"sha256 .* card expects .* copy both files"):
        load(copied)


def test_cut_weights_are_refused(copied: Path) -> None:
    (copied / WEIGHTS_FILE).write_bytes((copied / WEIGHTS_FILE).read_bytes()[:1000])
    with pytest.raises(ModelError, match="sha256"):
        load(copied)


def test_weights_of_another_network_are_refused(copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS_FILE)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, copied / WEIGHTS_FILE)
    edit_card(copied, sha256=sha256_of(copied / WEIGHTS_FILE))
    with pytest.raises(ModelError, match=r"do not fit the network.*no tensor"):
        load(copied)


def test_a_file_that_is_no_safetensors_is_refused(copied: Path) -> None:
    (copied / WEIGHTS_FILE).write_bytes(b"weights")
    edit_card(copied, sha256=sha256_of(copied / WEIGHTS_FILE))
    with pytest.raises(ModelError, match="not a safetensors file"):
        load(copied)


def sha256_of(path: Path) -> str:
    return checkpoint.hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_preprocessing_is_refused(copied: Path) -> None:
    edit_card(copied, preprocess_version=99)
    with pytest.raises(ModelError, match="preprocessing 99"):
        load(copied)


def test_a_damaged_card_is_refused(copied: Path) -> None:
    (copied / CARD_FILE).write_text('{"model_id": "a"}')
    with pytest.raises(ModelError, match="unreadable model card"):
        load(copied)


def test_missing_weights_are_named(copied: Path) -> None:
    (copied / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match="cannot read weights"):
        load(copied)


def test_an_unknown_model_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model .*shipped models \["):
        load(tmp_path / "nothing")


def test_a_training_state_comes_back_without_pickled_code(tmp_path: Path) -> None:
    assert checkpoint.load_state(tmp_path) is None
    state = {"step": 3, "network": {"a": torch.arange(3.0)}, "settings": "{}"}
    checkpoint.save_state(tmp_path, state)
    loaded = checkpoint.load_state(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 3
    torch.testing.assert_close(loaded["network"], state["network"])


def test_the_shipped_base_model_loads() -> None:
    network, card = load("base")
    assert card.model_id.startswith("npssegnet-base-5-")
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_damaged_state_is_set_aside_and_said_to_be(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save_state(tmp_path, {"step": 3, "weights": torch.zeros(100)})
    path = tmp_path / checkpoint.STATE_FILE
    torn = path.read_bytes()[:kept]
    path.write_bytes(torn)
    assert checkpoint.load_state(tmp_path) is None
    (line,) = caplog.messages
    assert f"damaged path={path}" in line
    assert "begins anew" in line
    assert not path.exists()
    assert path.with_suffix(".damaged").read_bytes() == torn


@pytest.mark.parametrize(
    ("mark", "offset", "byte"),
    [
        (b"PK\x01\x02", 10, 99),  # a way to pack that there is not
        (b"PK\x01\x02", 8, 1),  # encrypted
        (b"PK\x01\x02", 46, 0xFF),  # a name of no known letters
        (b"stepq", 0, 0xFF),
        (b"\x00\x00\x80?", 3, 0x40),  # a weight of 1 becomes 4
    ],
)
def test_a_state_with_a_damaged_byte_is_set_aside(
    tmp_path: Path, mark: bytes, offset: int, byte: int
) -> None:
    checkpoint.save_state(tmp_path, {"step": 3, "weights": torch.ones(100)})
    path = tmp_path / checkpoint.STATE_FILE
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(mark) + offset] = byte
    path.write_bytes(damaged)
    assert checkpoint.load_state(tmp_path) is None
    assert path.with_suffix(".damaged").read_bytes() == damaged


def test_a_whole_state_that_memory_does_not_hold_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_state(tmp_path, {"step": 3})

    def full(*_given: object, **_more: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(ModelError, match="free some memory"):
        checkpoint.load_state(tmp_path)
    assert (tmp_path / checkpoint.STATE_FILE).exists()


def test_a_state_is_on_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / checkpoint.STATE_FILE
    synced: list[tuple[str, bool]] = []

    def sync(handle: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{handle}"), path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    checkpoint.save_state(tmp_path, {"step": 3})
    assert synced == [(f"{tmp_path}/state.part", False), (str(tmp_path), True)]
