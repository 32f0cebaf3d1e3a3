"""Step D: label-free first masks of a domain's frames, by the incumbent, by SAM or classically.

They need not be precise; shapes and sizes must be right enough to follow. What is certain to harm
is named: frames that show nothing, and what was done in place of what was asked for.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes, nms

from emcopilot.confidence import doubtful_share
from emcopilot.errors import AdaptationError, ConfigError
from emcopilot.labels import label_particles
from models import checkpoint
from models.classical_cut import choose_way, cut, grown, outline, slopes
from models.npssegnet import torch_run
from models.predict import mean_leads
from models.scales import probability_of
from models.tiling import to_uint8

if TYPE_CHECKING:
    from transformers import SamModel, SamProcessor

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]
Maker = Literal["incumbent", "sam", "classical"]

MOST_DOUBT = 0.5
"""Of the incumbent's doubtful share, in the middle of the frames with particles, for its masks to
be taken: beyond, half as many pixels are doubted as are held for particles, no thin rim."""
_MOST_AT_THE_TOP, _MOST_AT_THE_BOTTOM = 0.1, 0.6
"""Shares of a frame at its brightest and its darkest value. Few electrons leave many pixels at
none, so the dark end may hold more."""
_LEAST_SPREAD = 1e-3
_LEAST_SHARP = 0.5
"""Of the domain's median sharpness: outlines twice as wide are out of focus."""
_LEAST_TO_COMPARE = 4


@dataclass(frozen=True, slots=True)
class RoughMasks:
    """Label-free masks of a domain's frames, and what to think of them."""

    masks: tuple[Mask, ...]
    """One per frame, bool (H, W); empty where nothing was found."""
    how: Maker
    """Who made them in the end."""
    why: str
    """What was chosen, and the reason, for a person."""
    leave_out: tuple[str | None, ...]
    """For each frame why it should be left out; None where it is fine."""

    @property
    def usable(self) -> tuple[int, ...]:
        """Numbers of the frames that are not left out."""
        return tuple(n for n, reason in enumerate(self.leave_out) if reason is None)


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


def rough_masks(
    frames: Sequence[Frame],
    how: Maker | Literal["auto"] = "auto",
    *,
    model: str | Path = "base",
    sam_weights: Path | None = None,
    sam: SamSettings | None = None,
    device: str = "cpu",
) -> RoughMasks:
    """Make a first mask of every frame of one domain without a label.

    Parameters
    ----------
    frames : sequence of float32 arrays, shape (H, W)
        Normalised frames of one domain, of any sizes.
    how : {"auto", "incumbent", "sam", "classical"}
        "auto" takes the incumbent if its masks hold, else cuts classically.
    model : str or Path
        The incumbent, by shipped name or directory.
    sam_weights : Path, optional
        Folder of SAM's weights as transformers saves them; nothing is ever downloaded.
    sam : SamSettings, optional
        How SAM is asked.
    device : str
        Where networks run, e.g. "cuda".

    Raises
    ------
    ConfigError
        If SAM's weights or transformers are missing.
    ModelError
        If there is no such incumbent.
    AdaptationError
        If there are no frames, or all are blank or saturated.

    Notes
    -----
    Where nothing is found in any frame all masks are empty and no frame is `usable`.
    """
    if not frames:
        raise AdaptationError("got no frames to mask; expected 1 or more of one domain")
    problems = [_problem(frame) for frame in frames]
    fine = [frame for frame, bad in zip(frames, problems, strict=True) if bad is None]
    if not fine:
        raise AdaptationError(
            f"none of {len(frames)} frames can be masked; the first: {problems[0]}; add others"
        )
    masks, maker, why = _made(
        fine, how, model=model, sam_weights=sam_weights, sam=sam, device=device
    )
    made = iter(masks)
    whole = tuple(
        np.zeros(frame.shape, np.bool_) if bad else next(made)
        for frame, bad in zip(frames, problems, strict=True)
    )
    return RoughMasks(whole, maker, why, _leave_out(frames, whole, problems))


