"""What was known before is not lost without a word."""

from pathlib import Path

import numpy as np
import pytest

from models import checkpoint
from models.agreement import agreements
from models.datasets import LabelledFrame
from models.frame_sets import save_frames
from models.npssegnet import Architecture, build
from models.replay import (
    KEPT,
    KEPT_SIDE_PX,
    MOST_DOMAINS,
    REPLAY_FILE,
    Retention,
    keep_replay,
    replay_of,
    retention,
    simulated,
)
from models.verdict import Worth, verdict

SMALL = Architecture(name="unet", encoder="mobilenet_v2", dropout=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(
        folder, build(SMALL), name="small", architecture=SMALL, data={}, training={}
    )
    return folder


@pytest.fixture
def learnt(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that may be given a replay set."""
    folder = tmp_path / "learnt"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def frames(count: int, side: int = 64) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [
        (f"frame{n}", rng.standard_normal((side, side)).astype(np.float32))
        for n in range(count)
    ]


def bright(frame: np.ndarray) -> np.ndarray:
    return frame > 0.5


def test_the_simulated_frames_are_the_same_for_every_job() -> None:
    haadf, bf = simulated("haadf"), simulated("bf")
    assert len(haadf) == len(bf) == 4
    simulated.cache_clear()
    again = simulated("haadf")
    assert all(
        np.array_equal(a.pixels, b.pixels) for a, b in zip(haadf, again, strict=True)
    )
    means = [
        f.pixels[f.mask].mean() - f.pixels[~f.mask].mean() for f in (haadf[0], bf[0])
    ]
    assert means[0] > 0 > means[1]  # bright particles, and dark ones


def test_truth_is_kept_by_who_knows_it_and_lost_by_who_does_not(model: Path) -> None:
    masks = {f.pixels.tobytes(): f.mask for m in ("haadf", "bf") for f in simulated(m)}
    knows = lambda frame: masks[frame.astype(np.float16).tobytes()]  # noqa: E731
    blind = lambda frame: np.zeros(frame.shape, bool)  # noqa: E731
    kept = retention(model, knows, knows)
    assert [one.domain for one in kept] == ["simulated HAADF", "simulated BF"]
    assert not any(one.is_forgotten for one in kept)
    lost = retention(model, knows, blind)
    assert all(one.is_forgotten for one in lost)
    assert "MIoU went from 1.000" in str(lost[0])
    assert not any(one.is_forgotten for one in retention(model, blind, blind))


def test_what_the_incumbent_never_knew_is_not_forgotten() -> None:
    assert not Retention("x", 4, 0.89, 0.2, is_truth=True).is_forgotten
    assert Retention("x", 4, 0.95, 0.93, is_truth=True).is_forgotten
    assert not Retention("x", 4, 0.95, 0.93, is_truth=False).is_forgotten
    assert Retention("x", 4, 0.99, 0.95, is_truth=False).is_forgotten


def test_a_candidate_brings_its_domain_and_those_before(learnt: Path) -> None:
    keep_replay(learnt / REPLAY_FILE, learnt, "one", frames(9, 500), bright)
    kept = replay_of(learnt)
    assert len(kept) == KEPT
    assert kept[0].pixels.shape == (KEPT_SIDE_PX, KEPT_SIDE_PX)
    keep_replay(learnt / REPLAY_FILE, learnt, "a|b", frames(2), bright)
    one, other = retention(learnt, bright, bright)[2:]
    assert (one.domain, one.frames) == ("one", KEPT)
    assert (other.domain, other.frames) == ("a b", 2)
    assert other.incumbent > 0.99


def test_a_domain_that_is_learnt_again_replaces_itself_and_many_are_bounded(
    learnt: Path,
) -> None:
    for number in range(MOST_DOMAINS + 2):
        keep_replay(learnt / REPLAY_FILE, learnt, f"d{number}", frames(2), bright)
    keep_replay(learnt / REPLAY_FILE, learnt, "d5", frames(1), bright)
    names = [frame.name for frame in replay_of(learnt)]
    assert len({name.partition("|")[0] for name in names}) == MOST_DOMAINS
    assert "d1|frame0" not in names
    assert [name for name in names if name.startswith("d5")] == ["d5|frame0"]


def test_two_domains_of_one_name_keep_their_frames_and_a_renamed_one_has_one_set(
    learnt: Path,
) -> None:
    def keep(name: str, key: str, count: int) -> None:
        keep_replay(learnt / REPLAY_FILE, learnt, name, frames(count), bright, key=key)

    keep("HAADF", "domain 1 of 5.000", 2)
    keep("HAADF", "domain 2 of 9.000", 3)
    learnt_before = retention(learnt, bright, bright)[2:]
    assert [(one.domain, one.frames) for one in learnt_before] == [
        ("HAADF", 2), ("HAADF", 3),
    ]  # fmt: skip
    keep("gold on | carbon", "domain 1 of 5.000", 4)
    renamed = retention(learnt, bright, bright)[2:]
    assert [(one.domain, one.frames) for one in renamed] == [
        ("HAADF", 3), ("gold on   carbon", 4),
    ]  # fmt: skip


def test_a_set_of_an_earlier_release_stays_beside_a_domain_of_its_name(
    learnt: Path,
) -> None:
    rng = np.random.default_rng(3)
    old = [
        LabelledFrame(f"HAADF|old{n}", pixels.astype(np.float16), bright(pixels))
        for n, pixels in enumerate(rng.standard_normal((2, 64, 64)))
    ]
    save_frames(learnt / REPLAY_FILE, old)
    keep_replay(
        learnt / REPLAY_FILE, learnt, "HAADF", frames(3), bright, key="domain 7"
    )
    found = retention(learnt, bright, bright)[2:]
    assert [(one.domain, one.frames) for one in found] == [("HAADF", 2), ("HAADF", 3)]
    keep_replay(learnt / REPLAY_FILE, learnt, "HAADF", frames(1), bright)
    found = retention(learnt, bright, bright)[2:]
    assert [(one.domain, one.frames) for one in found] == [("HAADF", 3), ("HAADF", 1)]


def test_a_candidate_that_forgets_is_doubtful_and_says_of_what() -> None:
    good = Worth(0.8, 1.0, 0.9, 0.9, 0.2)
    poor = Worth(0.5, 1.0, 0.9, 0.9, 0.2)
    told = {"fidelity": 0.95, "synthetic_gain": 0.1}
    assert verdict(good, poor, poor, **told).word == "promote"
    forgetful = verdict(good, poor, poor, **told, forgotten=["on 4 frames of BF"])
    assert forgetful.word == "doubtful"
    assert "forgets: on 4 frames of BF" in forgetful.reasons


def test_two_models_are_compared_particle_by_particle() -> None:
    frame = np.zeros((64, 64), np.float32)
    y, x = np.ogrid[:64, :64]
    frame[np.hypot(y - 20, x - 20) < 10] = 1
    frame[np.hypot(y - 63, x - 45) < 8] = 1  # cut by the border
    (both,) = agreements(
        [("f", frame)], lambda f: f > 0.5, lambda f: np.zeros(f.shape, bool)
    )
    assert both.incumbent.particles == 2
    assert both.incumbent.mean_diameter_px == pytest.approx(20, abs=1)
    assert (both.candidate.particles, both.candidate.mean_diameter_px) == (0, None)
    assert both.iou == 0
    (same,) = agreements([("f", frame)], lambda f: f > 2, lambda f: f > 2)
    assert same.iou == 1
