import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from models.predict import predict, predict_together
from models.scales import NATIVE
from models.tiling import MARGIN_PX, Tiling, bucket


def local_network(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand in for a network whose answer depends on 24 px around each pixel."""
    smooth = ndimage.gaussian_filter(tiles[:, 0], (0, 6, 6), mode="reflect", truncate=4)
    return (1.0 / (1.0 + np.exp(-4.0 * smooth))).astype(np.float32)


@pytest.mark.parametrize("shape", [(700, 900), (2048, 300), (513, 512), (640, 640)])
def test_tiles_agree_with_one_pass_without_a_seam(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).normal(100, 10, shape)
    tiling = Tiling(one_pass_px=512, tile_px=512, overlap_px=128, batch=3)
    tiled = predict(pixels, local_network, tiling, NATIVE).astype(int)
    whole = predict(pixels, local_network, Tiling(one_pass_px=4096), NATIVE).astype(int)
    # 24 px of context is well inside the overlap: only rounding is left.
    assert np.abs(tiled - whole).max() <= 2


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 16), (31, 257), (1000, 1200)])
def test_the_answer_has_the_shape_of_the_frame(shape: tuple[int, int]) -> None:
    seen: list[tuple[int, ...]] = []

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(tiles.shape)
        return local_network(tiles)

    assert predict(np.ones(shape, np.uint16), run, scales=NATIVE).shape == shape
    assert all(side % 32 == 0 for side in seen[0][2:])


def test_every_tile_is_equal_and_the_batch_is_respected() -> None:
    sizes: list[tuple[int, ...]] = []

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(tiles.shape)
        return local_network(tiles)

    tiling = Tiling(one_pass_px=256, tile_px=256, overlap_px=64, batch=4)
    predict(np.ones((500, 500)), run, tiling, NATIVE)
    assert {size[1:] for size in sizes} == {(1, 256, 256)}
    assert max(size[0] for size in sizes) <= 4


def test_frames_together_answer_as_frames_alone() -> None:
    rng = np.random.default_rng(2)
    frames = [rng.normal(0, 1, (100, 70)) for _ in range(3)]
    together = predict_together(list(frames), local_network)
    for frame, probability in zip(frames, together, strict=True):
        np.testing.assert_array_equal(probability, predict(frame, local_network))


def test_the_rim_of_the_frame_is_judged_like_its_inside() -> None:
    def blind_at_the_rim(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = np.zeros((len(tiles), *tiles.shape[2:]), np.float32)
        answer[:, 16:-16, 16:-16] = 1
        return answer

    frame = np.random.default_rng(4).normal(0, 1, (500, 460))
    assert predict(frame, blind_at_the_rim, scales=NATIVE).min() == 255


def test_the_usual_camera_sizes_gain_the_margin_and_little_else() -> None:
    padded = [bucket(side + 2 * MARGIN_PX) for side in (512, 1024, 1536)]
    assert padded == [576, 1088, 1600]
    assert bucket(1) == 32
