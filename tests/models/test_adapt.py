"""The whole recipe on a small simulated domain: it leaves a candidate, and can be stopped."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from emcopilot.errors import AdaptationError, ConfigError
from emcopilot.simulate import demo_scene, render_micrograph
from models import checkpoint, replay
from models.adapt import adapt, sources
from models.adapt_command import main
from models.adapt_settings import AdaptSettings, chosen_job
from models.datasets import LabelledFrame
from models.npssegnet import Architecture, build
from models.replay import replay_of
from models.watch import Cancelled

pytestmark = pytest.mark.timeout(
    900
)  # a whole job, on a slow machine that is busy otherwise

SMALL = Architecture(encoder="resnet18")
GAN = {
    "steps": 3,
    "tile_px": 64,
    "batch": 2,
    "report_every": 1,
    "judge_every": 3,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def incumbent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("incumbent")
    checkpoint.save(
        directory, build(SMALL), name="small", architecture=SMALL, data={}, training={}
    )
    return directory


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for number in range(7):
        scene = demo_scene("bf", size=128)
        frame = render_micrograph(scene, np.random.default_rng((4, number)))
        tifffile.imwrite(folder / f"frame{number}.tif", frame.pixels)
    return folder


def job(frames: Path, incumbent: Path, out: Path, **given: object) -> AdaptSettings:
    training = {
        "steps": 3,
        "tile_px": 64,
        "batch": 2,
        "report_every": 1,
        "centre_edges": False,  # half a minute; see test_train_segmenter.py
    }
    wanted = {
        "frames": frames,
        "out": out,
        "preset": "quick",
        "model": str(incumbent),
        "rough": "classical",
        "synthetic": 8,
        "side_px": 96,
        "rehearsal": 0.0,
        "device": "cpu",
        "pix2pix": GAN,
        "cyclegan": GAN,
        "train": training | {"precision": "float32", "save_every_s": 1e6},
    }
    return chosen_job(None, wanted | given)


def test_a_domain_is_learnt_from_synthetic_frames_and_from_its_own(
    frames: Path, incumbent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.adapt.REHEARSED", 2)  # a minute to draw all, twice
    wanted = job(frames, incumbent, tmp_path, rehearsal=0.5, real=0.4)
    one = LabelledFrame("one", np.zeros((64, 64), np.float16), np.ones((64, 64), bool))
    other = replace(one, name="other")
    made, real, known = sources(wanted, [one], [other])
    assert (made.frames, real.frames) == ([one], [other])
    assert [made.share, real.share, known.share] == pytest.approx([0.3, 0.2, 0.5])
    alone = sources(wanted, [one])
    assert [source.share for source in alone] == pytest.approx([0.5, 0.5])


class Stopping:
    """Cancels at a step of a stage, as an operator does."""

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step = stage, step
        self.is_due = False
        self.stages: list[str] = []

    def report(self, stage: str, step: int, steps: int, **figures: float) -> None:
        self.stages.append(stage)
        self.is_due = (stage, step) == (self.stage, self.step)

    def is_cancelled(self) -> bool:
        return self.is_due


@pytest.fixture(scope="module", autouse=True)
def short_replay() -> Iterator[None]:
    """One frame of each mode: what a replay says is in test_replay.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "OF_A_MODE", 1)
        replay.simulated.cache_clear()
        yield
    replay.simulated.cache_clear()


