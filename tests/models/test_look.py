"""The fixed network tells modes apart and stays where it is."""

import numpy as np
import pytest
from safetensors.numpy import save

from emcopilot.domain import nearest, stacked
from emcopilot.errors import ModelError
from emcopilot.frame_look import LOOK_WIDTH, FrameLook
from emcopilot.simulate import demo_scene, render_micrograph
from models.look import PROJECTION_FILE, Looker, Projection


@pytest.fixture(scope="module")
def looker() -> Looker:
    return Looker.load()


def frames(mode: str, count: int = 4, size: int = 192) -> list[np.ndarray]:
    scene = demo_scene(mode, size=size)  # type: ignore[arg-type]
    return [
        render_micrograph(scene, np.random.default_rng(n)).pixels for n in range(count)
    ]


def test_two_modes_lie_farther_apart_than_frames_of_one(looker) -> None:
    haadf, bf = (stacked([looker(f) for f in frames(m)]) for m in ("haadf", "bf"))
    within = nearest(FrameLook(haadf[0]), haadf[1:])
    across = nearest(FrameLook(haadf[0]), bf)
    assert across > 2 * within


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_gain_and_type_of_the_counts_change_no_look(looker, dtype) -> None:
    (frame,) = frames("haadf", 1)
    as_counts = np.round(frame / frame.max() * 250)
    usual = looker(as_counts.astype(np.float32) * 7 + 3)
    # both are normalised alike; 16 bits, where there are such, round
    assert np.abs(looker(as_counts.astype(dtype)).vector - usual.vector).max() < 0.3


@pytest.mark.parametrize("shape", [(64, 64), (48, 300), (1100, 700)])
def test_any_shape_has_a_look(looker, shape) -> None:
    pixels = np.random.default_rng(1).poisson(30, shape).astype(np.uint16)
    vector = looker(pixels).vector
    assert vector.shape == (LOOK_WIDTH,)
    assert np.isfinite(vector).all()


def test_a_blank_frame_has_none(looker) -> None:
    with pytest.raises(ValueError, match="blank"):
        looker(np.zeros((128, 128), np.uint16))


def test_a_damaged_projection_is_named(tmp_path) -> None:
    path = tmp_path / PROJECTION_FILE
    with pytest.raises(ModelError, match=r"frame_looks\.py"):
        Projection.read(path)
    arrays = {"mean": np.zeros(4, np.float32), "basis": np.zeros((4, 3), np.float32)}
    path.write_bytes(save(arrays))
    with pytest.raises(ModelError, match="expected"):
        Projection.read(path)
