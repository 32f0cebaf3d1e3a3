"""TIFF of any maker: one page a frame, read alone, never the whole stack."""

# Border to a library without types: what comes from it is typed where it leaves this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from emcopilot.errors import DecodeError
from emcopilot.formats.page import Contents, Page, Source
from emcopilot.formats.tiff_scale import TiffScale, page_scale

WHITE_IS_ZERO, PALETTE = 0, 3
"""Values of the PhotometricInterpretation tag."""
THUMBNAIL, MASK = 1, 4
"""Bits of the NewSubfileType tag."""


def open_tiff(source: Source, keep: ExitStack) -> Contents:
    """Open a TIFF for reading page by page until `keep` closes.

    Parameters
    ----------
    source : Source
        The file.
    keep : ExitStack
        Closes the file when the caller is done with its pages.
    """
    tif = keep.enter_context(TiffFile(source.path))
    skipped: list[str] = []
    pages: list[Page] = []
    planes = _planes_behind_one_page(tif)
    if planes is not None:
        return Contents("TIFF", planes)
    for number, page in enumerate(_image_pages(tif)):
        if page.subfiletype & (THUMBNAIL | MASK) and number > 0:
            skipped.append(f"page {number}: a thumbnail or mask, left out")
            continue
        pages.append(_page(tif, page, len(pages), source))
    return Contents("TIFF", pages, tuple(skipped))


def _image_pages(tif: TiffFile) -> Iterator[TiffPage]:
    for page in tif.pages:
        yield page if isinstance(page, TiffPage) else page.aspage()


def _page(tif: TiffFile, page: TiffPage, index: int, source: Source) -> Page:
    axes = page.axes
    shape = tuple(int(side) for side in page.shape)
    if axes == "SYX":
        shape = (*shape[1:], shape[0])
    scale = page_scale(tif, page)
    notes = scale.notes
    if page.photometric == WHITE_IS_ZERO:
        notes = (*notes, "the file says that 0 is white; counts are kept as stored")
    return Page(
        shape=shape,
        dtype=np.dtype(page.dtype if page.dtype is not None else np.void),
        read=partial(_read_page, page, axes, source),
        pixel_size_nm=scale.pixel_size_nm,
        modality=scale.modality,
        detector=scale.detector,
        sample=scale.sample,
        time_s=_time_s(scale, index),
        magnification=scale.magnification,
        notes=notes,
    )


def _time_s(scale: TiffScale, index: int) -> float | None:
    return None if scale.frame_step_s is None else index * scale.frame_step_s


def _read_page(page: TiffPage, axes: str, source: Source) -> NDArray[np.generic]:
    ends = (a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False))
    needed = max(ends, default=0)
    if needed > source.size:  # a missing strip would be read as zeros
        raise DecodeError(
            f"page {page.index} ends at byte {needed}, the file at {source.size}: "
            "it was cut short; copy it again"
        )
    pixels = page.asarray(maxworkers=1)  # no threads: the decode worker may start none
    if page.photometric == PALETTE and page.colormap is not None:
        pixels = page.colormap[:, pixels]
        axes = "SYX"
    return np.moveaxis(pixels, 0, -1) if axes == "SYX" else pixels


def _planes_behind_one_page(tif: TiffFile) -> list[Page] | None:
    """Stacks of which only the first page has a header (ImageJ above 4 GB, tifffile).

    Their planes lie one after the other behind the first; None for every other file.
    """
    if len(tif.pages) != 1 or len(tif.series) != 1:
        return None
    series, first = tif.series[0], tif.pages.first
    start = series.dataoffset
    if start is None or first.axes != "YX" or series.shape[-2:] != first.shape:
        return None
    count = int(np.prod(series.shape[:-2], dtype=np.int64))
    if series.ndim < 3 or count < 2 or first.dtype is None:
        return None
    scale = page_scale(tif, first)
    stored = np.dtype(tif.byteorder + first.dtype.char)
    return [
        Page(
            shape=tuple(int(side) for side in first.shape),
            dtype=np.dtype(first.dtype),
            read=partial(_read_plane, tif, int(start), index, first.shape, stored),
            pixel_size_nm=scale.pixel_size_nm,
            modality=scale.modality,
            detector=scale.detector,
            sample=scale.sample,
            time_s=_time_s(scale, index),
            magnification=scale.magnification,
            notes=scale.notes,
        )
        for index in range(count)
    ]


def _read_plane(
    tif: TiffFile,
    start: int,
    index: int,
    shape: tuple[int, ...],
    stored: np.dtype[np.generic],
) -> NDArray[np.generic]:
    count = int(np.prod(shape, dtype=np.int64))
    handle = tif.filehandle
    handle.seek(start + index * count * stored.itemsize)
    plane = np.frombuffer(handle.read(count * stored.itemsize), stored)
    if plane.size != count:
        raise DecodeError(
            f"plane {index} has {plane.size} of {count} pixels: the file was cut short; "
            "copy it again"
        )
    return plane.reshape(shape)
