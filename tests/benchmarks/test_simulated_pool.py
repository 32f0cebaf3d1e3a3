"""The pool of simulated frames keeps what it rendered, but never across generators."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "simulated_pool.py"
SPEC = importlib.util.spec_from_file_location("_bench_simulated_pool", PATH)
assert SPEC is not None
assert SPEC.loader is not None
pool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pool)


def test_a_rendered_frame_is_kept_and_loads_with_its_truth(tmp_path: Path) -> None:
    path = pool.render_one(7, 128, tmp_path)
    written = path.stat().st_mtime_ns
    assert pool.render_one(7, 128, tmp_path) == path
    assert path.stat().st_mtime_ns == written
    (frame,) = pool.load_pool([path])
    assert frame.pixels.shape == frame.mask.shape == (128, 128)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_another_generators_frames_are_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pool.render_one(7, 128, tmp_path)
    monkeypatch.setattr(pool, "GENERATOR", pool.GENERATOR + 1)
    theirs = pool.render_one(7, 128, tmp_path)
    assert theirs != ours
    with np.load(ours) as one, np.load(theirs) as other:
        assert np.array_equal(
            one["pixels"], other["pixels"]
        )  # the numbers are the same


def test_every_twelfth_frame_shows_the_support_alone(tmp_path: Path) -> None:
    paths = [pool.render_one(number, 128, tmp_path) for number in range(13)]
    frames = pool.load_pool(paths)
    assert not frames[0].mask.any()
    assert not frames[12].mask.any()
    assert sum(frame.mask.any() for frame in frames[1:12]) >= 9
