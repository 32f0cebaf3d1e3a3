"""Particles by blur, background and threshold, chosen without a label or a word on polarity.

Strategy: the threshold is not Otsu's, which wants two equal heaps of pixels and cuts the support
where particles are few. It is the level along whose contour the frame is steepest: in noise every
contour is as steep as any other, round particles one is steeper. The outline is then moved from
there to where particles end. Blur, background and polarity are chosen for all frames of a domain
together, by what a person looks for: outlines that stand when blur and level change a little, a
step in brightness across them, and particles that bulge and end where the background goes on; a
frame of larger particles is then cut without subtracting one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.hulls import hulls_of
from emcopilot.runs import Labels, runs_of
from models.side_by_side import side_by_side

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]

BLURS_PX = (1.0, 1.5, 2.5, 4.0, 7.0)
BACKGROUNDS_PX = (None, 16.0, 32.0, 64.0)
_LEAST_AREA_PX = 9
"""As in `emcopilot.labels`: less is noise."""
_LEVELS = 96
_NEAR_LEVELS = 5
"""Neighbouring levels that are taken together: one alone has few pixels."""
_NOISE_CONTOUR = 1.36
"""Mean slope along a contour of Gaussian noise, in medians of the slope over the frame: slopes are
Rayleigh distributed, with median 1.177 and contour mean E[s^2]/E[s] = 1.596."""
_MOST_COVERED, _MOST_CROWDED = 0.65, 0.9
"""Of a frame; what covers more is the background: where polarity is not yet known, and where the
domain has told it."""
_WIGGLE_BLUR, _WIGGLE_LEVEL = 1.3, 0.1
"""A little more blur; a little of the contrast, either way."""
LEAST_SOUND = 7.0
"""On simulated frames a cut of the support had 0 to 6, seldom 8 to 19 where the support itself has
sharp islands; one of clear particles 15 to 800."""
_SOUND_WHEN_CROWDED = 20.0
"""For a cut that covers most of a frame. On real micrographs (EMPS, 40 of the training split) the
support, cut for particles, had up to 11; two of five crowded frames had 44 and more."""
_EDGE_LEVEL = 0.35
"""Outlines lie at so much of the contrast, from the background on. Particles thin out towards the
edge and, blurred, are steepest inside it: cut there, areas were 4 to 8 % small on simulated frames
and 5 % on real ones (EMPS, of the training split, where the cut found most of the particle). So
they are right within 3.5 %; but plates with sharp edges, which thin out nowhere, come out 11 %
large at 24 px instead of 5 %."""
_EDGE_REACH_PX, _EDGE_REACH = 3, 0.1
"""How far outlines move at most, in px and of a frame's usual diameter: small particles, blurred,
are steepest at their edge or outside it."""
_STANDS_OUT = 1.0
"""Of the contrast of what holds them: particles on a thin film differ from it by more, rims by
less."""
_FRAMES_LOOKED_AT = 12
_SIDE_LOOKED_AT_PX = 512


@dataclass(frozen=True, slots=True)
class Way:
    """How the frames of a domain are cut."""

    is_bright: bool
    """Whether particles are brighter than what surrounds them."""
    blur_px: float
    """Standard deviation of the Gaussian blur."""
    background_px: float | None
    """Standard deviation of the blur that is subtracted as background; None subtracts none."""

    def __str__(self) -> str:
        tone = "bright" if self.is_bright else "dark"
        background = (
            f"less a background of {self.background_px:g} px"
            if self.background_px
            else "no background subtracted"
        )
        return f"{tone} particles, blur {self.blur_px:g} px, {background}"


@dataclass(frozen=True, slots=True)
class Cut:
    """One frame's rough mask and how well it holds."""

    mask: Mask
    """Shape (H, W); empty where nothing in the frame looks like a particle."""
    soundness: float
    """How surely the cut is of particles; below `LEAST_SOUND` it is of the support or of noise."""


@dataclass(frozen=True, slots=True)
class _Relief:
    """A frame made even, its slopes, and the levels along which it is steepest."""

    height: Frame
    slope: Frame
    dark_level: float
    bright_level: float
    """The steepest that leaves enough background, for either polarity."""

    def level(self, way: Way) -> float:
        """Return the level that parts particles from background."""
        return self.bright_level if way.is_bright else self.dark_level

    def crowded(self) -> "_Relief":
        """Return the same where particles may cover nearly all."""
        dark, bright = _steepest_levels(self.height, self.slope, _MOST_CROWDED)
        return replace(self, dark_level=dark, bright_level=bright)


