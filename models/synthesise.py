"""Step G: a labelled synthetic set, random masks -> 1st generation -> 2nd generation.

Some frames are more crowded than any rough mask says, beside those that follow the domain: rough
cuts fail on crowded frames first, so the domain's statistics know too little of them.

A mask is true of its image only if translation left the particles where they were. So each frame
of the 2nd generation is cut by a way that knows nothing of its mask, and a frame that lost more
overlap than the 1st generation had is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import AdaptationError
from models.cyclegan import translate
from models.datasets import LabelledFrame
from models.gan_networks import Generator
from models.mask_statistics import MaskStatistics
from models.pix2pix import render
from models.preprocess import normalise
from models.random_mask import draw_mask
from models.side_by_side import side_by_side

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]
Cut = Callable[[Frame], Mask]
"""A segmentation that never saw a synthetic image: what it finds tells whether masks are true."""

_MOST_COVERED, _MOST_FIELDS = 0.8, 12
"""Share of a crowded frame; drawn fields that are laid over each other for it."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How true the masks of two generations are, frame by frame, shape (N,), 0..1."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def is_kept(self, most_lost: float) -> Mask:
        """Say of each frame whether it lost no more overlap than that, shape (N,).

        Where the cut does not find a frame's particles in either generation, as in some that are
        crowded, nothing speaks against it.
        """
        return self.second >= self.first - most_lost


def first_generation(
    painter: Generator,
    statistics: MaskStatistics,
    *,
    count: int,
    side_px: int,
    seed: int,
    crowded: int = 0,
) -> list[LabelledFrame]:
    """Draw random masks and paint a micrograph over each; the crowded ones come last.

    Parameters
    ----------
    painter : Generator
        From pix2pix.
    statistics : MaskStatistics
        Of the domain's rough masks.
    count, side_px : int
        Frames, and the side of one.
    seed : int
        Decides masks and grain.
    crowded : int
        So many of all frames may hold many more particles than the domain's statistics say.
    """
    shape = (side_px, side_px)
    draws = [np.random.default_rng((seed, number)) for number in range(count)]
    drawn = [
        draw_mask(statistics, shape, rng).mask for rng in draws[: count - crowded]
    ] + [_crowded_mask(statistics, shape, rng) for rng in draws[count - crowded :]]
    painted = render(painter, drawn, seed)
    return [
        LabelledFrame(f"synthetic-{number:05d}", pixels.astype(np.float16), mask)
        for number, (pixels, mask) in enumerate(zip(painted, drawn, strict=True))
    ]


def _crowded_mask(
    statistics: MaskStatistics, shape: tuple[int, int], rng: np.random.Generator
) -> Mask:
    """Lay fields of particles over each other until a share, drawn evenly, is covered."""
    share = rng.uniform(0.0, _MOST_COVERED)
    mask = draw_mask(statistics, shape, rng).mask
    for _ in range(_MOST_FIELDS - 1):
        if mask.mean() >= share:
            break
        mask = mask | draw_mask(statistics, shape, rng).mask
    return mask


def second_generation(
    translator: Generator,
    first: Sequence[LabelledFrame],
    cut: Cut,
    most_lost: float,
) -> list[LabelledFrame]:
    """Give the 1st generation the look of real frames, and leave out where masks became untrue.

    Where particles cover most of a frame it is normalised anew, as a camera's would be: its median
    is theirs, and the background lies far above or below.

    Raises
    ------
    AdaptationError
        If fewer than half of the frames are left: translation moves particles about.
    """
    shown = translate(translator, [frame.pixels.astype(np.float32) for frame in first])
    second = [
        LabelledFrame(frame.name, _centred(pixels, frame.mask), frame.mask)
        for frame, pixels in zip(first, shown, strict=True)
    ]
    keep = fidelity(first, second, cut).is_kept(most_lost)
    if keep.mean() < 0.5:
        raise AdaptationError(
            f"translation lost the particles of {int((~keep).sum())} of {len(first)} synthetic "
            "frames; give more frames of the domain, or a lower residual_limit"
        )
    return [frame for frame, is_true in zip(second, keep, strict=True) if is_true]


def _centred(pixels: Frame, mask: Mask) -> NDArray[np.float16]:
    is_theirs = np.count_nonzero(mask) > mask.size / 2
    return (normalise(pixels) if is_theirs else pixels).astype(np.float16)


def fidelity(
    first: Sequence[LabelledFrame], second: Sequence[LabelledFrame], cut: Cut
) -> Fidelity:
    """Measure by an independent cut how true the masks are of both generations."""
    return Fidelity(overlaps(first, cut), overlaps(second, cut))


def overlaps(frames: Sequence[LabelledFrame], cut: Cut) -> NDArray[np.float64]:
    """Return the IoU of what the cut finds with the mask, shape (N,); 1 where neither has any."""
    return np.array(
        side_by_side(
            lambda f: _overlap(cut(f.pixels.astype(np.float32)), f.mask),
            frames,
            largest_px=max((f.mask.size for f in frames), default=0),
        )
    )


def _overlap(one: Mask, other: Mask) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0
