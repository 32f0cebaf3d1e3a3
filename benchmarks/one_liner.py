"""What microscopists have already: Gaussian blur, Otsu's threshold, and an eye for polarity."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from models.segmentation_metrics import pixel_score

BLURS_PX = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)


def one_liner_miou(
    pixels: NDArray[np.generic], truth: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Return its MIoU at each blur; the polarity is told, from the truth.

    Parameters
    ----------
    pixels : real array, shape (H, W)
    truth : bool array, shape (H, W)
    """
    values = np.asarray(pixels, np.float32)
    dark = is_dark(values, truth)
    scores: list[float] = []
    for blur_px in BLURS_PX:
        blurred = ndimage.gaussian_filter(values, blur_px) if blur_px else values
        bright = blurred > threshold_otsu(blurred)
        scores.append(pixel_score(~bright if dark else bright, truth).miou)
    return tuple(scores)


def is_dark(pixels: NDArray[np.floating], truth: NDArray[np.bool_]) -> bool:
    """Tell whether particles are darker than what surrounds them."""
    return bool(pixels[truth].mean() < pixels[~truth].mean()) if truth.any() else True
