"""At which magnifications a frame is looked at: particles of 4 px and of 300 px, one network.

A network sees some 100 px round a pixel and learnt textures at the sizes that training showed. A
particle of 4 px is hardly more than its blur, one of 300 px has an inside without an edge in
sight. So a frame is also looked at where such particles look usual, and the answers are meant as
leads of the logits: a sure look outweighs an unsure one. On particles so small that natively they
are hardly more than their blur, the enlarged look has the last word; on the inside of particles so
large that natively no edge is in sight, a much reduced look has it. Where natively next to nothing
is found, a glimpse at an enlarged piece tells whether that is for size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit
from torch.nn import functional

from emcopilot.confidence import doubtful_share
from emcopilot.labels import label_particles
from models.tiling import Run, Tiling, predict_normalised, to_uint8

Lead = NDArray[np.float32]
"""Particle minus background logit, shape (H, W)."""
Piece = tuple[slice, slice]
Glimpse = Callable[[Piece, float], Lead]
"""A piece of a frame and a magnification to the piece's leads, at its own size."""

_HOLE = 5
"""Steps of the reduced look: what is missing of a large particle is wider, 20 px natively; what
parts the particles of a cluster is narrower."""
_SURE_FROM_AFAR, _LEAST_SHOWN = 3.7, 0.1
"""Mean lead of a large particle from afar, and the share of it that the other looks must show too.
Chosen on simulated frames of the base model: particles had 3.8 and more, but for five of some
fifty; what was seen in empty fields of HAADF had up to 3.5, and once 3.6 with a share of 0.03."""
_HARDLY = -2.2
"""Lead of a probability of 10 %: less is background without a doubt."""
_LEAST_DOUBT = 0.25
"""Where nothing is seen there is no rim to doubt; a sure look at particles of 10 px has 0.3."""
_SUREST = 1e-5
"""Leads end at 11.5 either way: none outweighs all others."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Which magnifications a frame is looked at beside the native one."""

    always: tuple[float, ...] = ()
    when_small: tuple[float, ...] = ()
    """Where particles are small, in place of `always`."""
    small_px: float = 0.0
    """Typical diameter at native magnification below which particles are small."""
    specks_px: float = 0.0
    """Diameter below which the enlarged look alone says that a particle is there."""
    inside: float | None = None
    """Magnification, unless particles are small, of the look that is asked for nothing but the
    inside of large particles."""
    large_px: float = 0.0
    """Diameter from which particles are large."""
    most_doubtful: float = math.inf
    """Doubtful pixels to one of a particle, natively, up to which the model knows what it sees.
    Beyond, and where it finds nothing, a glimpse at an enlarged piece tells whether particles are
    but too small for it: a whole enlarged look is four times the work, and wasted on a model that
    is lost at any size, or on an empty field."""
    rescues: tuple[float, ...] = ()
    """Magnifications of glimpses; the first at which the model is at home is taken."""
    surely: float = 0.0
    """Doubtful pixels to one of a particle up to which a glimpse shows that it is."""
    fewest: int = 5
    """Particles that a glimpse must show: in an empty field grain may look like one."""
    glimpse_px: int = 128
    """Side of the piece, natively."""
    enlarged_up_to_px: int = 1100
    """Side of the largest frame that is looked at enlarged where natively the model knows what it
    sees: a larger one would take long, and has many particles to tell of."""
    rescued_up_to_px: int = 2200
    """Side of the largest frame that is looked at enlarged where natively the model is lost: there
    it finds next to nothing without. One of 4096 px would take minutes on a CPU."""

    def beside(self, native: Lead, glimpse: Glimpse) -> tuple[float, ...]:
        """Return the magnifications to look at beside the native one.

        Parameters
        ----------
        native : float32 array, shape (H, W)
            What the native look said.
        glimpse : callable
            Looks at a piece of the frame at a magnification.
        """
        enlarged = self._enlarged(native, glimpse)
        if enlarged:
            return enlarged
        return self.always if self.inside is None else (*self.always, self.inside)

    def _enlarged(self, native: Lead, glimpse: Glimpse) -> tuple[float, ...]:
        """Return at which magnification to look in place of a reduced one, if at any."""
        diameter_px = typical_diameter_px(native)
        is_found = math.isfinite(diameter_px)
        if is_found and diameter_px >= self.small_px:
            return ()
        if is_found and doubt_of(native) <= self.most_doubtful:
            is_worth_it = max(native.shape) <= self.enlarged_up_to_px
            return self.when_small if is_worth_it else ()
        if max(native.shape) > self.rescued_up_to_px or not (native > _HARDLY).any():
            return ()
        piece = most_seen_piece(native, self.glimpse_px)
        glimpses = ((m, glimpse(piece, m)) for m in self.rescues)
        return next(((m,) for m, seen in glimpses if self._is_at_home(seen)), ())

    def _is_at_home(self, seen: Lead) -> bool:
        """Say whether a glimpse shows small particles, several, and surely."""
        areas_px = _areas_px(seen)
        if len(areas_px) < self.fewest or doubt_of(seen) > self.surely:
            return False
        return _typical_diameter_px(areas_px) < self.small_px

    def meant(self, looks: Mapping[float, Lead]) -> Lead:
        """Return what the looks at a frame say together; leads by magnification."""
        largest = max(looks)
        if largest > 1:
            mean = surest_lead(list(looks.values()))
            return with_specks(mean, looks[largest], self.specks_px)
        mean = mean_lead([lead for at, lead in looks.items() if at != self.inside])
        if self.inside is None or self.inside not in looks:
            return mean
        step_px = round(1 / self.inside)
        return with_insides(mean, looks[self.inside], self.large_px, step_px)


