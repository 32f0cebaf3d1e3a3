"""What a simulated frame really shows, one JSON line a frame."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import TypeAdapter, ValidationError

from emcopilot.dynamics import Event
from emcopilot.errors import DecodeError
from emcopilot.simulate import Micrograph, Mode, TrueParticle


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """The particles of one page of one file."""

    file: str
    """Name of the file, relative to the acquisition folder."""
    page: int
    """0 is the file's first."""
    frame: int
    """Number in the film, from 0."""
    time_s: float
    """Since the first frame, on the specimen's clock."""
    mode: Mode
    shape: tuple[int, int]
    pixel_size_nm: float
    counted: int
    """Particles that the border leaves whole."""
    mean_diameter_nm: float | None
    """Their mean equivalent diameter; None without any."""
    particles: tuple[TrueParticle, ...]
    events: tuple[Event, ...]

    def diameters_nm(self) -> list[float]:
        """Give the diameters of the counted particles."""
        return [
            p.equivalent_diameter_nm for p in self.particles if not p.touches_border
        ]


_FRAME = TypeAdapter(FrameTruth)


def frame_truth(
    micrograph: Micrograph, *, file: str, page: int, frame: int, time_s: float
) -> FrameTruth:
    """Write down what `micrograph` shows and where it was stored."""
    mean_nm = micrograph.mean_diameter_nm
    height, width = micrograph.labels.shape
    return FrameTruth(
        file=file,
        page=page,
        frame=frame,
        time_s=time_s,
        mode=micrograph.mode,
        shape=(height, width),
        pixel_size_nm=micrograph.pixel_size_nm,
        counted=sum(not p.touches_border for p in micrograph.particles),
        mean_diameter_nm=None if math.isnan(mean_nm) else mean_nm,
        particles=micrograph.particles,
        events=micrograph.events,
    )


def append_truth(file: IO[bytes], truths: Iterable[FrameTruth]) -> None:
    """Add lines to an open truth file, and let no buffer keep them."""
    for truth in truths:
        file.write(_FRAME.dump_json(truth) + b"\n")
    file.flush()


def read_truth(path: Path) -> list[FrameTruth]:
    """Read a truth file in the order of acquisition.

    A later line about the same page of the same file replaces the earlier one: a run
    into an emptied folder uses its names again.

    Raises
    ------
    DecodeError
        If a line is not a frame's truth.
    """
    frames: dict[tuple[str, int], FrameTruth] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            truth = _FRAME.validate_json(line)
        except ValidationError as error:
            raise DecodeError(
                f"{path}: line {number} is not a frame's truth ({error.error_count()} "
                "fields are wrong); simulate again"
            ) from error
        frames.pop((truth.file, truth.page), None)
        frames[truth.file, truth.page] = truth
    return list(frames.values())


def mean_diameter_nm(frames: Iterable[FrameTruth]) -> float:
    """Return the mean over all counted particles of all frames; NaN without any."""
    diameters = [d for truth in frames for d in truth.diameters_nm()]
    return float(np.mean(diameters)) if diameters else math.nan