def _made(
    frames: Sequence[Frame],
    how: Maker | Literal["auto"],
    *,
    model: str | Path,
    sam_weights: Path | None,
    sam: SamSettings | None,
    device: str,
) -> tuple[list[Mask], Maker, str]:
    """Return masks, who made them, and why."""
    if how == "classical":
        return _classical(frames, "asked for")
    if how == "sam":
        masks = list(_sam_masks(frames, sam_weights, sam or SamSettings(), device))
        if any(mask.any() for mask in masks):
            return masks, "sam", f"Segment Anything, from {sam_weights}: asked for"
        return _classical(frames, "Segment Anything found no particle in any frame")
    masks, doubts, model_id = _incumbent(frames, model, device)
    if not doubts:
        return _classical(
            frames, f"the incumbent {model_id} found no particle in any frame"
        )
    doubt = float(np.median(doubts))
    told = (
        f"it found particles in {len(doubts)} of {len(frames)} frames, with {doubt:.2f} doubtful "
        "pixels to one of a particle"
    )
    holds = 2 * len(doubts) > len(frames) and doubt <= MOST_DOUBT
    if how == "auto" and not holds:
        return _classical(
            frames, f"the masks of the incumbent {model_id} do not hold: {told}"
        )
    return masks, "incumbent", f"the incumbent {model_id}: {told}"


def _classical(frames: Sequence[Frame], reason: str) -> tuple[list[Mask], Maker, str]:
    way = choose_way(frames)
    masks = [cut(frame, way).mask for frame in frames]
    if not any(mask.any() for mask in masks):
        return masks, "classical", f"no particle found by the classical cut; {reason}"
    return masks, "classical", f"classical cut, {way}; {reason}"


def _incumbent(
    frames: Sequence[Frame], model: str | Path, device: str
) -> tuple[list[Mask], list[float], str]:
    """Return masks, the doubtful shares of frames with particles, and the model's id."""
    network, card = checkpoint.load(model)
    run = torch_run(network.to(device))
    masks: list[Mask] = []
    doubts: list[float] = []
    for frame in frames:
        probability = to_uint8(probability_of(mean_leads([frame], run)[0]))
        masks.append(label_particles(probability) > 0)
        if masks[-1].any():
            doubts.append(doubtful_share(probability))
    return masks, doubts, card.model_id


def _problem(frame: Frame) -> str | None:
    """Say why a frame cannot be masked at all."""
    low, high = float(frame.min()), float(frame.max())
    if frame.std() < _LEAST_SPREAD:
        return "blank: all pixels are alike"
    for end, name, most in (
        (high, "brightest", _MOST_AT_THE_TOP),
        (low, "darkest", _MOST_AT_THE_BOTTOM),
    ):
        share = float((frame == end).mean())
        if share > most:
            return f"saturated: {share:.0%} of its pixels have its {name} value"
    return None


def _leave_out(
    frames: Sequence[Frame], masks: Sequence[Mask], problems: Sequence[str | None]
) -> tuple[str | None, ...]:
    sharp = [_sharpness(f, m) for f, m in zip(frames, masks, strict=True)]
    known = [one for one in sharp if one is not None]
    usual = float(np.median(known)) if len(known) >= _LEAST_TO_COMPARE else 0.0
    reasons: list[str | None] = []
    for problem, one in zip(problems, sharp, strict=True):
        if problem or one is None:
            reasons.append(problem or "no particle found")
            continue
        is_dull = one < _LEAST_SHARP * usual
        reasons.append(
            f"defocused: outlines are {usual / max(one, 1e-9):.1f} times as wide as usual"
            if is_dull
            else None
        )
    return tuple(reasons)


def _sharpness(frame: Frame, mask: Mask) -> float | None:
    """Return the slope along the outlines over the contrast, per px; None without particles."""
    edge = outline(mask)
    if not edge.any():
        return None
    smooth = np.asarray(ndimage.gaussian_filter(frame, 1.5), np.float32)
    contrast = abs(float(smooth[mask].mean() - smooth[~mask].mean()))
    return float(slopes(smooth)[edge].mean()) / max(contrast, 1e-9)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One mask of SAM's, cut to its box."""

    box: tuple[slice, slice]
    piece: Mask
    diameter_px: float
    contrast: float
    """Inside minus just outside."""


def _sam_masks(
    frames: Sequence[Frame],
    weights: Path | None,
    settings: SamSettings,
    device: str,
) -> Iterator[Mask]:
    """Yield masks of what SAM takes for things and what is alike over the domain."""
    network, processor = _load_sam(weights, device)
    answers = [_answers(frame, network, processor, settings) for frame in frames]
    alike = _alike([a for of_frame in answers for a in of_frame], settings.most_unlike)
    for frame, of_frame in zip(frames, answers, strict=True):
        mask = np.zeros(frame.shape, np.bool_)
        for answer in of_frame:
            if id(answer) in alike:
                mask[answer.box] |= answer.piece
        yield mask


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
