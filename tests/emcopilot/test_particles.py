"""Sizes and shapes of drawn particles against their exact truth."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emcopilot.errors import CalibrationError
from emcopilot.particle_table import ParticleTable
from emcopilot.particles import measure_particles


def ellipse(
    diameter: float, aspect: float, angle: float, shift: tuple[float, float]
) -> NDArray[np.int32]:
    """Label image of one ellipse, drawn where a pixel is at least half covered."""
    side, fine = int(diameter * aspect**0.5) + 8, 8 if diameter < 30 else 4
    at = (np.arange(side * fine) + 0.5) / fine - 0.5 - side / 2
    dy, dx = at[:, None] - shift[0], at[None, :] - shift[1]
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / aspect**0.5
    across = (dy * np.cos(angle) - dx * np.sin(angle)) * aspect**0.5
    inside = np.hypot(along, across) <= diameter / 2
    covered = inside.reshape(side, fine, side, fine).mean((1, 3))
    return (covered >= 0.5).astype(np.int32)


def measured(labels: NDArray[np.int32], pitch: tuple[float, float]) -> ParticleTable:
    return measure_particles(labels, labels, pixel_size_nm=pitch)


def drawn(diameter: float, aspect: float, count: int) -> list[ParticleTable]:
    rng = np.random.default_rng(int(diameter * 10 + aspect))
    return [
        measured(
            ellipse(diameter, aspect, rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5, 2)),
            (1.0, 1.0),
        )
        for _ in range(count)
    ]


def mean_of(tables: list[ParticleTable], column: str) -> float:
    return float(np.mean([getattr(table, column)[0] for table in tables]))


@pytest.mark.parametrize("aspect", [1.0, 2.0])
@pytest.mark.parametrize(
    ("diameter", "count", "bias"),
    [(4, 400, 0.03), (6, 300, 0.03), (10, 200, 0.01), (20, 100, 0.01), (60, 20, 0.01)],
)
def test_equivalent_diameter_is_unbiased(
    diameter: int, count: int, bias: float, aspect: float
) -> None:
    found = mean_of(drawn(diameter, aspect, count), "equivalent_diameter_nm")
    assert found == pytest.approx(diameter, rel=bias)


@pytest.mark.parametrize("diameter", [10, 20, 60])
@pytest.mark.parametrize("aspect", [1.0, 1.5, 2.0])
def test_feret_diameters_are_right_to_less_than_a_pixel(
    diameter: int, aspect: float
) -> None:
    tables = drawn(diameter, aspect, 30)
    longest, shortest = diameter * aspect**0.5, diameter / aspect**0.5
    # A disc's largest width is the largest of many uneven ones: 0.7 px long at 60 px.
    assert mean_of(tables, "feret_diameter_max_nm") == pytest.approx(longest, abs=0.8)
    assert mean_of(tables, "feret_diameter_min_nm") == pytest.approx(shortest, abs=0.55)


@pytest.mark.parametrize(("diameter", "off"), [(10, 0.015), (20, 0.01), (60, 0.01)])
def test_perimeter_and_circularity_of_discs(diameter: int, off: float) -> None:
    tables = drawn(diameter, 1.0, 40)
    assert mean_of(tables, "perimeter_nm") == pytest.approx(np.pi * diameter, rel=off)
    assert mean_of(tables, "circularity") == pytest.approx(1, abs=2 * off)


@pytest.mark.parametrize("aspect", [1.2, 1.5, 2.0])
def test_aspect_ratio_and_eccentricity_of_ellipses(aspect: float) -> None:
    tables = drawn(20, aspect, 40)
    # Moments of 300 pixels are good to about a percent.
    assert mean_of(tables, "aspect_ratio") == pytest.approx(aspect, rel=0.01)
    truth = (1 - 1 / aspect**2) ** 0.5
    assert mean_of(tables, "eccentricity") == pytest.approx(truth, rel=0.02)


def test_solidity_tells_convex_from_notched() -> None:
    disc = ellipse(40, 1.0, 0.0, (0, 0))
    notched = disc.copy()
    middle = len(disc) // 2
    notched[middle - 5 : middle + 5, middle:] = 0
    assert measured(disc, (1, 1)).solidity[0] > 0.98
    # The notch takes 10 x 20 of 1257 px.
    assert measured(notched, (1, 1)).solidity[0] == pytest.approx(0.84, abs=0.03)


def test_non_square_pixels_measure_the_specimen_not_the_grid() -> None:
    # A disc of 40 nm on pixels twice as high as wide is an ellipse of pixels.
    y, x = np.mgrid[:40, :80]
    labels = (np.hypot((y - 20) * 2.0, x - 40.0) <= 20).astype(np.int32)
    table = measured(labels, (2.0, 1.0))
    assert table.area_nm2[0] == pytest.approx(np.pi * 20**2, rel=0.01)
    assert table.equivalent_diameter_nm[0] == pytest.approx(40, rel=0.01)
    assert table.aspect_ratio[0] == pytest.approx(1, abs=0.03)  # 20 rows only
    # A pixel is 2 nm high.
    assert table.feret_diameter_max_nm[0] == pytest.approx(40, abs=1.5)
    assert table.feret_diameter_min_nm[0] == pytest.approx(40, abs=1.5)
    assert table.perimeter_nm[0] == pytest.approx(np.pi * 40, rel=0.03)  # uneven angles
    assert table.equivalent_diameter_px[0] == pytest.approx(40 / 2**0.5, rel=0.01)


def test_lengths_scale_with_the_pixel_size() -> None:
    labels = ellipse(30, 1.5, 0.4, (0.2, 0.1))
    one, half = measured(labels, (1.0, 1.0)), measured(labels, (0.5, 0.5))
    for column in ("equivalent_diameter_nm", "feret_diameter_max_nm", "perimeter_nm"):
        assert getattr(half, column)[0] == pytest.approx(getattr(one, column)[0] / 2)
    assert half.area_nm2[0] == pytest.approx(one.area_nm2[0] / 4)
    for column in ("aspect_ratio", "solidity", "circularity", "eccentricity"):
        assert getattr(half, column)[0] == pytest.approx(getattr(one, column)[0])


def test_without_calibration_nanometres_are_nan_and_the_rest_is_measured() -> None:
    labels = ellipse(20, 1.5, 0.0, (0, 0))
    table = measure_particles(labels, labels)
    assert not table.is_calibrated
    for name, column in table.columns().items():
        unknown = "_nm" in name or name == "confidence"
        assert np.isnan(column).all() == unknown, name
    assert table.diameters()[0] == table.equivalent_diameter_px[0]


def test_centroid_intensity_and_confidence_are_means_over_the_particle() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[4:9, 10:20] = 1
    labels[12:15, 2:6] = 2
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    probability = np.where(labels == 1, 255, 51).astype(np.uint8)
    table = measure_particles(labels, pixels, probability=probability)
    assert table.centroid_y_px.tolist() == [6.0, 13.0]
    assert table.centroid_x_px.tolist() == [14.5, 3.5]
    assert table.mean_intensity[0] == pixels[labels == 1].mean()
    assert table.mean_intensity[1] == pixels[labels == 2].mean()
    assert table.confidence == pytest.approx([1.0, 0.2])


def test_only_particles_on_the_edge_touch_the_border() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[0:3, 5:8] = 1
    labels[10:13, 17:20] = 2
    labels[17:20, 9:12] = 3
    labels[8:11, 0:3] = 4
    labels[1:4, 12:15] = 5
    assert measure_particles(labels, labels).touches_border.tolist() == [
        True,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float32, np.bool_])
def test_every_pixel_type_is_averaged(dtype: type) -> None:
    labels = ellipse(12, 1.0, 0.0, (0, 0))
    table = measure_particles(labels, np.ones(labels.shape, dtype))
    assert table.mean_intensity[0] == 1.0


def test_a_pixel_that_is_not_a_number_spoils_only_its_particle() -> None:
    labels = np.zeros((10, 20), np.int32)
    labels[2:6, 2:6], labels[2:6, 12:16] = 1, 2
    pixels = np.ones((10, 20))
    pixels[3, 3] = np.nan
    intensity = measure_particles(labels, pixels).mean_intensity
    assert np.isnan(intensity[0])
    assert intensity[1] == 1.0


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 40), (50, 60)])
def test_a_frame_without_particles_gives_an_empty_table(shape: tuple[int, int]) -> None:
    table = measured(np.zeros(shape, np.int32), (1.0, 1.0))
    assert len(table) == 0
    assert table.diameters().shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (30, 20)])
def test_one_particle_that_fills_the_frame(shape: tuple[int, int]) -> None:
    table = measured(np.ones(shape, np.int32), (1.0, 1.0))
    assert table.area_px.tolist() == [shape[0] * shape[1]]
    assert table.touches_border.all()
    for name, column in table.columns().items():
        assert name == "confidence" or np.isfinite(column).all(), name


def test_ten_thousand_particles_are_all_measured() -> None:
    y, x = np.divmod(np.arange(10_000), 100)
    labels = np.zeros((1200, 1200), np.int32)
    for dy in range(7):
        for dx in range(9):
            labels[y * 12 + 2 + dy, x * 12 + 1 + dx] = np.arange(1, 10_001)
    table = measured(labels, (0.5, 0.5))
    assert len(table) == 10_000
    assert (table.area_px == 63).all()
    assert np.ptp(table.perimeter_nm) == pytest.approx(0, abs=1e-9)
    assert np.ptp(table.feret_diameter_max_nm) == pytest.approx(0, abs=1e-9)


def test_labels_with_a_gap_are_refused() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[1, 1], labels[3, 3] = 1, 3
    with pytest.raises(ValueError, match="2 is missing"):
        measure_particles(labels, labels)


def test_frames_of_another_shape_are_refused() -> None:
    labels = np.zeros((9, 9), np.int32)
    with pytest.raises(ValueError, match="differ in shape"):
        measure_particles(labels, np.zeros((9, 8)))
    with pytest.raises(ValueError, match="differ in shape"):
        measure_particles(labels, labels, probability=np.zeros((8, 9), np.uint8))


@pytest.mark.parametrize(
    "size", [(0.0, 1.0), (1.0, -1.0), (np.nan, 1.0), (1.0, np.inf)]
)
def test_a_wrong_pixel_size_is_refused(size: tuple[float, float]) -> None:
    labels = np.ones((4, 4), np.int32)
    with pytest.raises(CalibrationError, match="positive and finite"):
        measured(labels, size)
