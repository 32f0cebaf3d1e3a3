"""Step D: label-free first masks of a domain's frames, by the incumbent, by SAM or classically.

They need not be precise; shapes and sizes must be right enough to follow. What is certain to harm
is named: frames that show nothing, and what was done in place of what was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.confidence import doubtful_share
from emcopilot.errors import AdaptationError
from emcopilot.labels import label_particles
from models import checkpoint
from models.classical_cut import choose_way, cut, outline, slopes
from models.leads import probability_of
from models.npssegnet import torch_run
from models.predict import mean_leads
from models.sam_masks import SamSettings, sam_masks
from models.side_by_side import side_by_side
from models.tiling import Run, to_uint8

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]
Maker = Literal["incumbent", "sam", "classical"]

NOTHING_FOUND = "no particle found"
"""Why a frame is left out that is neither blank nor saturated."""
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
_MOST_SOFT, _SOFT_FROM_PX = 0.5, 10
"""Outlines' width in radii of the particles, for radii from so many px on: of smaller ones grain
and blur cannot be told apart. In focus 74 frames had up to 0.29 (EMPS, simulated bright field);
blurred by half a radius, the four in which anything was found had 0.54 and more."""
_EDGE_REACH_PX = 3
_FRAMES_ASKED = 12


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
        masks = list(sam_masks(frames, sam_weights, sam or SamSettings(), device))
        if any(mask.any() for mask in masks):
            return masks, "sam", f"Segment Anything, from {sam_weights}: asked for"
        return _classical(frames, "Segment Anything found no particle in any frame")
    return _by_incumbent(frames, model, device, is_bound=how == "incumbent")


def _by_incumbent(
    frames: Sequence[Frame], model: str | Path, device: str, *, is_bound: bool
) -> tuple[list[Mask], Maker, str]:
    """Take the incumbent's masks where they hold, or, if bound to it, where there are any."""
    network, card = checkpoint.load(model)
    run = torch_run(network.to(device))
    asked = range(len(frames)) if is_bound else _spread(len(frames))
    answers = {n: _Answer.of(frames[n], run) for n in asked}
    doubts = [one.doubt for one in answers.values() if one.doubt is not None]
    if not doubts:
        reason = (
            f"the incumbent {card.model_id} found no particle in any frame looked at"
        )
        return _classical(frames, reason)
    doubt = float(np.median(doubts))
    told = (
        f"it found particles in {len(doubts)} of {len(answers)} frames, with {doubt:.2f} doubtful "
        "pixels to one of a particle"
    )
    holds = 2 * len(doubts) > len(answers) and doubt <= MOST_DOUBT
    if not (holds or is_bound):
        return _classical(
            frames, f"the masks of the incumbent {card.model_id} do not hold: {told}"
        )
    masks = [
        (answers.get(n) or _Answer.of(frame, run)).mask
        for n, frame in enumerate(frames)
    ]
    return masks, "incumbent", f"the incumbent {card.model_id}: {told}"


def _spread(count: int) -> list[int]:
    """Return which frames tell whether the incumbent's masks hold: on a CPU each takes seconds."""
    places = np.linspace(0, count - 1, min(count, _FRAMES_ASKED))
    return sorted(set(places.round().astype(int).tolist()))


def _classical(frames: Sequence[Frame], reason: str) -> tuple[list[Mask], Maker, str]:
    way = choose_way(frames)
    largest = max(frame.size for frame in frames)
    masks = side_by_side(lambda frame: cut(frame, way).mask, frames, largest_px=largest)
    if not any(mask.any() for mask in masks):
        return masks, "classical", f"no particle found by the classical cut; {reason}"
    return masks, "classical", f"classical cut, {way}; {reason}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the incumbent makes of one frame."""

    mask: Mask
    doubt: float | None
    """Its doubtful share; None where it found no particle."""

    @classmethod
    def of(cls, frame: Frame, run: Run) -> "_Answer":
        probability = to_uint8(probability_of(mean_leads([frame], run)[0]))
        mask = label_particles(probability) > 0
        return cls(mask, doubtful_share(probability) if mask.any() else None)


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
    for problem, frame, mask, one in zip(problems, frames, masks, sharp, strict=True):
        if problem or one is None:
            reasons.append(problem or NOTHING_FOUND)
        else:
            reasons.append(_dullness(frame, mask, max(one, 1e-9), usual))
    return tuple(reasons)


def _dullness(frame: Frame, mask: Mask, sharpness: float, usual: float) -> str | None:
    """Say why a frame is out of focus, beside the others or for its particles; None if it is not.

    A session may be out of focus from its first frame to its last.
    """
    if sharpness < _LEAST_SHARP * usual:
        return f"defocused: outlines are {usual / sharpness:.1f} times as wide as usual"
    radius_px = _typical_radius_px(mask)
    # A rough outline may lie beside the edge, in all frames alike.
    steepest = _sharpness(frame, mask, reach_px=_EDGE_REACH_PX) or sharpness
    softness = 1 / (steepest * radius_px)
    if radius_px >= _SOFT_FROM_PX and softness > _MOST_SOFT:
        return (
            f"defocused: outlines are {softness:.1f} radii of the particles wide, expected at "
            f"most {_MOST_SOFT}"
        )
    return None


def _typical_radius_px(mask: Mask) -> float:
    """Return the radius below which half of the particles' area lies."""
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    area_px = np.sort(np.bincount(labels.ravel())[1:])
    total = np.cumsum(area_px)
    return float(np.sqrt(area_px[np.searchsorted(total, total[-1] / 2)] / np.pi))


def _sharpness(frame: Frame, mask: Mask, reach_px: int = 0) -> float | None:
    """Return the slope along the outlines over the contrast, per px; None without particles.

    The steepest within the reach counts.
    """
    edge = outline(mask)
    if not edge.any():
        return None
    smooth = np.asarray(ndimage.gaussian_filter(frame, 1.5), np.float32)
    contrast = abs(float(smooth[mask].mean() - smooth[~mask].mean()))
    slope = ndimage.maximum_filter(slopes(smooth), 2 * reach_px + 1)
    return float(slope[edge].mean()) / max(contrast, 1e-9)