@pytest.fixture(scope="module")
def whole(
    frames: Path, incumbent: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("job") / "whole"
    adapt(job(frames, incumbent, out))
    return out


def test_a_job_leaves_a_model_its_verdict_and_a_picture(
    whole: Path, incumbent: Path
) -> None:
    network, card = checkpoint.load(whole)
    assert card.architecture == SMALL
    assert not network.training
    report = json.loads((whole / "round-1" / "report.json").read_text())
    assert report["verdict"] in {"promote", "doubtful", "reject"}
    assert card.data["verdict"] == report
    # Of any other model the verdict says nothing: promotion looks whether this one is live.
    assert report["incumbent"] == checkpoint.load(incumbent)[1].model_id
    assert 0 <= report["fidelity_second"] <= 1
    assert report["second"]["inception_score"] is None  # not computed, and said so
    with Image.open(whole / "round-1" / "report.png") as picture:
        assert min(picture.size) > 200
    assert len(report["agreement"]["frames"]) == 2
    assert [one["domain"] for one in report["replay"]] == [
        "simulated HAADF", "simulated BF",
    ]  # fmt: skip
    assert len(replay_of(whole)) == 2
    assert (whole / "report.json").exists()


def test_a_job_shows_what_its_stages_made(whole: Path) -> None:
    names = sorted(path.name for path in (whole / "samples").iterdir())
    assert names == [
        "1-1-rough-masks.png", "1-2-first-generation.png", "1-3-second-generation.png",
    ]  # fmt: skip


def test_a_finished_job_returns_at_once(
    whole: Path, frames: Path, incumbent: Path
) -> None:
    watch = Stopping("", 0)
    card = adapt(job(frames, incumbent, whole), watch)
    assert card == checkpoint.load(whole)[1]
    assert not watch.stages


def test_a_stopped_job_goes_on_to_the_same_weights(
    whole: Path, frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        adapt(job(frames, incumbent, tmp_path), Stopping("cyclegan", 2))
    assert not (tmp_path / checkpoint.CARD_FILE).exists()  # no candidate yet
    again = Stopping("train", 3)  # the last step: what comes after it is not resumed
    with pytest.raises(Cancelled, match="before evaluate"):
        adapt(job(frames, incumbent, tmp_path), again)
    trained, wanted = (
        checkpoint.load(out / "round-1" / "train")[1] for out in (tmp_path, whole)
    )
    assert trained.sha256 == wanted.sha256
    assert "cyclegan" in again.stages
    assert not (tmp_path / checkpoint.CARD_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pix2pix", "cyclegan", "train"])
def test_a_stopped_job_ends_as_one_that_was_not(
    stage: str, whole: Path, frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        adapt(job(frames, incumbent, tmp_path), Stopping(stage, 2))
    again = Stopping("", 0)
    card = adapt(job(frames, incumbent, tmp_path), again)
    assert card.sha256 == checkpoint.load(whole)[1].sha256
    assert stage in again.stages


def test_the_folder_of_another_job_is_refused(
    whole: Path, frames: Path, incumbent: Path
) -> None:
    with pytest.raises(ConfigError, match=r"other settings .*seed"):
        adapt(job(frames, incumbent, whole, seed=5))


def test_a_moved_folder_is_the_same_job(
    whole: Path, frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    for name, folder in (("frames", frames), ("start", incumbent), ("out", whole)):
        shutil.copytree(folder, tmp_path / name)
    card = adapt(job(tmp_path / "frames", tmp_path / "start", tmp_path / "out"))
    assert card == checkpoint.load(whole)[1]


def test_another_model_in_the_same_place_is_another_job(
    whole: Path, frames: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    checkpoint.save(
        tmp_path, build(SMALL), name="other", architecture=SMALL, data={}, training={}
    )
    with pytest.raises(ConfigError, match=r"other models: got .*other-"):
        adapt(job(frames, tmp_path, whole))


def test_an_identity_that_somebody_edited_is_refused(
    whole: Path, frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for text in ("{}", "[1]", "no json"):
        (out / "job.json").write_text(text)
        with pytest.raises(ConfigError, match=r"changed|cannot be read"):
            adapt(job(frames, incumbent, out))


def test_two_jobs_do_not_work_in_one_folder(
    whole: Path, frames: Path, incumbent: Path
) -> None:
    with (whole / "job.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AdaptationError, match="another job is working"):
            adapt(job(frames, incumbent, whole))


def test_a_model_that_no_job_made_is_not_taken_for_a_result(
    frames: Path, incumbent: Path
) -> None:
    before = sorted(path.name for path in incumbent.iterdir())
    with pytest.raises(ConfigError, match="no job made"):
        adapt(job(frames, incumbent, incumbent))
    after = {path.name for path in incumbent.iterdir()} - {"job.lock"}
    assert sorted(after) == before


def test_one_frame_in_two_formats_is_refused(
    frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "doubled"
    folder.mkdir()
    for path in frames.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    Image.new("L", (128, 128)).save(folder / "frame3.png")
    with pytest.raises(ConfigError, match="frame3 more than once"):
        adapt(job(folder, incumbent, tmp_path / "out"))


def test_too_few_frames_are_refused_before_anything_is_made(
    frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(frames.iterdir())[:4]:
        (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(AdaptationError, match="holds 4 frames"):
        adapt(job(few, incumbent, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_blank_and_broken_frames_are_left_out_and_named(
    frames: Path, incumbent: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in frames.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tifffile.imwrite(folder / "blank.tif", np.full((128, 128), 7, np.uint16))
    (folder / "broken.tif").write_bytes(b"no image at all")
    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        adapt(job(folder, incumbent, out), Stopping("pix2pix", 1))
    note = json.loads((out / "round-1" / "rough.json").read_text())
    assert {"blank.tif", "broken.tif"} <= note["left_out"].keys()
    assert "alike" in note["left_out"]["blank.tif"]


def test_the_command_says_what_came_of_it(
    whole: Path,
    frames: Path,
    incumbent: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = job(frames, incumbent, whole).model_dump(mode="json", exclude_none=True)
    lines = [
        f"{key} = {json.dumps(v)}" for key, v in given.items() if key not in STAGES
    ]
    for stage in STAGES:
        lines += [f"[{stage}]", *_toml(given[stage])]
    path = tmp_path / "job.toml"
    path.write_text("\n".join(lines))
    assert main([str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model_id"] == checkpoint.load(whole)[1].model_id
    assert answer["verdict"] in {"promote", "doubtful", "reject"}


STAGES = ("pix2pix", "cyclegan", "train")


def _toml(table: dict[str, object]) -> list[str]:
    return [
        f"{key} = {json.dumps(value)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ] + [
        f"{key}.{name} = {json.dumps(inner)}"
        for key, value in table.items()
        if isinstance(value, dict)
        for name, inner in value.items()
    ]
