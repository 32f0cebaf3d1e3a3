"""PNG and JPEG: pixels, never a scale; their dpi is the screen's."""

# Border to a library without types: what comes from it is typed where it leaves this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emcopilot.formats.page import Contents, Page, Source

_STORED = {
    "1": (np.uint8, 1), "L": (np.uint8, 1), "P": (np.uint8, 1), "LA": (np.uint8, 2),
    "RGB": (np.uint8, 3), "RGBA": (np.uint8, 4), "CMYK": (np.uint8, 4),
    "YCbCr": (np.uint8, 3), "I;16": (np.uint16, 1), "I;16B": (np.uint16, 1),
    "I": (np.int32, 1), "F": (np.float32, 1),
}  # fmt: skip
"""Pillow's mode -> type and samples of a pixel."""


def open_picture(source: Source, keep: ExitStack) -> Contents:
    """Open a PNG or JPEG; its header is read, its pixels only on demand."""
    with _without_pillows_limit():
        image = keep.enter_context(Image.open(source.path, formats=("PNG", "JPEG")))
    dtype, samples = _STORED[image.mode]
    shape = (image.height, image.width)
    notes = ("a JPEG: its compression alters edges",) if image.format == "JPEG" else ()
    page = Page(
        shape=shape if samples == 1 else (*shape, samples),
        dtype=np.dtype(dtype),
        read=partial(_read, image),
        notes=notes,
    )
    return Contents(image.format or "PNG", [page])


@contextmanager
def _without_pillows_limit() -> Generator[None]:
    """Leave the size to the limits of `decode`: they look at the header, too.

    Pillow's own limit is below 16384 x 16384 px, and its message names no way out.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read(image: Image.Image) -> NDArray[np.generic]:
    if image.mode in {"P", "CMYK", "YCbCr"}:
        return np.asarray(image.convert("RGB"))
    return np.asarray(image)
