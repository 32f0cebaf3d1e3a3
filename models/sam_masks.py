"""Rough masks by Segment Anything: asked at a grid of points, kept where it is sure and alike."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes, nms

from emcopilot.errors import ConfigError
from models.classical_cut import grown

if TYPE_CHECKING:
    from transformers import SamModel, SamProcessor

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SamSettings:
    """How Segment Anything is asked, and which of its answers count.

    Source of the thresholds: Kirillov et al., Segment Anything, ICCV 2023, appendix B.
    """

    points_per_side: int = 32
    points_at_once: int = 64
    least_predicted_iou: float = 0.88
    least_stability: float = 0.92
    """Overlap of the masks cut one logit above and one below."""
    most_overlap: float = 0.7
    """Of two boxes: the one with the lower predicted IoU is dropped."""
    most_covered: float = 0.3
    """Of a frame; what covers more is background."""
    most_of_rim: float = 0.25
    """Of a frame's rim; what holds more is background."""
    most_unlike: float = 3.0
    """Times the median diameter, or a part of it, that a particle may measure."""


def sam_masks(
    frames: Sequence[Frame],
    weights: Path | None,
    settings: SamSettings,
    device: str,
) -> Iterator[Mask]:
    """Yield masks, bool (H, W), of what SAM takes for things and what is alike over the domain.

    Parameters
    ----------
    frames : sequence of float32 arrays, shape (H, W)
        Normalised frames of one domain.
    weights : Path or None
        Folder of SAM's weights as transformers saves them; nothing is ever downloaded.
    settings : SamSettings
    device : str
        Where SAM runs, e.g. "cuda".

    Raises
    ------
    ConfigError
        If weights or transformers are missing.
    """
    network, processor = _load_sam(weights, device)
    answers = [_answers(frame, network, processor, settings) for frame in frames]
    alike = _alike([a for of_frame in answers for a in of_frame], settings.most_unlike)
    for frame, of_frame in zip(frames, answers, strict=True):
        mask = np.zeros(frame.shape, np.bool_)
        for answer in of_frame:
            if id(answer) in alike:
                mask[answer.box] |= answer.piece
        yield mask


@dataclass(frozen=True, slots=True)
class _Answer:
    """One mask of SAM's, cut to its box."""

    box: tuple[slice, slice]
    piece: Mask
    diameter_px: float
    contrast: float
    """Inside minus just outside."""


def _load_sam(weights: Path | None, device: str) -> "tuple[SamModel, SamProcessor]":
    if weights is None or not weights.is_dir():
        raise ConfigError(
            f"no folder of SAM weights at {weights}; expected config.json, model.safetensors and "
            "preprocessor_config.json as transformers saves them: give their folder, or choose "
            '"classical"'
        )
    try:
        from transformers import SamModel, SamProcessor  # noqa: PLC0415, an extra
    except ImportError as error:
        raise ConfigError(
            "rough masks by SAM need transformers: pip install 'emcopilot[sam]', or choose "
            '"classical"'
        ) from error
    try:
        network = SamModel.from_pretrained(weights, local_files_only=True)
        nn.Module.to(network, device)
        processor = SamProcessor.from_pretrained(weights, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{weights} holds no SAM that transformers can load: {str(error).splitlines()[0]}; "
            'copy the whole folder of one SAM model, or choose "classical"'
        ) from error
    return network.eval(), processor


def _answers(
    frame: Frame,
    network: "SamModel",
    processor: "SamProcessor",
    settings: SamSettings,
) -> list[_Answer]:
    """Ask SAM at every point of a grid; returns one mask for each thing it is sure of."""
    low, high = np.percentile(frame, [0.5, 99.5])
    grey = np.clip((frame - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    height, width = frame.shape
    steps = (np.arange(settings.points_per_side) + 0.5) / settings.points_per_side
    points = [[[float(x * width), float(y * height)]] for y in steps for x in steps]
    picture = np.repeat(grey[..., None], 3, axis=2)
    # fmt: off
    asked = processor(picture, input_points=[points], return_tensors="pt")  # pyright: ignore[reportCallIssue]
    # fmt: on
    found: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        seen = network.get_image_embeddings(asked["pixel_values"].to(network.device))
        for some in asked["input_points"].split(settings.points_at_once, dim=1):
            answer = network(
                image_embeddings=seen, input_points=some.float().to(network.device)
            )
            (logits,) = processor.image_processor.post_process_masks(
                answer.pred_masks.cpu(),
                asked["original_sizes"],
                asked["reshaped_input_sizes"],
                binarize=False,
            )
            found.append(
                _sure(logits.flatten(0, 1), answer.iou_scores.cpu().flatten(), settings)
            )
    masks, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not len(masks):
        return []
    kept = nms(masks_to_boxes(masks), scores, settings.most_overlap)
    return [_answer(frame, mask.numpy()) for mask in masks[kept]]


def _sure(
    logits: Tensor, scores: Tensor, settings: SamSettings
) -> tuple[Tensor, Tensor]:
    """Keep the masks (N, H, W) that SAM is sure of, that stand, and that are no background."""
    core, wide = ((logits > level).sum((1, 2)) for level in (1.0, -1.0))
    masks = logits > 0
    rim = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], dim=1)
    keep = (
        (scores >= settings.least_predicted_iou)
        & (core >= settings.least_stability * wide.clamp(min=1))
        & (masks.float().mean((1, 2)) <= settings.most_covered)
        & (rim.float().mean(1) <= settings.most_of_rim)
    )
    return masks[keep], scores[keep]


def _answer(frame: Frame, mask: Mask) -> _Answer:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    around = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in box)
    near = grown(mask[around], 4) & ~mask[around]
    outside = float(frame[around][near].mean()) if near.any() else 0.0
    return _Answer(
        box,
        mask[box].copy(),
        math.sqrt(4 * float(mask.sum()) / math.pi),
        float(frame[mask].mean()) - outside,
    )


def _alike(answers: Sequence[_Answer], most_unlike: float) -> set[int]:
    """Return the ids of answers of the common polarity and about the common size."""
    if not answers:
        return set()
    sign = np.sign(sum(a.contrast * a.diameter_px**2 for a in answers))
    same = [a for a in answers if a.contrast * sign > 0]
    usual = float(np.median([a.diameter_px for a in same])) if same else 1.0
    return {
        id(a) for a in same if 1 / most_unlike <= a.diameter_px / usual <= most_unlike
    }
