"""The difference between two sets of frames, in the words of a microscopist."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emcopilot.domain import LooksArray, Reading, column

_INVERTED = 0.1
"""Polarity beyond which a frame is clearly of bright, or of dark, particles."""
_NOISE, _SHARP = math.log10(1.7), math.log10(1.8)
_GRAIN_OCTAVES, _SIZES = 0.8, 1.8
"""Change of the usual structure's size, and of the particles', that is worth a word."""
_SLOPE, _STRUCTURE = 0.5, 0.5


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A few frames that are compared with others."""

    looks: LooksArray
    readings: Sequence[Reading] = ()
    """What the live model finds in them; empty: unknown, as for frames that it was trained on."""

    def middle(self, statistic: str) -> float:
        """Return the median of a statistic."""
        return float(np.median(column(self.looks, statistic)))

    @property
    def diameter_px(self) -> float | None:
        """Usual diameter where the model is sure of its particles; None where it is not."""
        sure = [r.diameter_px for r in self.readings if r.is_sure and r.diameter_px]
        if 2 * len(sure) <= len(self.readings):
            return None
        return float(np.median(sure))


def what_changed(before: Ensemble, now: Ensemble) -> str:
    """Say what sets `now` apart, the weightiest first, e.g. "contrast inverted, twice the noise".

    Where nothing that has a name changed it is the texture.
    """
    told = [
        _contrast(before, now),
        _size(before, now),
        _noise(before, now),
        _sharpness(before, now),
        _texture(before, now),
    ]
    return ", ".join(word for word in told if word) or "new texture"


def usual_look(looks: LooksArray) -> str:
    """Say what frames look like, e.g. "bright particles, structures of 30 px"."""
    all_of = Ensemble(looks)
    polarity = all_of.middle("polarity")
    tone = "bright on dark" if polarity > 0 else "dark on bright"
    if abs(polarity) < _INVERTED / 2:
        tone = "neither bright nor dark stands out"
    return f"{tone}, structures of {2 ** all_of.middle('grain_px'):.0f} px"


def _contrast(before: Ensemble, now: Ensemble) -> str:
    was, is_now = before.middle("polarity"), now.middle("polarity")
    is_clear = (
        min(abs(was), abs(is_now)) > _INVERTED / 2
        and max(abs(was), abs(is_now)) > _INVERTED
    )
    return "contrast inverted" if is_clear and was * is_now < 0 else ""


def _size(before: Ensemble, now: Ensemble) -> str:
    was, is_now = before.diameter_px, now.diameter_px
    if was and is_now:
        ratio = is_now / was
        return _times(ratio, "particles", "smaller", "larger", _SIZES)
    octaves = now.middle("grain_px") - before.middle("grain_px")
    return _times(2**octaves, "structures", "finer", "coarser", 2**_GRAIN_OCTAVES)


def _times(ratio: float, what: str, less: str, more: str, least: float) -> str:
    factor = max(ratio, 1 / ratio)
    if factor < least:
        return ""
    return f"{what} {max(factor, 1.5):.2g}x {more if ratio > 1 else less}"


def _noise(before: Ensemble, now: Ensemble) -> str:
    change = now.middle("noise") - before.middle("noise")
    if abs(change) < _NOISE:
        return ""
    factor = 10 ** abs(change)
    if change < 0:
        return "half the noise" if factor < 2.7 else f"{factor:.0f}x less noise"
    return "twice the noise" if factor < 2.7 else f"{factor:.0f}x the noise"


def _sharpness(before: Ensemble, now: Ensemble) -> str:
    change = now.middle("sharpness") - before.middle("sharpness")
    return "softer outlines" if change < -_SHARP else ""


def _texture(before: Ensemble, now: Ensemble) -> str:
    is_new = (
        abs(now.middle("slope") - before.middle("slope")) > _SLOPE
        or abs(now.middle("structure") - before.middle("structure")) > _STRUCTURE
    )
    return "new texture" if is_new else ""
