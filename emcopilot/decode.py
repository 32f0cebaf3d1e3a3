"""A file from a microscope -> frames: pixels, and what the file knows of their scale.

    with open_frames(path) as file:
        for page in range(len(file)):
            frame = file.read(page)

Readers live in `emcopilot.formats`, one module a format; this module chooses one, checks its
promises before any pixel is decoded, and turns whatever it stores into `Frame`. It is the
border to third-party parsers that read hostile bytes: whatever they raise leaves here as a
`DecodeError`. The server runs it in worker processes only (`gpu_server.sandbox`).
"""

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import DecodeError, RefusedError
from emcopilot.formats.page import Contents, Page, PixelSize, Source
from emcopilot.formats.pixels import as_image, plain_type
from emcopilot.formats.sniff import Format, Opener, sniff

MAX_SIDE_PX = 16384
MAX_DECODED_BYTES = 2**30
MAX_EXPANSION = 10_000
"""Decoded bytes per byte of file; honest compression stays far below, bombs do not."""
MAX_PAGES = 200_000
MAX_NAME_CHARS = 200
"""Of a detector or a sample: users write whole stories there."""

METADATA = "metadata"
"""`pixel_size_source` of a size that the file itself states."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One acquired image and what its pixels mean."""

    pixels: NDArray[np.generic]
    """Shape (H, W), detector counts in the file's own type, never rescaled."""
    pixel_size_nm: PixelSize | None = None
    """Edges (y, x) of a pixel; None is uncalibrated: sizes are then in px only."""
    pixel_size_source: str | None = None
    """"metadata", "sidecar", "magnification table" or "operator"."""
    modality: str | None = None
    """HAADF, BF, TEM, SEM, ... as the file says."""
    time_s: float | None = None
    """Seconds since the file's first frame, when the file says."""
    notes: tuple[str, ...] = ()
    """What was converted, or looks odd."""
    magnification: float | None = None
    """As the microscope indicated it; a table in the settings may turn it into nm."""
    binning: float | None = None
    """Camera pixels along one edge of a pixel; None when the file does not say."""
    instrument: str | None = None
    """The microscope's name in the metadata."""
    detector: str | None = None
    """The detector's or camera's name, as the file says."""
    sample: str | None = None
    """What lies in the microscope, as its user wrote it there."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a file is, without its pixels; of several frames, the first is described."""

    frames: int
    shape: tuple[int, int] | None = None
    dtype: str | None = None
    pixel_size_nm: PixelSize | None = None
    pixel_size_source: str | None = None
    modality: str | None = None
    refused: str | None = None
    """Why no frame can be read; None when there is one."""
    notes: tuple[str, ...] = ()
    magnification: float | None = None
    binning: float | None = None
    instrument: str | None = None
    detector: str | None = None
    sample: str | None = None


class FrameFile:
    """An open file; `read` decodes one page and holds no other."""

    def __init__(
        self, source: Source, contents: Contents, notes: Sequence[str]
    ) -> None:
        self._source = source
        self._pages = contents.pages
        self.notes = (*notes, *contents.skipped)
        self.report = self._describe()

    def __len__(self) -> int:
        return len(self._pages)

    def read(self, page: int) -> Frame:
        """Decode one page.

        Raises
        ------
        DecodeError
            If there is no such page, it is damaged, or it breaks a limit.
        """
        if not 0 <= page < len(self):
            raise DecodeError(f"{self._source.name} has {len(self)} pages, not {page}")
        chosen = self._pages[page]
        _check_limits(chosen, self._source, page)
        with _as_decode_error(self._source.name), _quiet():
            stored = chosen.read()
            if stored.shape[:2] != chosen.shape[:2]:
                raise DecodeError(
                    f"page {page} promised {_by(chosen.shape[:2])} px, "
                    f"gave {_by(stored.shape[:2])}"
                )
            pixels, converted = as_image(stored)
        return Frame(
            pixels=pixels,
            pixel_size_nm=chosen.pixel_size_nm,
            pixel_size_source=METADATA if chosen.pixel_size_nm else None,
            modality=chosen.modality,
            time_s=chosen.time_s,
            notes=(*self.notes, *chosen.notes, *converted),
            magnification=chosen.magnification,
            binning=chosen.binning,
            instrument=chosen.instrument,
            detector=_short(chosen.detector),
            sample=_short(chosen.sample),
        )

    def _describe(self) -> FileReport:
        first = self._pages[0]
        height, width = first.shape[:2]
        return FileReport(
            frames=len(self),
            shape=(height, width),
            dtype=plain_type(first.dtype).name,
            pixel_size_nm=first.pixel_size_nm,
            pixel_size_source=METADATA if first.pixel_size_nm else None,
            modality=first.modality,
            notes=(*self.notes, *first.notes, *self._differences(first)),
            magnification=first.magnification,
            binning=first.binning,
            instrument=first.instrument,
            detector=_short(first.detector),
            sample=_short(first.sample),
        )

    def _differences(self, first: Page) -> tuple[str, ...]:
        shapes = any(page.shape != first.shape for page in self._pages)
        sizes = any(page.pixel_size_nm != first.pixel_size_nm for page in self._pages)
        both = [
            *(["the frames differ in shape"] if shapes else []),
            *(["the frames differ in pixel size"] if sizes else []),
        ]
        return tuple(both)