NATIVE = Scales()
LIVE = Scales(
    always=(0.5,),
    when_small=(2.0,),
    small_px=24.0,
    specks_px=8.0,
    most_doubtful=1.6,
    rescues=(2.0, 3.0),
    surely=1.25,
    inside=0.25,
    large_px=100.0,
)
"""Chosen on the validation images of `benchmarks/scale.py`: half beside native serves large
particles, double beside native small ones. One look chosen by size finds more on catalysts, and
loses on film; so only specks are left to it. A look at a quarter costs 6 % of the native one: it
changes no EMPS image (n=38) by more than 0.002 MIoU, and with it simulated HAADF particles of 100
to 300 px (n=8) rose from 0.72 to 0.92.

Natively, real frames of small particles have up to 1.5 doubtful pixels to one of a particle. On a
real film of crowded dark particles of 7 px the base model has 1.8 to 2.3, and finds nothing; at
double it has 0.5 and finds them. Reduced to particles of 4 px, it has 1.5 to 1.9 at double and 0.6
at three times. A model of HAADF alone, lost in bright field, has 2 to 3 at any size."""


def leads_at(
    frames: Sequence[NDArray[np.float32]],
    magnification: float,
    run: Run,
    tiling: Tiling,
) -> list[Lead]:
    """Look at normalised frames of one shape (H, W) at one magnification.

    Returns
    -------
    list of float32 arrays, shape (H, W)
        The frames' leads, at their own size.
    """
    looked = [magnified(frame, magnification) for frame in frames]
    maps = predict_normalised(looked, run, tiling)
    return [resized(lead_of(one), frames[0].shape) for one in maps]


def magnified(frame: NDArray[np.float32], magnification: float) -> NDArray[np.float32]:
    """Resize a frame (H, W) by a factor."""
    return resized(frame, tuple(max(1, round(n * magnification)) for n in frame.shape))


