"""Training: it learns, it resumes to the very same weights, and it refuses nonsense early."""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from emcopilot.errors import ConfigError, ModelError
from models.augmentation import Source
from models.checkpoint import load, load_state, save_state
from models.datasets import LabelledFrame, label
from models.npssegnet import NPSSEGNET, Architecture, last_convolution
from models.train_segmenter import main, train
from models.train_settings import (
    PRESETS,
    Recipe,
    TrainSettings,
    chosen_settings,
    network_name,
)
from models.training import Run, blend, learn, set_learning_rate
from models.watch import Cancelled

SMALL = Architecture(encoder="mobilenet_v2")
"""The same network with a quarter of the weights: a run is mostly their saving and hashing."""
RESNET = Architecture(encoder="resnet18")
TINY = TrainSettings(
    architecture=SMALL, steps=3, batch=2, tile_px=32, precision="float32", device="cpu",
    report_every=1,
)  # fmt: skip


def disc_frames(count: int = 3, side: int = 64) -> list[LabelledFrame]:
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:side, :side]
    mask = (y - side / 2) ** 2 + (x - side / 2) ** 2 <= (side / 4) ** 2
    return [
        label(f"disc{n}", rng.normal(0, 4, mask.shape) + 60.0 * mask, mask)
        for n in range(count)
    ]


class Interrupted(Sequence[LabelledFrame]):
    """Frames that are pulled away after some draws, as `kill` does to a run."""

    def __init__(self, frames: list[LabelledFrame], draws: int) -> None:
        self.frames, self.draws = frames, draws

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index):
        self.draws -= 1
        if self.draws < 0:
            raise KeyboardInterrupt
        return self.frames[index]


def progress(directory: Path) -> Iterator[dict[str, float]]:
    for line in (directory / "progress.jsonl").read_text().splitlines():
        yield json.loads(line)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    frames = disc_frames()
    whole = train(TINY, [Source(frames)], tmp_path / "whole")
    saving = TINY.model_copy(update={"save_every_s": 1e-6})
    with pytest.raises(KeyboardInterrupt):
        train(saving, [Source(Interrupted(frames, draws=5))], tmp_path / "cut")
    resumed = train(TINY, [Source(frames)], tmp_path / "cut")
    assert resumed.sha256 == whole.sha256
    assert [line["step"] for line in progress(tmp_path / "cut")] == [1, 2, 3]


def test_the_loss_falls_on_what_it_sees_again() -> None:
    update = {"architecture": RESNET, "learning_rate": 1e-3}
    settings = TINY.model_copy(update=update)
    run = Run(settings)
    tiles = torch.randn(2, 1, 32, 32)
    masks = (tiles[:, 0] > 0.5).long()
    losses = [learn(run, tiles, masks) for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    settings = TINY.model_copy(update={"steps": 1})
    train(settings, [Source(disc_frames())], tmp_path)
    with pytest.raises(ModelError, match="other settings"):
        train(TINY.model_copy(update={"seed": 5}), [Source(disc_frames())], tmp_path)


def test_a_run_of_before_tiles_weighed_alike_goes_on_as_it_began(
    tmp_path: Path,
) -> None:
    run = Run(TINY.model_copy(update={"areas_over": "batch", "centre_edges": False}))
    run.step = 2
    run.save_state(tmp_path)
    state = load_state(tmp_path)
    saved = json.loads(state["settings"])
    del saved["areas_over"]  # as it was written then
    save_state(tmp_path, state | {"settings": json.dumps(saved)})
    with pytest.raises(ModelError, match="other settings"):
        Run(TINY.model_copy(update={"centre_edges": False})).resume(tmp_path)
    again = Run(run.settings)
    again.resume(tmp_path)
    assert again.step == 2


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    run = Run(TINY)
    with pytest.raises(ModelError, match="lower the learning rate"):
        learn(run, torch.full((2, 1, 32, 32), torch.nan), torch.ones(2, 32, 32))


def test_the_learning_rate_rises_and_falls_with_progress() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.0)
    settings = TrainSettings(learning_rate=1.0, warm_up=0.1)
    rates: list[float] = []
    for part in (0.0, 0.1, 0.55, 1.0):
        set_learning_rate(optimizer, settings, part)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01 / 0.11, 1.0, 0.5, 0.0], abs=1e-9)


