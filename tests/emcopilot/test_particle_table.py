"""Storing a table, reading it back, and which particles count."""

import csv
import io
import json

import numpy as np
import pytest

from emcopilot.errors import StoreError
from emcopilot.particle_table import ParticleTable, countable
from emcopilot.particles import measure_particles

CONTRACT = [
    "label",
    "centroid_y_px",
    "centroid_x_px",
    "area_px",
    "area_nm2",
    "equivalent_diameter_px",
    "equivalent_diameter_nm",
    "feret_diameter_max_nm",
    "feret_diameter_min_nm",
    "perimeter_nm",
    "eccentricity",
    "solidity",
    "circularity",
    "aspect_ratio",
    "mean_intensity",
    "touches_border",
    "confidence",
]


def table_of(count: int, *, calibrated: bool = True) -> ParticleTable:
    labels = np.zeros((20, 20 * max(count, 1)), np.int32)
    for i in range(count):
        labels[(0 if i == 0 else 4) : 10 + i % 5, 20 * i + 3 : 20 * i + 12] = i + 1
    pitch = (0.25, 0.5) if calibrated else None
    return measure_particles(labels, labels, pixel_size_nm=pitch)


def test_columns_have_the_contract_names_in_order() -> None:
    assert list(table_of(2).columns()) == CONTRACT


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_stored_table_comes_back_bit_by_bit(count: int, calibrated: bool) -> None:
    table = table_of(count, calibrated=calibrated)
    again = ParticleTable.from_bytes(table.to_bytes())
    for name, column in table.columns().items():
        found = again.columns()[name]
        np.testing.assert_array_equal(found, column)
        assert found.dtype == column.dtype, name


def test_a_cut_or_padded_blob_is_refused() -> None:
    blob = table_of(3).to_bytes()
    for size in (0, 3, 11, 12, 200, len(blob) - 1):
        with pytest.raises(StoreError):
            ParticleTable.from_bytes(blob[:size])
    with pytest.raises(StoreError, match="expected"):
        ParticleTable.from_bytes(blob + b"\0")


@pytest.mark.parametrize("place", [0, 4, 6, 20])
def test_a_damaged_head_is_refused(place: int) -> None:
    blob = bytearray(table_of(3).to_bytes())
    blob[place] ^= 0xFF
    with pytest.raises(StoreError):
        ParticleTable.from_bytes(bytes(blob))


def test_a_huge_count_is_refused_before_memory_is_taken() -> None:
    blob = bytearray(table_of(1).to_bytes())
    blob[8:12] = b"\xff\xff\xff\xff"
    with pytest.raises(StoreError, match="bytes"):
        ParticleTable.from_bytes(bytes(blob))


def test_rows_are_plain_values_for_json_and_csv() -> None:
    rows = list(table_of(2, calibrated=False).rows())
    assert [row["label"] for row in rows] == [1, 2]
    assert rows[0]["area_nm2"] is None
    assert rows[0]["touches_border"] is True
    json.dumps(rows, allow_nan=False)
    sheet = csv.DictWriter(io.StringIO(), CONTRACT)
    sheet.writerows(rows)


def test_whole_and_accepted_particles_count() -> None:
    table = table_of(4)
    assert countable(table).tolist() == [False, True, True, True]
    rejected = np.array([False, False, True, False])
    assert countable(table, rejected).tolist() == [False, True, False, True]
    assert countable(table_of(0)).shape == (0,)


def test_diameters_follow_the_calibration() -> None:
    known, unknown = table_of(2), table_of(2, calibrated=False)
    assert known.diameters() is known.equivalent_diameter_nm
    assert unknown.diameters() is unknown.equivalent_diameter_px
