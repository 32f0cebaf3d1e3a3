"""Truth that says where particles are but not where their edges run: boxes in a CSV.

A box is found by the first centre of a particle within it; every other centre is false. Sizes are
compared as distributions. Boxes run wide, though: a particle's threshold diameter is 0.79 to 0.96
of its box's, so a perfect answer has a median below that of the boxes and a distance of sizes
above zero. Compare models by them, not a model with zero.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from emcopilot.errors import ConfigError, DecodeError
from emcopilot.labels import label_particles
from emcopilot.particle_table import ParticleTable
from emcopilot.particles import measure_particles
from models.datasets import match_stems
from models.scores import Probability
from models.segmentation_metrics import FloatArray, Mask, size_distance_px

BOXES_RUN_WIDE = (
    "boxes run wide: a threshold diameter is 0.79-0.96 of its box's, so the found median is "
    "rightly below the boxes'"
)
CORNERS = ("x0", "y0", "x1", "y1")
DIAMETER = "eq_diam_px"
OVERHANG_PX = 2.0
"""How far a box may reach past the image: hands are not exact, other images are."""


@dataclass(frozen=True, slots=True)
class BoxScore:
    """The scores of one image; the names are the command's stable keys."""

    name: str
    f1: float
    precision: float
    recall: float
    found: int
    """Particles of the answer."""
    boxed: int
    """Boxes of the truth."""
    count_error_percent: float
    """NaN where no particle is boxed."""
    median_diameter_px: float
    """Of the found particles that the border leaves whole; NaN if there is none."""
    median_box_diameter_px: float
    """Of the boxes clear of the border."""
    size_wasserstein_px: float
    """Distance of those two distributions; never zero, because boxes run wide."""