def test_the_papers_rate_falls_by_a_tenth_every_five_epochs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.0)
    settings = PRESETS["paper"]
    for epoch, drops in ((0, 0), (4.99, 0), (5, 1), (75, 15), (149, 29)):
        set_learning_rate(optimizer, settings, epoch / 150)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-4 * 0.9**drops)


def test_the_papers_preset_is_the_papers() -> None:
    paper = PRESETS["paper"]
    assert (paper.epochs, paper.batch, paper.tile_px) == (150, 4, 512)
    assert (paper.learning_rate, paper.weight_decay) == (3e-4, 5e-4)
    assert paper.for_frames(72).steps == 150 * 72 / 4


def test_file_and_command_line_are_laid_over_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text("epochs = 30\nbatch = 8\n")
    settings = chosen_settings("paper", file, {"batch": 2, "seed": None})
    assert (settings.epochs, settings.batch, settings.tile_px) == (30, 2, 512)
    assert settings.schedule == "steps"


def test_the_budget_of_the_upper_layer_counts(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text("minutes = 5\n")
    assert chosen_settings("standard", file, {"epochs": 2}).minutes is None
    assert chosen_settings("standard", file, {}).minutes == 5
    with pytest.raises(ConfigError, match="give epochs"):
        chosen_settings("paper", None, {"steps": 10})


@pytest.mark.parametrize("name", ["unet", "deeplabv3plus"])
def test_a_baseline_keeps_the_files_dropout_and_is_shown_no_local_contrast(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / "train.toml"
    file.write_text("[architecture]\ndropout = 0.3\n")
    named = {"architecture": {"name": name}}
    baseline = Architecture(name=name, dropout=0.3)
    assert chosen_settings("standard", file, named).architecture == baseline
    file.write_text(f'[architecture]\nname = "{name}"\ndropout = 0.3\n')
    assert chosen_settings("standard", file, {}).architecture == baseline


def test_local_contrast_that_the_file_asks_for_is_shown_to_a_baseline(
    tmp_path: Path,
) -> None:
    file = tmp_path / "train.toml"
    file.write_text('[architecture]\nname = "unetplusplus"\nlocal_contrast_px = 8\n')
    settings = chosen_settings("standard", file, {"architecture": {"name": "unet"}})
    assert settings.architecture == Architecture(name="unet", local_contrast_px=8)


def test_unetplusplus_is_npssegnet_in_ours_and_plain_in_the_papers_preset() -> None:
    named = {"architecture": {"name": "unetplusplus"}}
    for overrides in ({}, named, {**named, "steps": 10}):
        ours = chosen_settings("standard", None, overrides).architecture
        assert ours == NPSSEGNET
    plain = Architecture(name="unetplusplus", dropout=0.0, local_contrast_px=0)
    for overrides in ({}, named):
        assert chosen_settings("paper", None, overrides).architecture == plain


def test_a_model_is_named_after_its_network() -> None:
    assert network_name(NPSSEGNET) == "npssegnet"
    assert network_name(PRESETS["paper"].architecture) == "unetplusplus"
    assert network_name(Architecture(name="unet", local_contrast_px=8)) == "unet"


@pytest.mark.parametrize("name", ["unet", "deeplabv3plus"])
def test_the_baselines_train_with_the_same_trainer(name: str, tmp_path: Path) -> None:
    small = SMALL.model_copy(update={"name": name})
    update = {"architecture": small, "steps": 1}
    settings = TINY.model_copy(update=update)
    card = train(settings, [Source(disc_frames())], tmp_path)
    network, loaded = load(tmp_path)
    assert loaded.architecture.name == name
    assert loaded.model_id == f"{name}-{card.sha256[:8]}"
    assert loaded.sha256 == card.sha256
    assert network(torch.zeros(1, 1, 64, 96)).shape == (1, 2, 64, 96)


def test_a_run_starts_from_the_weights_of_a_model(tmp_path: Path) -> None:
    one = TINY.model_copy(update={"steps": 1, "centre_edges": False})
    first = train(one, [Source(disc_frames())], tmp_path / "first")
    network, _ = load(tmp_path / "first")
    run = Run(TINY.model_copy(update={"start": str(tmp_path / "first")}))
    for key, value in network.state_dict().items():
        assert torch.equal(run.network.state_dict()[key], value), key
    assert run.started_from == first.model_id


def test_edges_are_centred_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.train_segmenter.edge_offset", lambda *_: 1.0)
    frames = disc_frames()
    card = train(TINY, [Source(frames)], tmp_path, held_out=frames[:1])
    state = load_state(tmp_path)
    network, _ = load(tmp_path)
    before = list(state["average"].values())[-1]  # the last convolution's bias
    shift = last_convolution(network).bias - before
    assert shift.tolist() == pytest.approx([0.5, -0.5], abs=1e-6)
    assert card.training["edge_offset"] == 1.0


def test_a_run_on_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    one = TINY.model_copy(update={"steps": 1})
    frames = [Source(disc_frames())]
    train(one, frames, tmp_path, recipe=Recipe(data={"sha256": "a"}))
    with pytest.raises(ModelError, match="other data"):
        train(TINY, frames, tmp_path, recipe=Recipe(data={"sha256": "b"}))


def test_a_run_that_sees_local_contrast_starts_from_one_that_did_not(
    tmp_path: Path,
) -> None:
    narrow = TINY.model_copy(update={"architecture": RESNET})
    first = train(narrow, [Source(disc_frames())], tmp_path / "first")
    with_contrast = RESNET.model_copy(update={"local_contrast_px": 16})
    wider = {"start": str(tmp_path / "first"), "architecture": with_contrast}
    second = train(
        TINY.model_copy(update=wider), [Source(disc_frames())], tmp_path / "second"
    )
    assert second.architecture == with_contrast
    assert second.training["start"] == first.model_id
    assert load(tmp_path / "second")[1] == second


def test_weights_of_another_architecture_are_no_start(tmp_path: Path) -> None:
    unet = SMALL.model_copy(update={"name": "unet"})
    update = {"architecture": unet, "steps": 1}
    train(TINY.model_copy(update=update), [Source(disc_frames())], tmp_path)
    with pytest.raises(ConfigError, match="to start from"):
        Run(TINY.model_copy(update={"start": str(tmp_path)}))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_memory_does_not_hold_goes_through_in_parts(
    error: RuntimeError,
) -> None:
    run = Run(TINY.model_copy(update={"batch": 4}))
    forward, seen = run.network.forward, []

    def small_memory(tiles: torch.Tensor) -> torch.Tensor:
        seen.append(len(tiles))
        if len(tiles) > 2:
            raise error
        return forward(tiles)

    run.network.forward = small_memory
    loss = learn(run, torch.randn(4, 1, 32, 32), torch.ones(4, 32, 32))
    assert np.isfinite(loss)
    assert seen == [4, 2, 2]
    assert run.parts == 2


def test_training_keeps_cudnn_and_lets_it_time_its_algorithms() -> None:
    run = Run(TINY)
    forward, seen = run.network.forward, []

    def watched(tiles: torch.Tensor) -> torch.Tensor:
        # PyTorch's context manager of these flags takes cuDNN away unless told otherwise.
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark))
        return forward(tiles)

    run.network.forward = watched
    learn(run, torch.randn(2, 1, 32, 32), torch.ones(2, 32, 32))
    assert seen == [(True, True)]


