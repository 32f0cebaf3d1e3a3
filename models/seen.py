"""Make `seen.safetensors`: what a model was trained on, and its doubt on that."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emcopilot.confidence import doubtful_share
from emcopilot.domain import (
    USUAL_SCALE,
    LooksArray,
    left_out_distances,
    left_out_ratios,
    stacked,
)
from emcopilot.errors import DecodeError, EMcopilotError, ModelError
from emcopilot.frame_look import FrameLook, ruined
from emcopilot.seen import SEEN_FILE, Seen
from models import checkpoint
from models.datasets import read_pixels
from models.look import Looker
from models.npssegnet import torch_run
from models.predict import predict
from models.scales import magnified

log = logging.getLogger(__name__)

MOST_LOOKS = 1000
"""Kept of what was trained on: 120 kB."""
_DOUBT_FRAMES, _CANDIDATE_DOUBT_FRAMES = 40, 10
_QUANTILE = 0.95
_REACHES = (0.5, 0.9)
"""Quantiles that bound how far looks reach: odd frames would reach over everything."""
_LEAST_REACH = 0.6 * USUAL_SCALE
"""Frames of one film lie closer together than those that it may become."""
_LEAST_PARTICLE_SHARE = 0.002
"""Of a frame: below, the doubtful share hangs on a few pixels."""

Frame = NDArray[np.generic]


def seen_of(
    frames: Sequence[Frame],
    looker: Looker,
    *,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    segment: Callable[[Frame], NDArray[np.uint8]] | None = None,
    doubt_frames: int = _DOUBT_FRAMES,
    before: Seen | None = None,
) -> Seen:
    """Look at training frames as training showed them.

    Parameters
    ----------
    frames : sequence of arrays, shape (H, W)
        Training frames, or a fair choice of them.
    looker : Looker
    scales : sequence of float
        Magnifications to look at each frame at, like the augmentation's.
    segment : callable, optional
        The trained model, frame to uint8 probability: measures the doubt it shows on frames that
        it knows.
    doubt_frames : int
        Frames, evenly chosen, that `segment` is asked about.
    before : Seen, optional
        Of the incumbent that the model goes on from: what it knew is known still.

    Raises
    ------
    ModelError
        If none of the frames has a look.
    """
    looks: list[FrameLook] = []
    groups: list[int] = []
    for number, frame in enumerate(frames):
        for scale in scales:
            view = frame if scale == 1 else magnified(_float(frame), scale)
            if ruined(view) is None:
                looks.append(looker(view))
                groups.append(number)
    if not looks:
        raise ModelError(f"none of {len(frames)} training frames has a look")
    ours = stacked(looks)
    of_frame = np.array(groups)
    doubt = _doubt(frames, segment, doubt_frames) if segment else None
    chosen = _spread(len(ours), MOST_LOOKS)
    seen = _scaled(looker.features, ours[chosen], of_frame[chosen], doubt)
    if before is None or before.features != seen.features:
        return seen
    return _joined(before, seen)


def _scaled(
    features: str, looks: LooksArray, groups: NDArray[np.intp], doubt: float | None
) -> Seen:
    apart = left_out_distances(looks, groups)
    apart[~np.isfinite(apart)] = USUAL_SCALE  # one frame alone has no others
    low, high = (max(float(q), _LEAST_REACH) for q in np.quantile(apart, _REACHES))
    reach = np.clip(apart, low, high)
    reach = reach.astype(np.float32)
    ratios = left_out_ratios(looks, reach, groups)
    ratios = ratios[np.isfinite(ratios)]
    scale = float(np.quantile(ratios, _QUANTILE)) if len(ratios) else 1.0
    return Seen(features, looks, reach, max(scale, 1.0), doubt)


def _joined(before: Seen, ours: Seen) -> Seen:
    """Return what the incumbent knew and a domain on top, which makes it know no less around.

    A domain's frames lie close together: its reach is no less than what is usual of one.
    """
    looks = np.concatenate([before.looks, ours.looks])
    reach = np.concatenate([before.reach, np.maximum(ours.reach, USUAL_SCALE)])
    chosen = _spread(len(looks), MOST_LOOKS)
    doubts = [one.doubt for one in (before, ours) if one.doubt is not None]
    return Seen(
        before.features,
        looks[chosen],
        reach[chosen].astype(np.float32),
        before.scale,
        max(doubts, default=None),
    )


def write_candidate_seen(
    folder: Path, trained: Path, incumbent: str | Path, files: Sequence[Path]
) -> None:
    """Write beside a candidate what its incumbent knew and the domain's real frames.

    Where the incumbent's file is not there only the domain is known: going back then alarms,
    rather than not. A candidate without the file is one all the same, so that what goes wrong
    here is logged.
    """
    try:
        file = checkpoint.find(incumbent) / SEEN_FILE
        before = Seen.read(file) if file.is_file() else None
        network, _ = checkpoint.load(trained)
        run = torch_run(network.float())
        seen = seen_of(
            _Readable(files),
            Looker.load(),
            scales=(1.0,),
            segment=lambda frame: predict(frame, run),
            doubt_frames=_CANDIDATE_DOUBT_FRAMES,
            before=before,
        )
        seen.write(folder / SEEN_FILE)
    except (EMcopilotError, OSError) as error:
        log.warning("candidate says not what it was trained on reason=%s", error)


class _Readable(Sequence[Frame]):
    """Frames of files, read when asked for: a domain of large ones would fill the memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> Frame:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return read_pixels(self._files[place])
        except DecodeError:
            return np.zeros((1, 1), np.uint8)  # as blank as a frame can be


def write_seen(
    folder: Path, frames: Sequence[Frame], scales: Sequence[float] = (0.5, 1.0, 2.0)
) -> Seen:
    """Write beside the model in `folder` what it was trained on, and return it."""
    network, _ = checkpoint.load(folder)
    run = torch_run(network.float())
    seen = seen_of(
        frames,
        Looker.load(),
        scales=scales,
        segment=lambda frame: predict(frame, run),
    )
    seen.write(folder / SEEN_FILE)
    return seen


def _float(frame: Frame) -> NDArray[np.float32]:
    return np.asarray(frame, np.float32)


def _spread(count: int, most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _doubt(
    frames: Sequence[Frame], segment: Callable[[Frame], NDArray[np.uint8]], most: int
) -> float | None:
    """Return the doubtful share that few known frames exceed; None where nothing is found."""
    shares: list[float] = []
    for number in _spread(len(frames), most).tolist():
        frame = frames[number]
        if ruined(frame) is not None:
            continue
        probability = segment(frame)
        if np.mean(probability >= 128) >= _LEAST_PARTICLE_SHARE:
            shares.append(doubtful_share(probability))
    return float(np.quantile(shares, _QUANTILE)) if shares else None
