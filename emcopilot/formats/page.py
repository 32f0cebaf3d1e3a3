"""What every reader of a file format hands over: pages, not yet converted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PixelSize = tuple[float, float]
"""Edge lengths (y, x) of one pixel on the specimen, in nm."""


@dataclass(frozen=True, slots=True)
class Page:
    """One 2-D image in a file: what its header says, and how to get its pixels."""

    shape: tuple[int, ...]
    """(H, W), or (H, W, S) with S samples a pixel, as the header promises."""
    dtype: np.dtype[np.generic]
    """Type of one sample as the file stores it."""
    read: Callable[[], NDArray[np.generic]]
    """Reads this page alone; nothing else of the file is held in memory."""
    pixel_size_nm: PixelSize | None = None
    modality: str | None = None
    time_s: float | None = None
    """Seconds since the file's first page."""
    magnification: float | None = None
    binning: float | None = None
    instrument: str | None = None
    detector: str | None = None
    sample: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def decoded_bytes(self) -> int:
        """Memory that the pixels will take, by the header's promise."""
        size = self.dtype.itemsize
        for side in self.shape:
            size *= int(side)  # Python's integers: a bomb's sides must not overflow
        return size


@dataclass(frozen=True, slots=True)
class Contents:
    """All images of one file, in file order."""

    format: str
    """The format's name as a microscopist knows it, for messages."""
    pages: Sequence[Page]
    skipped: tuple[str, ...] = ()
    """What else the file holds (spectra, 4-D data, thumbnails), one line each."""


@dataclass(frozen=True, slots=True)
class Source:
    """The file to read, and the name it had on the microscope."""

    path: Path
    """Where the bytes lie; on the server a blob without an extension."""
    name: str
    size: int
    """Bytes in the file."""