def resized(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize (H, W) to `shape`; antialiased, for skipped pixels would turn texture to noise."""
    if image.shape == shape:
        return image
    layer = torch.from_numpy(image)[None, None]
    is_smaller = shape < image.shape  # both sides shrink or grow together
    return functional.interpolate(
        layer, size=shape, mode="bilinear", antialias=is_smaller
    )[0, 0].numpy()


def mean_lead(leads: Sequence[Lead]) -> Lead:
    """Return the mean of leads of one shape."""
    total = leads[0]
    for lead in leads[1:]:
        total = total + lead
    return total / np.float32(len(leads))


def surest_lead(leads: Sequence[Lead]) -> Lead:
    """Return the mean of leads of one shape, each the heavier the less it doubts."""
    weights = [1 / max(doubt_of(lead), _LEAST_DOUBT) for lead in leads]
    total = sum(weights)
    return mean_lead(
        [
            lead * np.float32(len(leads) * weight / total)
            for lead, weight in zip(leads, weights, strict=True)
        ]
    )


def with_specks(mean: Lead, enlarged: Lead, specks_px: float) -> Lead:
    """Keep the particles below `specks_px` that the enlarged look shows, leads of one shape.

    Connected pixels above 0 count as one particle: a speck has no neck to be parted at.
    """
    pieces = np.empty(enlarged.shape, np.int32)
    ndimage.label(enlarged >= 0, output=pieces)
    area_px = np.bincount(pieces.ravel())
    is_speck = area_px < math.pi / 4 * specks_px**2
    is_speck[0] = False
    return np.where(is_speck[pieces], np.maximum(mean, enlarged), mean)


def with_insides(mean: Lead, reduced: Lead, large_px: float, step_px: int) -> Lead:
    """Raise the insides of the large particles that the reduced look shows, to what it says.

    What is not sure from afar, or is seen from afar alone, is background that looks like a
    particle once its texture is gone. Outlines stay where the mean of the others drew them, and so
    do the gaps of a cluster, which from afar is one particle: filled is only what is five steps
    wide or more.

    Parameters
    ----------
    mean, reduced : float32 arrays, shape (H, W)
        What the other looks say together, and the reduced one.
    large_px : float
        Diameter from which a particle is large.
    step_px : int
        Pixels to one that the reduced look saw: on so coarse a grid insides are sought.

    Returns
    -------
    float32 array, shape (H, W)
        The mean itself where no large particle is seen.
    """
    coarse = (slice(None, None, step_px),) * 2
    seen = reduced[coarse] >= 0
    pieces = np.empty(seen.shape, np.int32)
    ndimage.label(seen, output=pieces)
    area = np.bincount(pieces.ravel())
    from_afar, shown = (
        np.bincount(pieces.ravel(), layer.ravel()) / np.maximum(area, 1)
        for layer in (reduced[coarse], mean[coarse] >= 0)
    )
    is_large = np.asarray(area * step_px**2 >= math.pi / 4 * large_px**2)
    is_large &= (from_afar >= _SURE_FROM_AFAR) & (shown >= _LEAST_SHOWN)
    is_large[0] = False
    large = is_large[pieces]
    if not large.any():
        return mean
    # Beyond the frame's rim a hole goes on.
    missing = np.pad(large & (mean[coarse] < 0), _HOLE, mode="edge")
    wide = ndimage.binary_opening(missing, np.ones((_HOLE, _HOLE), np.bool_))
    whole = ndimage.binary_dilation(wide, iterations=_HOLE, mask=missing)
    # One step on: its edge lies between two pixels of the grid.
    hole = np.empty(missing.shape, np.bool_)
    ndimage.binary_dilation(whole, output=hole)
    hole = hole[_HOLE:-_HOLE, _HOLE:-_HOLE]
    is_hole = _refined(hole, step_px, mean.shape) & (reduced >= 0)
    is_raised = (_refined(large, step_px, mean.shape) & (mean >= 0)) | is_hole
    return np.where(is_raised, np.maximum(mean, reduced), mean)


def _refined(
    mask: NDArray[np.bool_], step_px: int, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Repeat every pixel, and cut to a shape."""
    return mask.repeat(step_px, 0).repeat(step_px, 1)[: shape[0], : shape[1]]


def probability_of(lead: Lead) -> NDArray[np.float32]:
    """Return the particle probability 0..1 that a lead means, same shape."""
    return expit(lead)


def doubt_of(lead: Lead) -> float:
    """Return the doubtful pixels of a look to one of a particle: a thin rim where it is sure."""
    return doubtful_share(to_uint8(probability_of(lead)))


def most_seen_piece(native: Lead, side_px: int) -> Piece:
    """Return the square piece in which a look saw most, be it in doubt; smaller frames whole."""
    seen = np.asarray(native > _HARDLY, np.float32)
    density = ndimage.uniform_filter(seen, side_px, mode="constant")
    middle = np.unravel_index(int(density.argmax()), density.shape)
    rows, columns = (
        min(max(0, int(place) - side_px // 2), max(0, side - side_px))
        for place, side in zip(middle, native.shape, strict=True)
    )
    return slice(rows, rows + side_px), slice(columns, columns + side_px)


def typical_diameter_px(lead: Lead) -> float:
    """Return the diameter below which half of the particles' area lies; infinite where none is.

    Not the median over particles: a few specks beside large particles would make them small.
    """
    return _typical_diameter_px(_areas_px(lead))


def _areas_px(lead: Lead) -> NDArray[np.intp]:
    """Return the areas of the particles that a look shows, ascending."""
    labels = label_particles(to_uint8(probability_of(lead)))
    return np.sort(np.bincount(labels.ravel())[1:])


def _typical_diameter_px(areas_px: NDArray[np.intp]) -> float:
    if not areas_px.size:
        return math.inf
    total = np.cumsum(areas_px)
    middle = areas_px[np.searchsorted(total, total[-1] / 2)]
    return math.sqrt(4 * float(middle) / math.pi)


def lead_of(probability: NDArray[np.float32]) -> Lead:
    """Return the lead of the logits that a probability 0..1 means, same shape."""
    inside = np.clip(probability, _SUREST, 1 - _SUREST)
    return np.log(inside / (1 - inside))
