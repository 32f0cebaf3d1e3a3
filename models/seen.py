"""Make `seen.safetensors`: what a model was trained on, and its doubt on that."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emcopilot.confidence import doubtful_share
from emcopilot.domain import left_out_distances, stacked
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
    if before is not None and before.features == looker.features:
        ours = np.concatenate([before.looks, ours])
        of_frame = np.concatenate([-1 - np.arange(len(before.looks)), of_frame])
    chosen = _spread(len(ours), MOST_LOOKS)
    ours, of_frame = ours[chosen], of_frame[chosen]
    scale = float(np.quantile(left_out_distances(ours, of_frame), _QUANTILE))
    if (
        before is not None
    ):  # a narrow domain on top does not make the model know less around
        scale = max(scale, before.scale)
    doubt = _doubt(frames, segment, doubt_frames) if segment else None
    if before is not None and before.doubt is not None:
        doubt = max(doubt or 0.0, before.doubt)
    return Seen(looker.features, ours, max(scale, 1e-3), doubt)


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
