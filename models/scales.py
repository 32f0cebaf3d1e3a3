"""At which magnifications a frame is looked at: particles of 4 px and of 300 px, one network.

A network sees some 100 px round a pixel and learnt textures at the sizes that training showed. A
particle of 4 px is hardly more than its blur, one of 300 px has an inside without an edge in
sight. So a frame is also looked at where such particles look usual, and the answers are meant as
leads of the logits: a sure look outweighs an unsure one. On particles so small that natively they
are hardly more than their blur, the enlarged look has the last word; on the inside of particles so
large that natively no edge is in sight, a much reduced look has it. Where natively next to nothing
is found, a glimpse at an enlarged part tells whether that is for size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.leads import (
    HARDLY,
    Lead,
    Window,
    areas_px,
    doubt_of,
    lead_of,
    mean_lead,
    middle_diameter_px,
    most_seen_window,
    surest_lead,
    typical_diameter_px,
    with_insides,
    with_specks,
)
from models.tiling import Run, Tiling, predict_normalised

Glimpse = Callable[[Window, float], Lead]
"""Where in a frame and a magnification, to the leads there, at their own size."""


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
    enlarged_up_to_px: int = 1100
    """Side of the largest frame that is looked at enlarged where natively the model knows what it
    sees: a larger one would take long, and has many particles to tell of."""
    most_doubtful: float = math.inf
    """Doubtful pixels to one of a particle, natively, up to which the model knows what it sees.
    Beyond, and where it finds nothing, a glimpse at an enlarged part tells whether particles are
    but too small for it: a whole enlarged look is four times the work and more, and wasted on a
    model that is lost at any size, or on an empty field."""
    rescue_at: tuple[float, ...] = ()
    """Magnifications of glimpses; the first at which the model is at home is taken."""
    most_doubtful_glimpse: float = 0.0
    """Doubtful pixels to one of a particle up to which a glimpse shows that it is."""
    fewest_particles: int = 5
    """Particles that a glimpse must show: in an empty field grain may look like one."""
    glimpse_px: int = 128
    """Side of what a glimpse shows, natively."""
    rescued_up_to_px: int = 4400
    """Side of the largest frame, enlarged, that a rescue looks at: 36 tiles, some 70 s on two
    cores, and natively such a frame shows next to nothing."""

    def beside(self, native: Lead, glimpse: Glimpse) -> tuple[float, ...]:
        """Return the magnifications to look at beside the native one.

        Parameters
        ----------
        native : float32 array, shape (H, W)
            What the native look said.
        glimpse : callable
            Looks at a part of the frame at a magnification.

        Returns
        -------
        tuple of float
            Each above 0; none where the native look is enough.
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
        side_px = max(native.shape)
        if is_found and doubt_of(native) <= self.most_doubtful:
            return self.when_small if side_px <= self.enlarged_up_to_px else ()
        return self._rescue(native, glimpse) if (native > HARDLY).any() else ()

    def _rescue(self, native: Lead, glimpse: Glimpse) -> tuple[float, ...]:
        """Return the magnification at which the model is at home, if there is one."""
        largest = self.rescued_up_to_px / max(native.shape)
        window = most_seen_window(native, self.glimpse_px)
        for magnification in self.rescue_at:
            if magnification > largest:
                return ()
            if self._is_at_home(glimpse(window, magnification)):
                return (magnification,)
        return ()

    def _is_at_home(self, seen: Lead) -> bool:
        """Say whether a glimpse shows small particles, several, and surely."""
        areas = areas_px(seen)
        is_sure = doubt_of(seen) <= self.most_doubtful_glimpse
        is_small = middle_diameter_px(areas) < self.small_px
        return len(areas) >= self.fewest_particles and is_sure and is_small

    def meant(self, looks: Mapping[float, Lead]) -> Lead:
        """Return what the looks at a frame say together; leads by magnification."""
        outer = {at: lead for at, lead in looks.items() if at != self.inside}
        largest = max(outer)
        if largest > 1:
            # A native look that finds nothing has no part in what it called for.
            is_found = math.isfinite(typical_diameter_px(outer[1.0]))
            say = [lead for at, lead in outer.items() if is_found or at > 1]
            mean = with_specks(surest_lead(say), outer[largest], self.specks_px)
        else:
            mean = mean_lead(list(outer.values()))
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
    rescue_at=(2.0, 3.0),
    most_doubtful_glimpse=1.25,
    inside=0.25,
    large_px=100.0,
)
"""Chosen on the validation images of `benchmarks/scale.py`: half beside native serves large
particles, double beside native small ones. One look chosen by size finds more on catalysts, and
loses on film; so only specks are left to it. A look at a quarter costs 6 % of the native one: it
changes no EMPS image (n=38) by more than 0.002 MIoU, and with it simulated HAADF particles of 100
to 300 px (n=8) rose from 0.72 to 0.92.

Glimpses were chosen on one real film, with the model base-5: bright field, crowded dark particles
of 7 px, 10 frames of 369 px whose masks are rough. Natively it has 1.8 to 2.3 doubtful pixels to
one of a particle there (EMPS's small particles: up to 1.5) and finds next to nothing; at double it
has 0.5 and finds them. Reduced to particles of 4 px (6 frames): 1.5 to 1.9 at double, 0.6 at three
times. A model of HAADF alone, lost in bright field, has 2 to 3 at either size (3 frames)."""


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
