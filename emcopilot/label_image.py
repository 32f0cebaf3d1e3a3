"""Instance labels as a TIFF that ImageJ, napari and scikit-image open."""

import io

import numpy as np
import tifffile
from numpy.typing import NDArray

from emcopilot.errors import DecodeError


def encode_labels(
    labels: NDArray[np.int32], pixel_size_nm: tuple[float, float] | None = None
) -> bytes:
    """Write labels as one deflated TIFF page.

    Parameters
    ----------
    labels : int32 array, shape (H, W)
        0 is background, 1..P the particles.
    pixel_size_nm : (float, float), optional
        Pixel edges (y, x) in nm, written as an ImageJ-readable scale; None writes no scale.

    Returns
    -------
    bytes
        uint16 up to 65,535 particles, uint32 above.
    """
    dtype = np.uint16 if labels.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    target = io.BytesIO()
    description, resolution = None, None
    if pixel_size_nm:
        description = "ImageJ=1.11a\nunit=nm\n"
        resolution = (1.0 / pixel_size_nm[1], 1.0 / pixel_size_nm[0])
    tifffile.imwrite(
        target,
        labels.astype(dtype),
        compression="zlib",
        # Long runs of one value: the fastest level is already small.
        compressionargs={"level": 1},
        predictor=False,
        photometric="minisblack",
        description=description,
        resolution=resolution,
        resolutionunit="NONE" if resolution else None,
        metadata=None,
    )
    return target.getvalue()


def decode_labels(data: bytes) -> NDArray[np.int32]:
    """Read what `encode_labels` wrote; shape (H, W), int32.

    Raises
    ------
    DecodeError
        If the bytes are not such an image.
    """
    try:
        labels = tifffile.imread(io.BytesIO(data))
    except (ValueError, tifffile.TiffFileError) as error:
        raise DecodeError(f"not a label image: {error}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DecodeError(
            f"not a label image: got shape {labels.shape} {labels.dtype}, expected (H, W) integers"
        )
    return labels.astype(np.int32)