def test_a_cancelled_training_goes_on_where_it_was(tmp_path: Path) -> None:
    class AfterTwo:
        steps: ClassVar[list[int]] = []

        def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
            self.steps.append(step)
            assert (stage, steps) == ("train", 3)
            assert figures["loss"] > 0

        def is_cancelled(self) -> bool:
            return len(self.steps) == 2

    frames = disc_frames()
    whole = train(TINY, [Source(frames)], tmp_path / "whole")
    with pytest.raises(Cancelled, match="at step 2"):
        train(TINY, [Source(frames)], tmp_path / "cut", watch=AfterTwo())
    resumed = train(TINY, [Source(frames)], tmp_path / "cut")
    assert resumed.sha256 == whole.sha256
    assert AfterTwo.steps == [1, 2]


def test_memory_too_small_for_two_tiles_is_said() -> None:
    run = Run(TINY)

    def no_memory(tiles: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    run.network.forward = no_memory
    with pytest.raises(ModelError, match="lower tile_px"):
        learn(run, torch.randn(2, 1, 32, 32), torch.ones(2, 32, 32))


def test_a_disk_too_small_for_the_run_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr("models.train_segmenter.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match="10 MB free"):
        train(TINY, [Source(disc_frames())], tmp_path)


def test_a_save_that_fails_on_the_way_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    save = Run.save_state

    def full_at_first(run: Run, directory: Path) -> None:
        calls.append(run.step)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        save(run, directory)

    monkeypatch.setattr(Run, "save_state", full_at_first)
    settings = TINY.model_copy(update={"steps": 2, "save_every_s": 1e-6})
    card = train(settings, [Source(disc_frames())], tmp_path)
    assert card.training["steps_done"] == 2
    assert "No space left on device" in caplog.text


def test_the_course_is_a_table_and_a_plot(tmp_path: Path) -> None:
    frames = disc_frames()
    settings = TINY.model_copy(update={"judge_every": 2})
    train(settings, [Source(frames)], tmp_path, held_out=frames[:1])
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert [bool(row["held_out_miou"]) for row in rows] == [False, True, True]
    with Image.open(tmp_path / "curves.png") as plot:
        assert plot.width > 3 * plot.height / 1.2


def test_the_average_moves_by_its_share() -> None:
    average, network = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    torch.nn.init.constant_(network.weight, 3.0)
    network.running_mean.fill_(10.0)
    network.num_batches_tracked.fill_(4)
    blend(average, network, decay=0.75)
    assert average.weight.item() == pytest.approx(1.5)
    assert average.running_mean.item() == pytest.approx(2.5)
    assert average.num_batches_tracked.item() == 4


def test_a_budget_on_the_clock_is_spent_and_not_exceeded_by_much() -> None:
    run = Run(TrainSettings(minutes=2.0, device="cpu"))
    run.step, run.elapsed_s = 10**6, 30.0
    assert run.progress == 0.25
    run.elapsed_s = 500.0
    assert run.progress == 1.0


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for number, frame in enumerate(disc_frames(8)):
        grey = np.clip(frame.pixels.astype(float) * 20 + 128, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(images / f"{number}.png")
        Image.fromarray(frame.mask.astype(np.uint8) * 255).save(masks / f"{number}.png")
    return images, masks


def test_the_command_leaves_a_model_that_loads(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--images", str(folders[0]), "--masks", str(folders[1])]
    budget = ["--steps", "1", "--batch", "2", "--tile-px", "32", "--device", "cpu"]
    assert main([*arguments, "--out", str(out), *budget, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    _, card = load(out)
    assert printed["model_id"] == card.model_id
    names = [*card.data["training"], *card.data["validation"]]
    assert sorted(names) == [str(n) for n in range(8)]
    assert card.training["steps_done"] == 1


def test_masks_without_a_particle_are_refused_before_training(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for mask in folders[1].iterdir():
        Image.new("L", (64, 64)).save(mask)
    arguments = ["--images", str(folders[0]), "--masks", str(folders[1])]
    with pytest.raises(ConfigError, match="no particle in any"):
        main([*arguments, "--out", str(tmp_path / "out"), "--steps", "1"])
