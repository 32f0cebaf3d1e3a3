"""One frame measured: sizes, confidence, and the figures kept beside the result."""

import csv
import io
import json
import math

import numpy as np
import pytest

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.decode import Frame
from gpu_server.measure import MeasuredFrame, measure
from gpu_server.particle_rows import Origin, as_csv, contract_columns
from gpu_server.segment import Segmentation

EVEN_AT_20_PX = ParticleConfidence(-6.0, 0.0, 2.0)
"""exp(6 / 2) = 20 px."""


def probability_of(*discs: tuple[float, float, float, int]) -> np.ndarray:
    """Draw discs (y, x, diameter, probability 0..255) on an empty field."""
    y, x = np.ogrid[:96, :160]
    shown = np.zeros((96, 160), np.uint8)
    for centre_y, centre_x, diameter, value in discs:
        shown[np.hypot(y - centre_y, x - centre_x) <= diameter / 2] = value
    return shown


def measured(
    probability: np.ndarray, confidence: ParticleConfidence = IDENTITY
) -> MeasuredFrame:
    frame = Frame(np.full(probability.shape, 100, np.uint16), (0.5, 0.5), "metadata")
    return measure(frame, Segmentation(probability, "m", 0.1, "cpu", confidence))


def test_a_model_without_a_map_gives_the_mean_probability_inside() -> None:
    found = measured(probability_of((40, 40, 30, 230), (40, 110, 30, 150)))
    # The clip at 1/256 touches neither.
    assert found.particles.confidence == pytest.approx([230 / 255, 150 / 255])
    assert found.doubtful == 0  # above one half are all pixels that are called particle


def test_a_models_map_decides_who_is_doubtful_and_all_are_counted() -> None:
    found = measured(
        probability_of((12, 30, 10, 255), (40, 110, 40, 255)), EVEN_AT_20_PX
    )
    # A drawn disc's area is 3 % off at most: so is 2 ln d, by 0.03.
    chances = [1 / (1 + math.exp(6 - 2 * math.log(d))) for d in (10, 40)]
    assert found.particles.confidence == pytest.approx(chances, abs=0.01)
    summary = found.summary()
    assert (summary["doubtful"], summary["particles"], summary["counted"]) == (1, 2, 2)
    assert summary["mean_diameter"] == pytest.approx(12.5, rel=0.03)  # of 5 and 20 nm
    by_area = (chances[0] + 16 * chances[1]) / 17
    assert summary["confidence"] == pytest.approx(by_area, abs=0.01)


@pytest.mark.parametrize("confidence", [IDENTITY, EVEN_AT_20_PX])
def test_an_empty_field_has_no_confidence_and_stays_json(
    confidence: ParticleConfidence,
) -> None:
    found = measured(np.zeros((40, 40), np.uint8), confidence)
    summary = found.summary()
    assert (summary["particles"], summary["confidence"]) == (0, None)
    assert (summary["doubtful"], summary["doubtful_share"]) == (0, 0.0)
    json.dumps(summary, allow_nan=False)  # raises on a NaN, which no browser can read


def test_a_wide_doubtful_rim_is_seen_in_the_share() -> None:
    sharp = probability_of((48, 80, 40, 250))
    blurred = probability_of((48, 80, 56, 100), (48, 80, 40, 250))
    assert measured(sharp).doubtful_share == 0.0
    # The ring's area over the disc's: 56² / 40² - 1.
    assert measured(blurred).doubtful_share == pytest.approx(0.96, rel=0.03)


def test_the_table_as_csv_gives_the_chance_and_not_the_mean_probability() -> None:
    found = measured(probability_of((40, 40, 10, 255)), EVEN_AT_20_PX)
    columns = contract_columns(
        found.particles, Origin("run", 0, None, "m", "metadata"), np.zeros(1, np.bool_)
    )
    (row,) = csv.DictReader(io.StringIO(as_csv(columns)))
    assert float(row["confidence"]) == found.particles.confidence[0] < 0.25
