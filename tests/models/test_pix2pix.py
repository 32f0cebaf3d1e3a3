"""pix2pix: it learns, it resumes to the very same weights, and it stops when told to."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emcopilot.errors import AdaptationError, ConfigError
from models.checkpoint import load_state
from models.datasets import LabelledFrame, label
from models.gan_settings import GanSettings
from models.gan_training import Buffer, set_learning_rate
from models.pix2pix import _begin, render, train_pix2pix
from models.watch import Cancelled, LogWatch

TINY = GanSettings(
    encoder="resnet18",
    decoder_channels=(16, 8, 8),
    discriminator_encoder="resnet18",
    discriminator_channels=(16, 8, 8),
    noise_channels=1,
    tile_px=32,
    batch=2,
    steps=4,
    buffer=3,
    precision="float32",
    device="cpu",
    report_every=1,
)


class Stopper:
    """A watch that cancels, or dies as `kill` makes it, once some steps are done."""

    def __init__(self, cancel_at: int = 10**9, die_at: int = 10**9) -> None:
        self.cancel_at, self.die_at = cancel_at, die_at
        self.figures: list[dict[str, float]] = []

    def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
        self.figures.append({"step": step, **figures})
        if step >= self.die_at:
            raise KeyboardInterrupt

    def is_cancelled(self) -> bool:
        return bool(self.figures) and self.figures[-1]["step"] >= self.cancel_at


class Untouchable(Sequence[LabelledFrame]):
    """Frames that may be looked at once through, for their hash, and no more."""

    def __init__(self, frames: list[LabelledFrame]) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self):
        return iter(self.frames)

    def __getitem__(self, index):
        raise AssertionError("a tile was cut")


def disc_frames(count: int = 2, side: int = 64) -> list[LabelledFrame]:
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:side, :side]
    mask = (y - side / 2) ** 2 + (x - side / 2) ** 2 <= (side / 4) ** 2
    return [
        label(f"disc{n}", rng.normal(0, 4, mask.shape) + 40.0 * mask, mask)
        for n in range(count)
    ]


def read_lines(directory: Path) -> list[dict[str, float]]:
    text = (directory / "progress.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    for name, values in one.state_dict().items():
        assert torch.equal(values, theirs[name]), name


def test_what_is_painted_becomes_bright_where_the_mask_is(tmp_path: Path) -> None:
    frames, watch = disc_frames(), Stopper()
    settings = TINY.model_copy(update={"steps": 40, "learning_rate": 2e-3})
    generator = train_pix2pix(settings, frames, tmp_path, watch)
    l1 = [line["l1"] for line in watch.figures]
    assert np.mean(l1[-5:]) < 0.5 * l1[0]
    (painted,) = render(generator, [frames[0].mask], seed=1)
    inside, outside = painted[frames[0].mask], painted[~frames[0].mask]
    assert inside.mean() > outside.mean() + 2.0  # the truth is about 4 apart


def test_a_cancelled_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    frames = disc_frames()
    whole = train_pix2pix(TINY, frames, tmp_path / "whole", LogWatch())
    with pytest.raises(Cancelled, match="step 2 of 4"):
        train_pix2pix(TINY, frames, tmp_path / "cut", Stopper(cancel_at=2))
    watch = Stopper()
    resumed = train_pix2pix(TINY, frames, tmp_path / "cut", watch)
    assert [line["step"] for line in watch.figures] == [3, 4]
    assert_same_weights(resumed, whole)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    frames = disc_frames()
    whole = train_pix2pix(TINY, frames, tmp_path / "whole", LogWatch())
    saving = TINY.model_copy(update={"save_every_s": 1e-6})
    with pytest.raises(KeyboardInterrupt):
        train_pix2pix(saving, frames, tmp_path / "cut", Stopper(die_at=3))
    watch = Stopper()
    resumed = train_pix2pix(TINY, frames, tmp_path / "cut", watch)
    assert [line["step"] for line in watch.figures] == [3, 4]
    assert_same_weights(resumed, whole)


def test_a_run_whose_state_a_power_cut_tore_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = disc_frames()
    whole = train_pix2pix(TINY, frames, tmp_path / "whole", LogWatch())
    with pytest.raises(Cancelled):
        train_pix2pix(TINY, frames, tmp_path / "cut", Stopper(cancel_at=2))
    (tmp_path / "cut" / "state.pt").write_bytes(b"")
    again = train_pix2pix(TINY, frames, tmp_path / "cut", LogWatch())
    assert_same_weights(again, whole)
    assert "this training begins anew" in caplog.text


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    frames = disc_frames()
    first = train_pix2pix(TINY, frames, tmp_path, LogWatch())
    again = train_pix2pix(TINY, Untouchable(frames), tmp_path, Stopper(cancel_at=0))
    assert_same_weights(again, first)


def test_a_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    one = TINY.model_copy(update={"steps": 1})
    train_pix2pix(one, disc_frames(), tmp_path, LogWatch())
    other = one.model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(ConfigError, match="other settings"):
        train_pix2pix(other, disc_frames(), tmp_path, LogWatch())
    with pytest.raises(ConfigError, match="other data"):
        train_pix2pix(one, disc_frames(count=3), tmp_path, LogWatch())


def test_the_best_judged_generator_is_kept_and_not_the_last(tmp_path: Path) -> None:
    frames = disc_frames()
    seen: list[dict[str, torch.Tensor]] = []
    verdicts = iter([3.0, 1.0, float("nan"), 2.0])

    def judge(generator: nn.Module) -> float:
        assert not generator.training
        seen.append({k: v.clone() for k, v in generator.state_dict().items()})
        return next(verdicts)

    settings = TINY.model_copy(update={"judge_every": 1})
    with pytest.raises(Cancelled):  # what was best outlives a stop
        train_pix2pix(settings, frames, tmp_path, Stopper(cancel_at=2), judge)
    kept = train_pix2pix(settings, frames, tmp_path, LogWatch(), judge)
    for name, values in kept.state_dict().items():
        assert torch.equal(values, seen[1][name])
    assert not torch.equal(kept.head[-1].weight, seen[3]["head.2.weight"])
    lines = read_lines(tmp_path)
    judged = [(x["step"], x["judged"]) for x in lines if "judged" in x]
    assert judged[:2] == [(1, 3.0), (2, 1.0)]
    assert judged[3] == (4, 2.0)


def test_a_judge_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    frames = disc_frames()
    plain = train_pix2pix(TINY, frames, tmp_path / "plain", LogWatch())
    verdicts = iter([4.0, 3.0, 2.0, 1.0])
    settings = TINY.model_copy(update={"judge_every": 1})

    def judge(generator: nn.Module) -> float:
        torch.rand(5)
        return next(verdicts)

    judged = train_pix2pix(settings, frames, tmp_path / "judged", LogWatch(), judge)
    assert_same_weights(judged, plain)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    frame = disc_frames(count=1)[0]
    broken = LabelledFrame("nan", np.full_like(frame.pixels, np.nan), frame.mask)
    with pytest.raises(AdaptationError, match="last saved state is sound"):
        train_pix2pix(TINY, [broken], tmp_path, LogWatch())
    assert load_state(tmp_path) is None


def test_masks_without_a_particle_are_refused(tmp_path: Path) -> None:
    frame = disc_frames(count=1)[0]
    empty = LabelledFrame("empty", frame.pixels, np.zeros_like(frame.mask))
    with pytest.raises(AdaptationError, match="no particle in any of the 1"):
        train_pix2pix(TINY, [empty], tmp_path, LogWatch())


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let no generator take more than so many tiles; returns what they were given."""
    from models.gan_networks import Generator

    forward, seen = Generator.forward, []

    def limited(generator: Generator, layers: torch.Tensor) -> torch.Tensor:
        seen.append(len(layers))
        if len(layers) > most:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return forward(generator, layers)

    monkeypatch.setattr(Generator, "forward", limited)
    return seen


