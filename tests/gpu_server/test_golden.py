"""The self-test: what a model must make of three frames, and what it may not."""

import asyncio
import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from emcopilot.errors import ModelError
from gpu_server.golden import (
    SIDE_PX,
    Segment,
    golden_frames,
    masks_bytes,
    overlap,
    read_masks,
    self_test,
)
from gpu_server.inference_child import Segmentation
from gpu_server.model_files import UnfitModelError

Look = Callable[[np.ndarray], np.ndarray]


def told(look: Look) -> Segment:
    async def segment(pixels: np.ndarray) -> Segmentation:
        return Segmentation(look(pixels).astype(np.uint8), "m", 0.0, "cpu")

    return segment


def by_threshold(pixels: np.ndarray) -> np.ndarray:
    return np.where(pixels > pixels.mean() + 2 * pixels.std(), 255, 0)


def test_the_frames_are_the_same_each_time_and_the_empty_one_is_empty() -> None:
    again = dict(golden_frames())
    golden_frames.cache_clear()
    for name, pixels in golden_frames().items():
        assert pixels.shape == (SIDE_PX, SIDE_PX)
        np.testing.assert_array_equal(pixels, again[name])
    assert np.std(again["haadf"]) > 2 * np.std(again["empty"])


def test_a_model_that_finds_what_it_found_elsewhere_passes() -> None:
    masks = asyncio.run(self_test(told(by_threshold)))
    assert masks["haadf"].any()
    again = asyncio.run(self_test(told(by_threshold), read_masks(masks_bytes(masks))))
    assert overlap(masks, again) == 1.0


def test_a_model_that_says_the_same_of_every_pixel_is_refused() -> None:
    with pytest.raises(UnfitModelError, match="128/255 of every pixel"):
        asyncio.run(self_test(told(lambda pixels: np.full(pixels.shape, 128))))


def test_masks_that_differ_from_those_it_came_with_are_refused() -> None:
    masks = asyncio.run(self_test(told(by_threshold)))
    shifted = {name: np.roll(mask, 3, axis=0) for name, mask in masks.items()}
    with pytest.raises(UnfitModelError, match=r"overlap .* expected 0\.98"):
        asyncio.run(self_test(told(by_threshold), shifted))


def test_a_model_that_cannot_run_is_refused() -> None:
    async def broken(_pixels: np.ndarray) -> Segmentation:
        raise ModelError("not finite")

    with pytest.raises(
        UnfitModelError, match=r"'haadf' cannot be segmented: not finite"
    ):
        asyncio.run(self_test(broken))


def npz(**arrays: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.savez(target, allow_pickle=True, **arrays)
    return target.getvalue()


def huge_header() -> bytes:
    target = io.BytesIO()
    header = (
        b"{'descr': '|b1', 'fortran_order': False, 'shape': (1000000, 1000000000), }"
    )
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(target, "w") as archive:
        for name in golden_frames():
            entry = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            archive.writestr(f"{name}.npy", entry)
    return target.getvalue()


GOOD = np.zeros((SIDE_PX, SIDE_PX), np.bool_)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip",
        npz(haadf=GOOD, bf=GOOD),
        npz(haadf=GOOD, bf=GOOD, empty=GOOD[:5]),
        npz(haadf=GOOD, bf=GOOD, empty=GOOD.astype(float)),
        npz(haadf=GOOD, bf=GOOD, empty=np.array([{}], object)),
        npz(haadf=GOOD, bf=GOOD, empty=np.zeros((4096, 4096), np.bool_)),
        huge_header(),
    ],
)
def test_anything_but_three_masks_is_refused(data: bytes) -> None:
    with pytest.raises(UnfitModelError):
        read_masks(data)
