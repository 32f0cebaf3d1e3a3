"""Frames as files: calibrated TIFF and MRC, delivered the ways camera software does."""

import io
import os
import struct
import time
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

Pages = NDArray[np.uint8 | np.uint16]
Delivery = Literal["rename", "slow"]

MRC_UINT16 = 6
"""MRC mode of unsigned 16-bit pixels; mode 0 is signed, so 8-bit frames are widened."""
ANGSTROM_PER_NM = 10.0


def tiff_bytes(
    pages: Pages, pixel_size_nm: float, modality: str, frame_step_s: float | None = None
) -> bytes:
    """Encode a frame or a stack as an ImageJ TIFF whose unit is nm.

    Parameters
    ----------
    pages : uint8 or uint16 array, shape (H, W) or (T, H, W)
    pixel_size_nm : float
        Edge of one square pixel.
    modality : str
        Written where ImageJ keeps free text, e.g. "HAADF".
    frame_step_s : float, optional
        Time between two pages of a stack.
    """
    metadata: dict[str, object] = {"unit": "nm", "Info": f"Modality={modality}"}
    if pages.ndim == 3:
        metadata["axes"] = "TYX"
        if frame_step_s:
            metadata["finterval"] = frame_step_s
    buffer = io.BytesIO()
    per_nm = 1 / pixel_size_nm
    tifffile.imwrite(  # pyright: ignore[reportUnknownMemberType]
        buffer, pages, imagej=True, resolution=(per_nm, per_nm), metadata=metadata
    )
    return buffer.getvalue()


def mrc_bytes(pages: Pages, pixel_size_nm: float, modality: str) -> bytes:
    """Encode a frame or a stack as MRC2014: pixel size is cell length over samples.

    Parameters are those of `tiff_bytes`.
    """
    stack = pages if pages.ndim == 3 else pages[None]
    count, height, width = stack.shape
    step = pixel_size_nm * ANGSTROM_PER_NM
    header = struct.pack(
        "<10i6f3i3f2i",
        *(width, height, count, MRC_UINT16),
        *(0, 0, 0),
        *(width, height, count),
        *(width * step, height * step, count * step),
        *(90.0, 90.0, 90.0),
        *(1, 2, 3),
        *(float(stack.min()), float(stack.max()), float(stack.mean())),
        *(0, 0),  # space group 0: a stack of images; no extended header
    )
    header = header.ljust(108, b"\0") + struct.pack("<i", 20141)
    header = header.ljust(208, b"\0") + b"MAP " + b"\x44\x44\0\0"
    header += struct.pack("<fi", float(stack.std()), 1)
    header += f"EMcopilot virtual microscope, {modality}".encode().ljust(80)
    return header.ljust(1024, b"\0") + stack.astype("<u2").tobytes()


def deliver(path: Path, content: bytes, how: Delivery, pause_s: float = 0.3) -> None:
    """Write a file as camera software does.

    Parameters
    ----------
    path : Path
        Final name; its folder exists.
    content : bytes
    how : {"rename", "slow"}
        "rename": under a temporary name, then renamed. "slow": under the final name, the
        first part, a pause, the rest.
    pause_s : float
        Of a slow write.
    """
    if how == "rename":
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return
    # Past the header and the first rows: what lies on disk now looks like a frame.
    first = len(content) * 2 // 5
    with path.open("wb") as file:
        file.write(content[:first])
        file.flush()
        try:
            time.sleep(pause_s)
        finally:  # Ctrl-C in the pause still leaves a whole frame
            file.write(content[first:])