def test_a_batch_that_memory_does_not_hold_goes_through_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, one = disc_frames(), TINY.model_copy(update={"steps": 1, "batch": 4})
    whole = train_pix2pix(one, frames, tmp_path / "whole", LogWatch())
    seen = small_memory(monkeypatch, most=1)
    parts = train_pix2pix(one, frames, tmp_path / "parts", LogWatch())
    assert seen == [4, 2, 1, 1, 1, 1]
    # Adam's first step is one learning rate in the direction of the gradient: its size tells.
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        is_same = torch.isclose(ours, theirs, atol=2e-5)
        assert is_same.float().mean() > 0.95


def test_memory_too_small_for_one_tile_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_memory(monkeypatch, most=0)
    with pytest.raises(AdaptationError, match="lower tile_px"):
        train_pix2pix(TINY, disc_frames(), tmp_path, LogWatch())


def test_frames_of_any_size_are_rendered_each_with_its_own_grain() -> None:
    generator = _begin(TINY, "").finished()
    masks = [np.zeros((70, 45), np.bool_), np.zeros((70, 45), np.bool_)]
    first, second = render(generator, masks, seed=3)
    assert first.shape == (70, 45)
    assert first.dtype == np.float32
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(render(generator, masks, seed=3)[0], first)
    assert not np.array_equal(render(generator, masks, seed=4)[0], first)


def test_the_learning_rate_holds_and_then_falls_to_zero() -> None:
    run = _begin(TINY.model_copy(update={"steps": 100, "decay_from": 0.6}), "")
    rates: list[float] = []
    for run.step in (0, 59, 80, 99):
        set_learning_rate(run)
        rates.append(run.optimizers["generators"].param_groups[0]["lr"] / 2e-4)
    assert rates == pytest.approx([1.0, 1.0, 0.5, 1 / 40])


def test_the_buffer_shows_old_images_about_half_of_the_time() -> None:
    buffer, rng = Buffer(10), np.random.default_rng(0)
    first = torch.arange(10.0).reshape(10, 1, 1, 1)
    assert torch.equal(buffer.exchange(first, rng), first)
    new = torch.full((200, 1, 1, 1), 99.0)
    new += torch.arange(200.0).reshape(-1, 1, 1, 1)
    shown = buffer.exchange(new, rng)
    assert 60 < (shown != new).sum() < 140
    assert len(buffer.images) == 10
    assert torch.equal(Buffer(0).exchange(new, rng), new)


def test_the_log_tells_how_long_it_will_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = iter([0.0, 10.0, 30.0])
    watch = LogWatch(clock=lambda: next(now_s))
    with caplog.at_level(logging.INFO):
        watch.report("pix2pix", 100, 200, l1=0.5)
        watch.report("pix2pix", 110, 200, l1=0.25)
        watch.report("cyclegan", 1, 9)
    assert [r.getMessage().strip() for r in caplog.records] == [
        "pix2pix step=100 steps=200 eta_s=? l1=0.5",
        "pix2pix step=110 steps=200 eta_s=90 l1=0.25",
        "cyclegan step=1 steps=9 eta_s=?",
    ]
    assert not watch.is_cancelled()
