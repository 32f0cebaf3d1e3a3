"""What a model was trained on: near to itself, far from other modes, kept over adaptations."""

import shutil

import numpy as np
import pytest
import tifffile

from emcopilot.errors import ModelError
from emcopilot.seen import SEEN_FILE, Seen
from emcopilot.simulate import demo_scene, render_micrograph
from models import checkpoint
from models.look import Looker
from models.seen import seen_of, write_candidate_seen


@pytest.fixture(scope="module")
def looker() -> Looker:
    return Looker.load()


def frames(mode: str, count: int = 4, size: int = 192) -> list[np.ndarray]:
    scene = demo_scene(mode, size=size)  # type: ignore[arg-type]
    return [
        render_micrograph(scene, np.random.default_rng(n)).pixels for n in range(count)
    ]


def test_what_was_trained_on_is_near_and_another_mode_is_far(looker, tmp_path) -> None:
    seen = seen_of(frames("haadf", 12), looker, scales=(1.0,))
    seen.write(tmp_path / SEEN_FILE)
    seen = Seen.read(tmp_path / SEEN_FILE)
    assert seen.distance(looker(frames("haadf", 14)[-1])) < 1.5
    assert seen.distance(looker(frames("bf", 1)[0])) > 2


def test_a_candidate_knows_what_its_incumbent_knew(looker) -> None:
    before = seen_of(frames("haadf", 8), looker, scales=(1.0,))
    both = seen_of(frames("bf", 8), looker, scales=(1.0,), before=before)
    for mode in ("haadf", "bf"):
        assert both.distance(looker(frames(mode, 9)[-1])) < 1.5


def test_doubt_is_measured_on_frames_where_something_is_found(looker) -> None:
    def segment(frame: np.ndarray) -> np.ndarray:
        edge = np.zeros(frame.shape, np.uint8)
        edge[:20], edge[20:25] = 255, 100
        return edge

    seen = seen_of(frames("haadf", 5), looker, scales=(1.0,), segment=segment)
    assert seen.doubt == pytest.approx(0.25)


def test_frames_without_a_look_are_refused(looker) -> None:
    with pytest.raises(ModelError, match="none of 2"):
        seen_of([np.zeros((64, 64))] * 2, looker)


def test_the_shipped_model_knows_both_modes_of_the_demo(looker) -> None:
    seen = Seen.read(checkpoint.find("base") / SEEN_FILE)
    assert seen.features == looker.features
    for mode in ("haadf", "bf"):
        assert seen.distance(looker(frames(mode, 1, 256)[0])) < 1.25


def test_a_candidate_is_given_its_file(looker, random_model, tmp_path) -> None:
    incumbent, trained = tmp_path / "incumbent", random_model
    shutil.copytree(random_model, incumbent)
    before = seen_of(frames("haadf", 8), looker, scales=(1.0,))
    before.write(incumbent / SEEN_FILE)
    files = []
    for number, pixels in enumerate(frames("bf", 4, 96)):
        files.append(tmp_path / f"frame_{number}.tif")
        tifffile.imwrite(files[-1], pixels)
    files.append(tmp_path / "damaged.tif")
    files[-1].write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    write_candidate_seen(tmp_path / "out", trained, incumbent, files)
    seen = Seen.read(tmp_path / "out" / SEEN_FILE)
    assert len(seen.looks) == 8 + 4
    assert seen.scale >= before.scale


def test_a_candidate_without_its_file_is_a_warning(tmp_path, caplog) -> None:
    write_candidate_seen(tmp_path, tmp_path / "none", tmp_path / "gone", [])
    assert "candidate says not" in caplog.text
    assert not (tmp_path / SEEN_FILE).exists()
