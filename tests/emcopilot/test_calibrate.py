"""Where nanometres come from, and what never becomes one."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from emcopilot.calibrate import (
    Calibration,
    MagnificationRow,
    calibrate,
    find_sidecar,
    parse_sidecar,
    sidecar_pixel_size_nm,
)
from emcopilot.decode import Frame
from emcopilot.errors import CalibrationError

PIXELS = np.zeros((4, 6), np.uint16)
PLAIN = Frame(PIXELS)
WITH_METADATA = Frame(PIXELS, pixel_size_nm=(0.5, 0.4), pixel_size_source="metadata")
MAGNIFIED = Frame(PIXELS, magnification=40_000, instrument="Titan")
TABLE = (
    MagnificationRow(magnification=40_000, pixel_size_nm=0.3),
    MagnificationRow(magnification=80_000, pixel_size_nm=0.15),
)


def test_a_frame_of_which_nothing_is_known_stays_in_px() -> None:
    frame = calibrate(PLAIN, Calibration(table=TABLE))
    assert frame.pixel_size_nm is None
    assert frame.pixel_size_source is None


def test_each_source_gives_way_to_the_stronger_one() -> None:
    known = Calibration(operator_nm=(1.0, 2.0), sidecar_nm=(3.0, 3.0), table=TABLE)
    frame = calibrate(WITH_METADATA, known)
    assert (frame.pixel_size_nm, frame.pixel_size_source) == ((1.0, 2.0), "operator")

    known = Calibration(sidecar_nm=(3.0, 3.0), table=TABLE)
    frame = calibrate(WITH_METADATA, known)
    assert (frame.pixel_size_nm, frame.pixel_size_source) == ((0.5, 0.4), "metadata")

    frame = calibrate(MAGNIFIED, known)
    assert (frame.pixel_size_nm, frame.pixel_size_source) == ((3.0, 3.0), "sidecar")

    frame = calibrate(MAGNIFIED, Calibration(table=TABLE))
    assert frame.pixel_size_nm == (0.3, 0.3)
    assert frame.pixel_size_source == "magnification table"


def test_pixels_and_all_else_are_untouched() -> None:
    frame = calibrate(MAGNIFIED, Calibration(operator_nm=(1.0, 1.0)))
    assert frame.pixels is MAGNIFIED.pixels
    assert frame.magnification == MAGNIFIED.magnification


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_an_operators_slip_is_said(bad: float) -> None:
    with pytest.raises(CalibrationError, match="cannot be right"):
        calibrate(PLAIN, Calibration(operator_nm=(1.0, bad)))


def test_indicated_magnifications_are_rounded() -> None:
    for indicated, expected in ((39_900, 0.3), (40_150, 0.3), (41_000, None)):
        frame = calibrate(
            Frame(PIXELS, magnification=indicated), Calibration(table=TABLE)
        )
        assert frame.pixel_size_nm == ((expected, expected) if expected else None)


@pytest.mark.parametrize("pixel_size_nm", [0.0, float("nan"), float("inf"), 1e9])
def test_a_row_that_cannot_be_right_is_refused_at_start(pixel_size_nm: float) -> None:
    with pytest.raises(ValidationError):
        MagnificationRow(magnification=40_000, pixel_size_nm=pixel_size_nm)


def test_binning_widens_the_tables_pixel() -> None:
    frame = Frame(PIXELS, magnification=40_000, binning=4)
    assert calibrate(frame, Calibration(table=TABLE)).pixel_size_nm == (1.2, 1.2)


def test_a_row_for_the_instrument_comes_before_a_row_for_all() -> None:
    table = (
        *TABLE,
        MagnificationRow(magnification=40_000, pixel_size_nm=0.7, instrument="Titan"),
        MagnificationRow(magnification=40_000, pixel_size_nm=0.9, instrument="Other"),
    )
    assert calibrate(MAGNIFIED, Calibration(table=table)).pixel_size_nm == (0.7, 0.7)
    elsewhere = Frame(PIXELS, magnification=40_000)
    assert calibrate(elsewhere, Calibration(table=table)).pixel_size_nm == (0.3, 0.3)


@pytest.mark.parametrize(
    ("name", "text", "expected_nm"),
    [
        ("a.json", '{"pixel_size_nm": 0.21}', (0.21, 0.21)),
        ("a.json", '{"pixel_size_nm": [0.4, 0.2], "operator": "AB"}', (0.4, 0.2)),
        ("a.json", '{"Pixel Size nm": 0.21}', (0.21, 0.21)),
        ("a.json", '{"pixel_size": 0.21, "unit": "um"}', (210.0, 210.0)),
        ("a.json", '{"pixel_size": "0.21 µm"}', (210.0, 210.0)),
        ("a.json", '{"pixel_size": 0.21}', None),
        ("a.json", '{"exposure": 0.21}', None),
        ("a.json", "[1, 2]", None),
        ("a.json", "not json", None),
        ("a.toml", "pixel_size_nm = 0.21\n", (0.21, 0.21)),
        ("a.toml", "pixel_size_nm = [0.4, 0.2]\n", (0.4, 0.2)),
        ("a.toml", "pixel_size = = 2", None),
        ("a.txt", "pixel_size_nm = 0.21", (0.21, 0.21)),
        ("a.txt", "Mag: 40000\r\nPixel size: 0.21 nm/px\r\n", (0.21, 0.21)),
        ("a.txt", "pixel size (nm): 0,21", (0.21, 0.21)),
        ("a.txt", "pixel size [µm] = 2.1e-4", (0.21, 0.21)),
        ("a.txt", "nm per pixel: 0.21", (0.21, 0.21)),
        ("a.txt", "scale: 0.21 nm/px", (0.21, 0.21)),
        ("a.txt", "Scale (nm/pixel) = 0.21", (0.21, 0.21)),
        ("a.txt", "scale: 50 nm", None),  # the length of a scale bar
        ("a.txt", "scale: 50 nm\npixel size: 0.21 nm", (0.21, 0.21)),
        ("a.txt", "scale: 4", None),
        ("a.txt", "Pixel size: 15.6", None),
        ("a.txt", "The pixel size is unknown", None),
        ("a.txt", "", None),
    ],
)
def test_sidecars_as_people_write_them(
    name: str, text: str, expected_nm: tuple[float, float] | None
) -> None:
    found = parse_sidecar(name, text.encode())
    assert found == (pytest.approx(expected_nm) if expected_nm else None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"pixel_size_nm": -1}'),
        ("a.json", '{"pixel_size_nm": 0}'),
        ("a.json", '{"pixel_size_nm": "wide"}'),
        ("a.json", '{"pixel_size_nm": [1, 2, 3]}'),
        ("a.toml", "pixel_size_nm = nan"),
        ("a.txt", "pixel size: 0 nm"),
        ("a.txt", "pixel size: 1,024 nm"),  # 1024 or 1.024: nobody can tell
        ("a.txt", "pixel size: 3 furlongs"),
    ],
)
def test_a_sidecar_that_cannot_be_right_is_said(name: str, text: str) -> None:
    with pytest.raises(CalibrationError, match=r"a\."):
        parse_sidecar(name, text.encode())


def test_a_byte_order_mark_and_wrong_bytes_do_no_harm() -> None:
    assert parse_sidecar("a.json", b'\xef\xbb\xbf{"pixel_size_nm": 2}') == (2.0, 2.0)
    assert parse_sidecar("a.txt", b"\xff\xfe\x00pixel") is None
    assert parse_sidecar("a.json", b"[" * 100_000) is None


def test_the_sidecar_lies_beside_the_frame(tmp_path: Path) -> None:
    frame = tmp_path / "frame_1.tif"
    assert find_sidecar(frame) is None
    assert sidecar_pixel_size_nm(frame) is None
    (tmp_path / "frame_1.txt").write_text("pixel size: 0.5 nm")
    assert sidecar_pixel_size_nm(frame) == (0.5, 0.5)
    (tmp_path / "frame_1.json").write_text('{"pixel_size_nm": 0.25}')
    assert sidecar_pixel_size_nm(frame) == (0.25, 0.25)
    assert sidecar_pixel_size_nm(tmp_path / "frame_10.tif") is None