@contextmanager
def open_frames(path: Path, name: str | None = None) -> Generator[FrameFile]:
    """Open a file for reading frame by frame.

    Parameters
    ----------
    path : Path
        Where the bytes lie.
    name : str, optional
        The file's name on the microscope, when `path` is a blob without one; its
        extension counts.

    Raises
    ------
    RefusedError
        If the file is sound but holds no 2-D image.
    DecodeError
        If it is no image file, is damaged, or breaks a limit.
    """
    with ExitStack() as keep:
        name = Path(name).name if name else path.name
        with _as_decode_error(name), _quiet():
            source = Source(path, name, path.stat().st_size)
            found, odd = sniff(source)
            contents = _opener(found)(source, keep)
            file = FrameFile(source, _only_images(contents, source), odd)
        yield file


def inspect(path: Path, name: str | None = None) -> FileReport:
    """Describe a file; a bad one gives a report that says why, never an exception."""
    try:
        with open_frames(path, name) as file:
            return file.report
    except DecodeError as error:
        return FileReport(frames=0, refused=str(error))


def _opener(found: Format) -> Opener:
    # Imported on demand: rosettasciio and its dask cost 0.6 s that a TIFF need not pay.
    if found.name == "TIFF":
        from emcopilot.formats.tiff import open_tiff as opener  # noqa: PLC0415
    elif found.name in {"PNG", "JPEG"}:
        from emcopilot.formats.picture import open_picture as opener  # noqa: PLC0415
    elif found.name == "TIA series":
        from emcopilot.formats.tia import open_ser as opener  # noqa: PLC0415
    elif found.name == "TIA header":
        from emcopilot.formats.tia import open_emi as opener  # noqa: PLC0415
    elif found.name == "TVIPS stream":
        from emcopilot.formats.tvips import open_tvips as opener  # noqa: PLC0415
    else:
        from emcopilot.formats import rosetta  # noqa: PLC0415

        opener = {
            "DM3": rosetta.open_dm,
            "DM4": rosetta.open_dm,
            "EMD": rosetta.open_emd,
            "MRC": rosetta.open_mrc,
        }[found.name]
    return opener


def _only_images(contents: Contents, source: Source) -> Contents:
    """Keep pages that are images; refuse a file in which none is, or none may be read."""
    images: list[Page] = []
    skipped = list(contents.skipped)
    for number, page in enumerate(contents.pages[: MAX_PAGES + 1]):
        if min(page.shape[:2], default=0) < 2:
            size = _by(page.shape[:2])
            skipped.append(
                f"page {number}: {size} px is a line, not an image, left out"
            )
        else:
            images.append(page)
    if not contents.pages and not skipped:
        raise DecodeError(
            f"{source.name} holds no image at all: it is cut short or damaged; copy it "
            "again, or save it again from the camera software"
        )
    if not images:
        what = "; ".join(skipped[:5])
        raise RefusedError(
            f"{source.name} holds no 2-D image: {what}. EMcopilot segments images; "
            "export the survey image to a file of its own"
        )
    if len(images) > MAX_PAGES:
        raise DecodeError(f"{source.name} has over {MAX_PAGES} pages; split the stack")
    _check_limits(images[0], source, 0)
    return replace(contents, pages=images, skipped=tuple(skipped))


def _check_limits(page: Page, source: Source, number: int) -> None:
    """Refuse a page by its header's promise, before memory is taken for it."""
    what = f"{source.name}, page {number}: {_by(page.shape[:2])} px"
    if max(page.shape) > MAX_SIDE_PX:
        raise DecodeError(
            f"{what}; the limit is {MAX_SIDE_PX} px a side. "
            "Bin the frame or cut it into fields"
        )
    if page.decoded_bytes > MAX_DECODED_BYTES:
        raise DecodeError(
            f"{what} of {page.dtype} take {page.decoded_bytes / 2**30:.1f} GiB; the limit "
            f"is {MAX_DECODED_BYTES / 2**30:.0f} GiB. Save it with fewer bytes a pixel"
        )
    if page.decoded_bytes > MAX_EXPANSION * max(source.size, 1024):
        raise DecodeError(
            f"{what} in a file of {source.size} bytes: it was cut short, or is made to "
            "fill the memory"
        )
    plain_type(page.dtype)


@contextmanager
def _as_decode_error(name: str) -> Generator[None]:
    """Turn whatever a parser raises on hostile or damaged bytes into a DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except FileNotFoundError as error:
        raise DecodeError(f"{name} is not there any more") from error
    except PermissionError as error:
        raise DecodeError(f"{name} is locked or not readable for this user") from error
    except MemoryError as error:
        raise DecodeError(f"{name} needs more memory than a frame may take") from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"[:300]
        raise DecodeError(
            f"{name} cannot be read: it is cut short or damaged ({cause}); "
            "open it in the camera software and save it again"
        ) from error


@contextmanager
def _quiet() -> Generator[None]:
    """Keep parsers' remarks on odd headers off the console; our notes say what matters."""
    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile", "PIL")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _short(name: str | None) -> str | None:
    """Return a name on one line, so that two spellings of it are one; None if it says nothing."""
    plain = " ".join((name or "").replace("\0", " ").split())
    return plain[:MAX_NAME_CHARS] or None


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(int(side)) for side in shape)