BOX_METRICS = tuple(field.name for field in fields(BoxScore))[1:]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of one image."""

    corners: FloatArray
    """Shape (N, 4): x0, y0, x1, y1 in px; (0, 0) is the image's top left corner."""
    diameters_px: FloatArray
    """Shape (N,)."""

    def score(self, name: str, probability: Probability) -> BoxScore:
        """Score a probability map, uint8 (H, W)."""
        labels = label_particles(probability)
        table = measure_particles(labels, labels)
        centres = centres_of(table)
        hits, found, boxed = self.hits(centres), len(table), len(self.corners)
        sizes = table.equivalent_diameter_px[~table.touches_border]
        box_sizes = self.diameters_px[~self._cut_by(labels.shape)]
        is_right = found == boxed == 0
        return BoxScore(
            name=name,
            f1=self.f1(centres),
            precision=1.0 if is_right else hits / max(found, 1),
            recall=1.0 if is_right else hits / max(boxed, 1),
            found=found,
            boxed=boxed,
            count_error_percent=100 * (found - boxed) / boxed if boxed else math.nan,
            median_diameter_px=_median(sizes),
            median_box_diameter_px=_median(box_sizes),
            size_wasserstein_px=size_distance_px(sizes, box_sizes),
        )

    def hits(self, centres: FloatArray) -> int:
        """Count the boxes found by `centres`, shape (P, 2), (x, y) in the boxes' px.

        Where boxes overlap, a centre finds the nearest that no centre before it has found.
        """
        x0, y0, x1, y1 = self.corners.T
        is_free = np.ones(len(self.corners), np.bool_)
        for x, y in centres:
            inside = is_free & (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
            if inside.any():
                away = np.hypot((x0 + x1) / 2 - x, (y0 + y1) / 2 - y)
                is_free[np.argmin(np.where(inside, away, np.inf))] = False
        return int(np.count_nonzero(~is_free))

    def f1(self, centres: FloatArray) -> float:
        """Return the F1 of `centres`, as `hits` takes them; 1 where nothing is nor was found."""
        total = len(self.corners) + len(centres)
        return 2 * self.hits(centres) / total if total else 1.0

    @property
    def is_empty(self) -> bool:
        """Say whether there is no particle."""
        return len(self.corners) == 0

    def outline(self, shape: tuple[int, ...]) -> Mask:
        """Return the pixels of the boxes' sides, bool (H, W)."""
        drawn = np.zeros(shape, np.bool_)
        last = np.array([shape[1], shape[0]] * 2) - 1
        for x0, y0, x1, y1 in np.clip(np.floor(self.corners), 0, last).astype(int):
            drawn[[y0, y1], x0 : x1 + 1] = True
            drawn[y0 : y1 + 1, [x0, x1]] = True
        return drawn

    def _cut_by(self, shape: tuple[int, ...]) -> Mask:
        """Say which boxes touch the border: their particles' sizes are not known."""
        x0, y0, x1, y1 = self.corners.T
        return (x0 < 1) | (y0 < 1) | (x1 > shape[1] - 1) | (y1 > shape[0] - 1)


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """Where one image lies, and its boxes."""

    image: Path
    boxes: Boxes

    @property
    def name(self) -> str:
        """The stem that image and CSV share."""
        return self.image.stem

    def boxes_within(self, shape: tuple[int, ...]) -> Boxes:
        """Return the boxes of an image of this shape (H, W).

        Raises
        ------
        DecodeError
            If a box lies outside: the boxes were drawn on the image at another size.
        """
        low = self.boxes.corners.min(initial=0.0)
        reach = self.boxes.corners[:, 2:].max(axis=0, initial=0.0)
        if low < -OVERHANG_PX or (reach > np.array(shape[::-1]) + OVERHANG_PX).any():
            raise DecodeError(
                f"{self.image.name} is {shape[1]} x {shape[0]} px, its boxes reach "
                f"from {low:g} to {reach.tolist()}; give them in px of this image"
            )
        return self.boxes


def find_boxed(images: Path, boxes: Path) -> list[BoxedImage]:
    """Match the images of one folder with the box files (CSV) of another by stem.

    Raises
    ------
    ConfigError
        If a folder is missing, an image has no CSV, or a CSV is not a table of boxes.
    """
    found = match_stems(images, boxes, frozenset({".csv"}), truth="box file")
    return [BoxedImage(image, read_boxes(table)) for image, table in found]


def read_boxes(path: Path) -> Boxes:
    """Read a CSV with the columns x0, y0, x1, y1 in px and, if it has it, eq_diam_px.

    Without that column a box's diameter is that of the ellipse drawn into it.

    Raises
    ------
    ConfigError
        If a column is missing or a number is none; the message names file and line.
    """
    try:
        # Spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(csv.DictReader(file, skipinitialspace=True), path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the boxes {path}: {error}") from error
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Boxes(corners=table[:, :4], diameters_px=table[:, 4])


def _rows(reader: "csv.DictReader[str]", path: Path) -> Iterator[list[float]]:
    columns = reader.fieldnames or ()
    if missing := [name for name in CORNERS if name not in columns]:
        raise ConfigError(
            f"{path} lacks the columns {', '.join(missing)}; got {', '.join(columns)}; "
            f"expected {','.join(CORNERS)} in px, separated by commas"
        )
    wanted = (*CORNERS, DIAMETER) if DIAMETER in columns else CORNERS
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        numbers = [_number(row[name], name, where) for name in wanted]
        x0, y0, x1, y1 = numbers[:4]
        if x1 <= x0 or y1 <= y0:
            raise ConfigError(
                f"{where}: a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) is empty; "
                "expected x0 < x1 and y0 < y1"
            )
        diameter = numbers[4] if len(numbers) > 4 else math.sqrt((x1 - x0) * (y1 - y0))
        yield [x0, y0, x1, y1, diameter]


def _number(text: str | None, column: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {column} is {text!r}, expected a number of px")
    return value


def centres_of(table: ParticleTable) -> FloatArray:
    """Return (P, 2), (x, y): boxes count from a pixel's corner, centroids from its centre."""
    return np.column_stack([table.centroid_x_px, table.centroid_y_px]) + 0.5


def _median(diameters: FloatArray) -> float:
    return float(np.median(diameters)) if diameters.size else math.nan