def choose_way(frames: Sequence[Frame]) -> Way:
    """Choose how a domain is cut, from up to twelve of its frames.

    Parameters
    ----------
    frames : sequence of float32 arrays, shape (H, W)
        Normalised frames of one domain; of large ones the middle is looked at.
    """
    picked = np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES_LOOKED_AT))
    looked = [
        _middle(frames[n]) for n in sorted(set(picked.round().astype(int).tolist()))
    ]
    # A way must serve all frames: one on which it shines does not make up for the others.
    worths = side_by_side(_worths, looked)
    return max(worths[0], key=lambda way: sum(worth[way] for worth in worths))


@dataclass(frozen=True, slots=True)
class _Try:
    """A cut of one frame, and what it was cut from."""

    cut: Cut
    way: Way
    relief: _Relief

    @property
    def holds(self) -> bool:
        """Whether it may be taken for particles."""
        is_crowded = self.cut.mask.mean() > _MOST_COVERED
        return self.cut.soundness >= (
            _SOUND_WHEN_CROWDED if is_crowded else LEAST_SOUND
        )


def cut(frame: Frame, way: Way) -> Cut:
    """Cut one normalised frame, float32 (H, W); what does not hold is no particle.

    Of particles larger than the rest of the domain's a subtracted background leaves nothing but
    rims. A frame is therefore cut without one as well, and that is taken if it is sounder and of
    the same thing, but no film with particles on it.
    """
    best = _best(_tries(frame, way))
    if way.background_px:
        whole = _best(_tries(frame, replace(way, background_px=None)))
        if whole.holds and (not best.holds or _is_better(whole, best)):
            best = whole
    if not best.holds:
        return replace(best.cut, mask=np.zeros_like(best.cut.mask))
    mask = _out_to_the_edge(best.cut.mask, best.way, best.relief)
    return replace(best.cut, mask=mask)


def _best(tries: list[_Try]) -> _Try:
    """Return the surest of those that hold, or of all."""
    return max(tries, key=lambda one: (one.holds, one.cut.soundness))


def _is_better(whole: _Try, parts: _Try) -> bool:
    """Say whether a cut without background is the better one; both may be taken for particles."""
    large, small = whole.cut.mask, parts.cut.mask
    if whole.cut.soundness <= parts.cut.soundness:
        return False
    if _lies_in(large, small):
        return True  # the other took rims of the support, too
    if not _lies_in(small, large):
        return False  # of two things the domain's
    rest, common = large & ~small, large & small
    if not (rest.any() and common.any()):
        return True
    # Rims are rims of something; particles on a film stand out from it.
    height = whole.relief.height
    step = float(height[common].mean() - height[rest].mean())
    stands_out = step if whole.way.is_bright else -step
    return stands_out < _STANDS_OUT * abs(_contrast(whole.relief, large))


def _lies_in(small: Mask, large: Mask) -> bool:
    """Say whether most of a mask lies in another, or at its edge."""
    inside = int(np.count_nonzero(small & grown(large, _EDGE_REACH_PX)))
    return 2 * inside >= int(np.count_nonzero(small))


def _tries(frame: Frame, way: Way) -> list[_Try]:
    """Cut a frame as if particles were few, and as if they covered nearly all."""
    even = _even(frame, way.background_px)
    relief, blurred = (_relief(even, n * way.blur_px) for n in (1, _WIGGLE_BLUR))
    pairs = (relief, blurred), (relief.crowded(), blurred.crowded())
    return [_Try(_cut_at_level(way, *pair), way, pair[0]) for pair in pairs]


def _cut_at_level(way: Way, relief: _Relief, blurred: _Relief) -> Cut:
    mask = _above(relief, way, relief.level(way))
    return Cut(mask, _soundness(mask, way, relief, blurred))


