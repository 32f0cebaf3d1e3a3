"""What a model knew before: frames that never change, on which a candidate must not be worse.

A few simulated frames of either polarity with exact truth, the same for every job for good, and
frames of the domains that the incumbent learnt before, with the masks that it was promoted for.
Nothing learns from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from emcopilot.optics import Mode
from emcopilot.simulate import random_scene, render_micrograph
from models import checkpoint
from models.datasets import LabelledFrame, label
from models.frame_sets import load_frames, save_frames
from models.segmentation_metrics import pixel_score
from models.synthesise import Cut, Frame

REPLAY_FILE = "replay.npz"
"""In a model's folder: frames of the domains it learnt, named DOMAIN|FRAME.

DOMAIN is a name, or a name and behind a unit separator the domain's key: names are the operator's,
and two domains may bear one. A file of an earlier release holds names alone, which are its keys.
"""
_BETWEEN, _BEFORE_KEY = "|", "\x1f"
SEED, SIDE_PX, OF_A_MODE = 20_261_127, 256, 4
MODES: tuple[Mode, ...] = ("haadf", "bf")
KEPT, KEPT_SIDE_PX, MOST_DOMAINS = 4, 384, 8
"""Frames of a domain that a candidate keeps, their side, and domains; the oldest goes first."""
GOOD = 0.9
"""MIoU from which the incumbent is good at a domain: what it never knew it cannot forget."""
MOST_LOST, MOST_LOST_OF_MASKS = 0.01, 0.03
"""MIoU that may be lost, of true masks and of a model's own. There the incumbent has nearly 1 by
definition, and two good models differ by a pixel's width of edge."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How incumbent and candidate do on what was known before, one domain."""

    domain: str
    frames: int
    incumbent: float
    """Mean MIoU over the frames."""
    candidate: float
    is_truth: bool
    """Whether masks are exact, or another model's."""

    @property
    def is_forgotten(self) -> bool:
        """Whether the candidate lost what the incumbent was good at."""
        most = MOST_LOST if self.is_truth else MOST_LOST_OF_MASKS
        return self.incumbent >= GOOD and self.incumbent - self.candidate > most

    def __str__(self) -> str:
        return (
            f"on {self.frames} frames of {self.domain} MIoU went from {self.incumbent:.3f} to "
            f"{self.candidate:.3f}"
        )


def retention(model: str | Path, incumbent: Cut, candidate: Cut) -> list[Retention]:
    """Compare two models on what was known before.

    Parameters
    ----------
    model : str or Path
        The incumbent's name or folder, where its own replay set may lie.
    incumbent, candidate : callable
        Return the mask of a normalised frame, both (H, W).
    """
    groups = {f"simulated {mode.upper()}": simulated(mode) for mode in MODES}
    known = [
        _retention(name, frames, incumbent, candidate, is_truth=True)
        for name, frames in groups.items()
    ]
    learnt = [
        _retention(_name_of(frames[-1]), frames, incumbent, candidate, is_truth=False)
        for frames in _by_domain(replay_of(model)).values()
    ]
    return known + learnt


@cache
def simulated(mode: Mode) -> tuple[LabelledFrame, ...]:
    """Draw the frozen frames of a mode, with their truth."""
    return tuple(_simulated(mode, number) for number in range(OF_A_MODE))


def replay_of(model: str | Path) -> list[LabelledFrame]:
    """Return the frames that a model brings with it; none if it learnt no domain.

    Raises
    ------
    AdaptationError
        If its file holds no set of frames.
    """
    path = checkpoint.find(model) / REPLAY_FILE
    return load_frames(path) if path.exists() else []


def keep_replay(
    path: Path,
    model: str | Path,
    domain: str,
    frames: Sequence[tuple[str, Frame]],
    cut: Cut,
    *,
    key: str = "",
) -> None:
    """Write what a candidate brings with it: the incumbent's set, and some of its own domain.

    Parameters
    ----------
    path : Path
    model : str or Path
        The incumbent.
    domain : str
        What the new frames' domain is called now.
    frames : sequence of (str, float32 array (H, W))
        Normalised frames that nothing learnt from, by name; the middle of the first few is kept.
    cut : callable
        The candidate's.
    key : str
        Tells the domain from all others, whatever they are called; without, its name does. Frames
        that the set holds of the same domain already are replaced.
    """
    told = _plain(domain) + (f"{_BEFORE_KEY}{_plain(key)}" if key else "")
    ours = [
        LabelledFrame(
            f"{told}{_BETWEEN}{name}",
            pixels.astype(np.float16),
            cut(pixels),
        )
        for name, pixels in ((name, _middle(one)) for name, one in frames[:KEPT])
    ]
    groups = _by_domain(replay_of(model))
    groups.pop(_key_of(told), None)
    kept = list(groups.values())[-(MOST_DOMAINS - 1) :]
    save_frames(path, [frame for group in kept for frame in group] + ours)


def _retention(
    name: str,
    frames: Sequence[LabelledFrame],
    incumbent: Cut,
    candidate: Cut,
    *,
    is_truth: bool,
) -> Retention:
    scores = np.array(
        [
            [pixel_score(cut(f.pixels.astype(np.float32)), f.mask).miou for f in frames]
            for cut in (incumbent, candidate)
        ]
    )
    before, after = (float(mean) for mean in scores.mean(axis=1))
    return Retention(name, len(frames), before, after, is_truth)


def _by_domain(frames: Sequence[LabelledFrame]) -> dict[str, list[LabelledFrame]]:
    groups: dict[str, list[LabelledFrame]] = {}
    for frame in frames:
        told = frame.name.partition(_BETWEEN)[0]
        groups.setdefault(_key_of(told), []).append(frame)
    return groups


def _key_of(told: str) -> str:
    """Return the key with its sign before it, so that it is nobody's name; else the name."""
    name, sign, key = told.partition(_BEFORE_KEY)
    return f"{sign}{key}" if sign else name


def _name_of(frame: LabelledFrame) -> str:
    return frame.name.partition(_BETWEEN)[0].partition(_BEFORE_KEY)[0]


def _plain(text: str) -> str:
    return text.replace(_BETWEEN, " ").replace(_BEFORE_KEY, " ")


def _simulated(mode: Mode, number: int) -> LabelledFrame:
    rng = np.random.default_rng((SEED, number))
    scene = random_scene(rng, shape=(SIDE_PX, SIDE_PX), mode=mode)
    frame = render_micrograph(scene, rng)
    return label(f"{mode}-{number}", frame.pixels, frame.labels > 0)


def _middle(frame: Frame) -> Frame:
    rows, columns = (max(0, (side - KEPT_SIDE_PX) // 2) for side in frame.shape)
    return frame[rows:, columns:][:KEPT_SIDE_PX, :KEPT_SIDE_PX]
