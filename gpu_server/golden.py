"""The self-test of a model: three simulated frames that every model must make sense of.

What it makes of them is kept and travels with an exported model: where it is imported, the very
same masks must come out, or engine and weights do not belong together.
"""

import io
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import ModelError
from emcopilot.simulate import demo_scene, render_micrograph
from gpu_server.inference_child import Segmentation
from gpu_server.model_files import UnfitModelError

Mask = NDArray[np.bool_]
Masks = dict[str, Mask]
Segment = Callable[[NDArray[np.generic]], Awaitable[Segmentation]]

SIDE_PX = 256
SAME_IOU = 0.98
"""Engines round differently; a mask that differs more is another model's."""
MAX_BYTES = 2**20

_SEED = 20_251_127
_EMPTY = "empty"


@lru_cache(maxsize=1)
def golden_frames() -> dict[str, NDArray[np.generic]]:
    """Return the frames by name, each (256, 256): HAADF, BF, and a field without particles."""
    bright, dark = (demo_scene(mode, size=SIDE_PX) for mode in ("haadf", "bf"))
    nothing = replace(bright, population=replace(bright.population, count=0))
    scenes = {"haadf": bright, "bf": dark, _EMPTY: nothing}
    return {
        name: render_micrograph(scene, np.random.default_rng(_SEED)).pixels
        for name, scene in scenes.items()
    }


async def self_test(segment: Segment, expected: Masks | None = None) -> Masks:
    """Let a model segment the golden frames.

    Parameters
    ----------
    segment : callable
        Runs the model on one frame; answers that are not finite it refuses itself.
    expected : dict of bool arrays, shape (256, 256), optional
        What the model made of them where it comes from.

    Returns
    -------
    dict of bool arrays, shape (256, 256)
        Its masks, by the frames' names.

    Raises
    ------
    UnfitModelError
        If it cannot run, says the same of every pixel, or its masks are not those expected.
    """
    masks: Masks = {}
    for name, pixels in golden_frames().items():
        try:
            probability = (await segment(pixels)).probability
        except ModelError as error:
            raise UnfitModelError(
                f"self-test: the golden frame {name!r} cannot be segmented: {error}"
            ) from error
        # An empty field may well be empty everywhere.
        if name != _EMPTY and probability.min() == probability.max():
            raise UnfitModelError(
                f"self-test: the model says {probability.flat[0]}/255 of every pixel of the "
                f"golden frame {name!r}, which shows particles; its weights are damaged"
            )
        masks[name] = probability >= 128
    if expected is not None and (iou := overlap(masks, expected)) < SAME_IOU:
        raise UnfitModelError(
            f"self-test: the masks of the golden frames overlap with those the model came with "
            f"to {iou:.3f}, expected {SAME_IOU} or more; weights or engine differ: export again"
        )
    return masks


def overlap(ours: Masks, theirs: Masks) -> float:
    """Return the IoU of two sets of masks, all pixels together; 1 where both are empty."""
    union = sum(np.count_nonzero(ours[name] | theirs[name]) for name in ours)
    both = sum(np.count_nonzero(ours[name] & theirs[name]) for name in ours)
    return both / union if union else 1.0


def write_masks(path: Path, masks: Masks) -> None:
    """Replace the file of a model's golden masks in one step.

    Raises
    ------
    ModelError
        If the disk does not take it.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(masks_bytes(masks))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(
            f"cannot write {path}: {error.strerror}; is the disk full?"
        ) from error


def masks_bytes(masks: Masks) -> bytes:
    """Return masks as the bytes of an npz file."""
    target = io.BytesIO()
    np.savez(target, allow_pickle=False, **masks)
    return target.getvalue()


def read_masks(data: bytes) -> Masks:
    """Read what `masks_bytes` wrote, believing nothing of it.

    Raises
    ------
    UnfitModelError
        If it is anything but three masks of the golden frames' size.
    """
    wanted = {f"{name}.npy" for name in golden_frames()}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if {entry.filename for entry in entries} != wanted or any(
                entry.file_size > MAX_BYTES for entry in entries
            ):
                raise ValueError(f"expected {sorted(wanted)}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            masks = {name: arrays[name] for name in golden_frames()}
    except (ValueError, OSError, MemoryError, zipfile.BadZipFile, KeyError) as error:
        raise UnfitModelError(
            f"golden.npz is not the masks of the golden frames: {error}"
        ) from error
    for name, mask in masks.items():
        if mask.shape != (SIDE_PX, SIDE_PX) or mask.dtype != np.bool_:
            raise UnfitModelError(
                f"golden.npz: mask {name!r} is {mask.shape} {mask.dtype}, expected "
                f"({SIDE_PX}, {SIDE_PX}) bool"
            )
    return masks
