"""The ARDA part of the data folder: supported catalysts with boxes, split by sample family.

    EMCOPILOT_DATA=... python benchmarks/arda.py masks.png    # look at the masks from boxes

A box says where a particle is, not where its edge is. `mask_from_boxes` draws the edge where the
contrast against the surroundings of the box has fallen to half, which is also where the truth of
simulated frames lies. Such masks are for training only; scores count centres in boxes.
"""

import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from emps import data_folder
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.box_truth import Boxes, read_boxes
from models.datasets import LabelledFrame, is_held_out, label, read_pixels
from models.segmentation_metrics import FloatArray

SPLIT_SEED, SPLIT_FRACTION = 2, 0.34
"""The first seed that leaves HAADF and BF families in both parts."""
BRIGHT_FIELD = "Pt_carbon"
"""The bright-field family that this split trains on; the other is PtC."""
BRIGHT_FIELD_KEY = "boxed_bright_field"
"""Under which a model's card says which one it was."""
RIM = 0.35
"""Of a box's side: how far its surroundings reach."""
LEAST_FILLED = 0.2
"""Of the inscribed ellipse: where thresholding found less, the ellipse stands in."""
ELLIPSE_SHRINK = 0.87
"""Boxes run wide: a particle's threshold diameter is 0.79 to 0.96 of its box's."""


@dataclass(frozen=True, slots=True)
class ArdaImage:
    """One micrograph and the boxes that people drew round its particles."""

    path: Path
    boxes: Boxes
    is_bright: bool
    """Whether particles are brighter than their support: HAADF, not BF."""

    @property
    def family(self) -> str:
        """The sample without its number."""
        return re.sub(r"\d+$", "", self.path.stem)


def read_arda(folder: Path) -> list[ArdaImage]:
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["file"].startswith("arda_stem/")]
    return [
        ArdaImage(
            folder / row["file"],
            read_boxes(folder / row["boxes_file"]),
            is_bright="HAADF" in row["modality"],
        )
        for row in rows
    ]


def split_families(
    images: list[ArdaImage], bright_field: str = BRIGHT_FIELD
) -> tuple[list[ArdaImage], list[ArdaImage]]:
    """Return (training, validation); no sample family is in both for the same kind of image.

    Parameters
    ----------
    images : list of ArdaImage
    bright_field : str
        The one of the two bright-field families that is trained on, "" for neither: each fold of
        leaving one out trains on the other.
    """
    held_out = [
        image
        for image in images
        if (
            is_held_out(image.family, seed=SPLIT_SEED, fraction=SPLIT_FRACTION)
            if image.is_bright
            else image.family != bright_field
        )
    ]
    return [image for image in images if image not in held_out], held_out


def labelled(image: ArdaImage) -> LabelledFrame:
    """Return the frame with a mask made from its boxes."""
    pixels = np.asarray(read_pixels(image.path), np.float32)
    return label(image.path.stem, pixels, mask_from_boxes(pixels, image))


def mask_from_boxes(pixels: NDArray[np.float32], image: ArdaImage) -> NDArray[np.bool_]:
    """Cut each box at half the contrast against its surroundings; returns (H, W)."""
    sign = 1.0 if image.is_bright else -1.0
    boxed = np.zeros(pixels.shape, bool)
    for box in image.boxes.corners:
        boxed[_window(box, 0.0, pixels.shape)] = True
    mask = np.zeros(pixels.shape, bool)
    for box in image.boxes.corners:
        wide = _window(box, RIM, pixels.shape)
        inside = _particle(sign * pixels[wide], boxed[wide], box, wide)
        mask[wide] |= inside
    return mask


def _window(box: FloatArray, rim: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    reach = rim * max(x1 - x0, y1 - y0)
    rows = slice(max(0, int(y0 - reach)), min(shape[0], int(np.ceil(y1 + reach))))
    columns = slice(max(0, int(x0 - reach)), min(shape[1], int(np.ceil(x1 + reach))))
    return rows, columns


def _particle(
    patch: NDArray[np.float32],
    boxed: NDArray[np.bool_],
    box: FloatArray,
    window: tuple[slice, slice],
) -> NDArray[np.bool_]:
    """Return the particle of one box; `patch` shows it bright."""
    x0, y0, x1, y1 = box
    rows, columns = np.mgrid[window]
    half_y, half_x = max((y1 - y0) / 2, 1.0), max((x1 - x0) / 2, 1.0)
    centre_y, centre_x = (y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2
    radius = np.hypot((rows - centre_y) / half_y, (columns - centre_x) / half_x)
    ellipse = radius <= ELLIPSE_SHRINK
    smooth = ndimage.gaussian_filter(patch, max(0.5, 0.12 * min(half_x, half_y)))
    around = ~boxed if (~boxed).sum() >= 8 else radius > 1.2
    core = radius <= 0.4
    if not around.any() or not core.any():
        return ellipse
    ground = float(np.median(smooth[around]))
    peak = float(np.percentile(smooth[core], 75))
    if peak <= ground:
        return ellipse
    half = (ground + peak) / 2
    cut = (smooth > half) & (radius <= 1.1)
    parts = np.asarray(ndimage.label(cut)[0])
    kept = np.unique(parts[core & cut])
    found = np.asarray(ndimage.binary_fill_holes(np.isin(parts, kept[kept > 0])))
    is_plausible = found.sum() >= LEAST_FILLED * ellipse.sum()
    return found if is_plausible else ellipse


def main() -> None:
    """Draw the outlines of all masks from boxes into one picture."""
    side = 700
    images = read_arda(data_folder())
    sheet = Image.new("RGB", (side * 6, side * -(-len(images) // 6)))
    for number, image in enumerate(images):
        pixels = np.asarray(read_pixels(image.path), np.float32)
        mask = mask_from_boxes(pixels, image)
        low, high = np.percentile(pixels, (0.5, 99.5))
        grey = (np.clip((pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        colour = np.stack([grey] * 3, axis=-1)
        colour[mask & ~ndimage.binary_erosion(mask)] = (255, 60, 60)
        corner = (number % 6 * side, number // 6 * side)
        sheet.paste(Image.fromarray(colour[:side, :side]), corner)
    sheet.save(sys.argv[1])


if __name__ == "__main__":
    main()