def _out_to_the_edge(mask: Mask, way: Way, relief: _Relief) -> Mask:
    """Move the outlines from the steepest contour out to where particles end."""
    around, inside = _around(mask), shrunk(mask, 1)
    reach_px = min(_EDGE_REACH_PX, int(_EDGE_REACH * _usual_diameter_px(mask)))
    if not (around.any() and inside.any() and reach_px):
        return mask
    background = float(np.median(relief.height[around]))
    contrast = float(relief.height[inside].mean()) - background
    edge = _above(relief, way, background + _EDGE_LEVEL * contrast)
    return mask | (edge & grown(mask, reach_px))


def _usual_diameter_px(mask: Mask) -> float:
    """Return the median equivalent diameter of a mask's components."""
    components, _ = _components(mask)
    areas = np.bincount(components.ravel())[1:]
    return math.sqrt(4 * float(np.median(areas)) / math.pi) if areas.size else 0.0


def _around(mask: Mask) -> Mask:
    """Return the background beside a mask's particles, without their blurred rims."""
    return grown(mask, 12) & ~grown(mask, 3)


def _middle(frame: Frame) -> Frame:
    rows, columns = (max(0, (n - _SIDE_LOOKED_AT_PX) // 2) for n in frame.shape)
    return frame[rows:, columns:][:_SIDE_LOOKED_AT_PX, :_SIDE_LOOKED_AT_PX]


def _even(frame: Frame, background_px: float | None) -> Frame:
    return frame - _blurred(frame, background_px) if background_px else frame


def _relief(even: Frame, blur_px: float) -> _Relief:
    height = _blurred(even, blur_px)
    slope = slopes(height)
    return _Relief(height, slope, *_steepest_levels(height, slope, _MOST_COVERED))


def _blurred(frame: Frame, blur_px: float) -> Frame:
    return np.asarray(ndimage.gaussian_filter(frame, blur_px), np.float32)


def slopes(height: Frame) -> Frame:
    """Return the size of the gradient per px of (H, W), the same shape."""
    down, across = np.gradient(height)
    return np.hypot(down, across)


def _steepest_levels(
    height: Frame, slope: Frame, most_covered: float
) -> tuple[float, float]:
    """Return the levels, for dark and bright, whose contours are surest steeper than noise's.

    By the coarea formula the pixels between two near levels, weighed by their slope, stand for
    the contour's length: its mean slope is sum(slope^2) / sum(slope).
    """
    low, high = (float(v) for v in np.percentile(height, [0.1, 99.9]))
    if high <= low:
        return low, high
    step = (high - low) / _LEVELS
    place = np.clip((height - low) / step, 0, _LEVELS - 1).astype(np.intp).ravel()
    near = np.ones(_NEAR_LEVELS)
    length, total = (
        np.convolve(np.bincount(place, weights.ravel(), _LEVELS), near, "same")
        for weights in (slope, slope**2)
    )
    noise = _NOISE_CONTOUR * float(np.median(slope))
    excess = total / np.maximum(length, 1e-9) / max(noise, 1e-9) - 1
    # In standard errors, but for a constant: they fall with the root of the length.
    sureness = excess * np.sqrt(length / (_NEAR_LEVELS * step))
    ends = _NEAR_LEVELS // 2 + 1  # beyond the tail percentiles all is in one bin
    below = np.cumsum(np.bincount(place, minlength=_LEVELS)) / place.size
    inner = np.arange(_LEVELS)
    is_inner = (inner >= ends) & (inner < _LEVELS - ends)
    dark, bright = (
        int(np.argmax(np.where(is_inner & leaves_background, sureness, -np.inf)))
        for leaves_background in (below <= most_covered, below >= 1 - most_covered)
    )
    return low + (dark + 0.5) * step, low + (bright + 0.5) * step


def _above(relief: _Relief, way: Way, level: float) -> Mask:
    """Return what lies on the particles' side of a level, without specks and pinholes."""
    mask = relief.height > level if way.is_bright else relief.height < level
    least = max(_LEAST_AREA_PX, math.pi * way.blur_px**2)
    return ~_without_specks(~_without_specks(mask, least), least)


def _without_specks(mask: Mask, least_px: float) -> Mask:
    components, _ = _components(mask)
    keeps = np.bincount(components.ravel()) >= least_px
    keeps[0] = False
    return keeps[components]


def outline(mask: Mask) -> Mask:
    """Return a mask's outermost pixels; the frame's rim is no outline."""
    return mask & ~shrunk(mask, 1)


def _worths(frame: Frame) -> dict[Way, float]:
    """Return how well each way serves one frame."""
    worths: dict[Way, float] = {}
    for background in BACKGROUNDS_PX:
        even = _even(frame, background)
        for blur in BLURS_PX:
            if background and background < 3 * blur:
                continue
            relief, blurred = (_relief(even, n * blur) for n in (1, _WIGGLE_BLUR))
            for is_bright in (True, False):
                way = Way(is_bright, blur, background)
                worths[way] = _worth(frame, way, relief, blurred)
    return worths


def _worth(frame: Frame, way: Way, relief: _Relief, blurred: _Relief) -> float:
    mask = _above(relief, way, relief.level(way))
    if not 0 < mask.mean() < _MOST_COVERED:
        return 0.0
    step = max(0.0, outline_step(frame, mask) * (1 if way.is_bright else -1))
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    ends_inside = 1 - float(rim.mean())
    # Squared, for polarity hangs on it: what is left between particles does not bulge.
    bulge = solidity(mask) ** 2
    return bulge * _stability(mask, way, relief, blurred) * step * ends_inside


def _soundness(mask: Mask, way: Way, relief: _Relief, blurred: _Relief) -> float:
    """Return how much clearer a cut is than one of the support beside it; see `LEAST_SOUND`."""
    near = _around(mask)
    edge = outline(mask)
    if not (edge.any() and near.any()) or mask.mean() > _MOST_CROWDED:
        return 0.0
    steepness = relief.slope[edge].mean() / (np.median(relief.slope[near]) + 1e-9)
    clearness = abs(_contrast(relief, mask)) / (relief.height[near].std() + 1e-9)
    # Not how they bulge: particles on real supports touch and pile up.
    stability = _stability(mask, way, relief, blurred)
    return stability * float(clearness * steepness) / _NOISE_CONTOUR


def _contrast(relief: _Relief, mask: Mask) -> float:
    return float(relief.height[mask].mean() - relief.height[~mask].mean())


def _stability(mask: Mask, way: Way, relief: _Relief, blurred: _Relief) -> float:
    """Return 0..1: how much of a mask stays when blur and level change a little."""
    change = _WIGGLE_LEVEL * _contrast(relief, mask)
    moved = [
        _above(blurred, way, blurred.level(way)),
        _above(relief, way, relief.level(way) + change),
        _above(relief, way, relief.level(way) - change),
    ]
    return float(np.mean([_overlap(mask, other) for other in moved]))


def _overlap(one: Mask, other: Mask) -> float:
    return np.count_nonzero(one & other) / max(np.count_nonzero(one | other), 1)


def outline_step(frame: Frame, mask: Mask) -> float:
    """Return by how much the frame is brighter 2-4 px within the outlines than without."""
    within = shrunk(mask, 1) & ~shrunk(mask, 4)
    without = grown(mask, 4) & ~grown(mask, 1)
    if not (within.any() and without.any()):
        return 0.0
    return float(frame[within].mean() - frame[without].mean())


def solidity(mask: Mask) -> float:
    """Return the components' area over that of their convex hulls, 0..1."""
    components, count = _components(mask)
    areas = np.bincount(components.ravel())[1:].astype(float)
    hulls = hulls_of(runs_of(components), count).areas()
    bulging = np.minimum(areas / np.maximum(hulls, 1), 1)
    return float((bulging * areas).sum() / areas.sum())


def _components(mask: Mask) -> tuple[Labels, int]:
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels, int(labels.max(initial=0))


def grown(mask: Mask, by_px: int) -> Mask:
    """Return a mask, bool (H, W), grown by so many px."""
    return np.asarray(ndimage.binary_dilation(mask, iterations=by_px), np.bool_)


def shrunk(mask: Mask, by_px: int) -> Mask:
    """Return a mask, bool (H, W), shrunk by so many px; a frame's rim is no outline."""
    eroded = ndimage.binary_erosion(mask, iterations=by_px, border_value=1)
    return np.asarray(eroded, np.bool_)


def drawn_in(mask: Mask) -> Mask:
    """Return a mask, bool (H, W), shrunk by a pixel, but for particles too small for two."""
    components, count = _components(mask)
    has_core = np.zeros(count + 1, np.bool_)
    has_core[components[shrunk(mask, 2)]] = True
    return np.asarray(shrunk(mask, 1) | (mask & ~has_core[components]), np.bool_)
