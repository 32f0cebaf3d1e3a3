"""Sets of frames come back as they were, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from emcopilot.errors import AdaptationError
from models.datasets import LabelledFrame
from models.frame_sets import load_frames, save_frames
from models.job_folder import kept


def frames() -> list[LabelledFrame]:
    rng = np.random.default_rng(0)
    return [
        LabelledFrame(
            f"frame {n}",
            rng.normal(size=shape).astype(np.float16),
            rng.random(shape) < 0.3,
        )
        for n, shape in enumerate([(40, 33), (17, 64)])
    ]


def test_a_set_comes_back_as_it_was(tmp_path: Path) -> None:
    save_frames(tmp_path / "deep" / "set.npz", frames())
    back = load_frames(tmp_path / "deep" / "set.npz")
    for one, other in zip(frames(), back, strict=True):
        assert one.name == other.name
        assert other.pixels.dtype == np.float16
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set.npz"]


def test_half_a_set_is_no_set(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    save_frames(path, frames())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AdaptationError, match="holds no set of frames"):
        load_frames(path)


def test_a_job_makes_a_damaged_set_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(b"")
    assert [frame.name for frame in kept(path, frames)] == ["frame 0", "frame 1"]
    assert f"made anew reason={path}" in caplog.text
    caplog.clear()
    assert len(kept(path, list)) == 2
    assert caplog.text == ""
