"""Boxes as truth: what counts as found, and what a table of boxes may hold."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcopilot.errors import ConfigError, DecodeError
from models.box_truth import BoxedImage, Boxes, find_boxed, read_boxes


def boxes(*corners: tuple[float, float, float, float]) -> Boxes:
    table = np.array(corners, np.float64).reshape(-1, 4)
    width, height = table[:, 2] - table[:, 0], table[:, 3] - table[:, 1]
    return Boxes(table, np.sqrt(width * height))


def answer(*squares: tuple[int, int, int]) -> np.ndarray:
    """A probability map of 100 x 100 px with squares given by top, left and side."""
    shown = np.zeros((100, 100), np.uint8)
    for top, left, side in squares:
        shown[top : top + side, left : left + side] = 255
    return shown


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_scores_are_those_counted_by_hand() -> None:
    truth = boxes((9, 9, 31, 31), (49, 9, 71, 31), (9, 49, 31, 71))
    # Two in the first box, one in the second, none in the third, one outside of all.
    shown = answer((10, 10, 8), (20, 20, 10), (10, 50, 20), (80, 80, 10))
    score = truth.score("a", shown)
    assert (score.found, score.boxed) == (4, 3)
    assert score.precision == 2 / 4
    assert score.recall == pytest.approx(2 / 3)
    assert score.f1 == pytest.approx(4 / 7)
    assert score.count_error_percent == pytest.approx(100 / 3)
    round_px = math.sqrt(4 / math.pi)  # of a square of 1 px
    assert score.median_diameter_px == pytest.approx(10 * round_px)
    assert score.median_box_diameter_px == pytest.approx(22)
    sizes = np.array([8, 10, 10, 20]) * round_px
    assert score.size_wasserstein_px == pytest.approx(np.abs(22 - sizes).mean())


def test_a_perfect_answer_has_an_f1_of_one_though_boxes_run_wide() -> None:
    score = boxes((8, 8, 32, 32)).score("a", answer((10, 10, 20)))
    assert score.f1 == score.precision == score.recall == 1
    assert score.median_diameter_px < score.median_box_diameter_px
    assert score.size_wasserstein_px > 0


def test_an_empty_field_left_empty_is_right() -> None:
    nothing = boxes()
    assert nothing.is_empty
    kept = nothing.score("a", answer())
    assert (kept.f1, kept.precision, kept.recall) == (1, 1, 1)
    assert math.isnan(kept.count_error_percent)
    invented = nothing.score("a", answer((10, 10, 20)))
    assert (invented.f1, invented.precision, invented.recall) == (0, 0, 0)
    missed = boxes((8, 8, 32, 32)).score("a", answer())
    assert (missed.f1, missed.precision, missed.recall) == (0, 0, 0)
    assert missed.count_error_percent == -100
    assert math.isnan(missed.median_diameter_px)
    assert math.isnan(missed.size_wasserstein_px)


def test_overlapping_boxes_are_found_one_by_one() -> None:
    truth = boxes((0, 0, 20, 20), (10, 10, 30, 30))
    shared = np.array([[15.0, 15.0], [14.0, 14.0], [16.0, 16.0]])
    assert truth.hits(shared[:1]) == 1
    assert truth.hits(shared[:2]) == 2
    assert truth.hits(shared) == 2
    # The nearest box is taken, which leaves the other to whoever lies in it alone.
    assert truth.hits(np.array([[11.0, 11.0], [25.0, 25.0]])) == 2
    assert truth.hits(np.array([[19.0, 19.0], [2.0, 2.0]])) == 2


def test_boxes_count_from_the_corner_of_a_pixel() -> None:
    # A particle of the pixels 10..19 has its centre at 15 from the image's corner.
    assert boxes((14.9, 14.9, 15.1, 15.1)).score("a", answer((10, 10, 10))).f1 == 1


def test_boxes_at_the_border_have_no_size() -> None:
    truth = boxes((0, 40, 10, 50), (40, 40, 60, 60), (90, 40, 100, 50))
    score = truth.score("a", answer((40, 0, 10), (42, 42, 16)))
    assert score.median_box_diameter_px == 20
    assert score.median_diameter_px == pytest.approx(16 * math.sqrt(4 / math.pi))


def test_the_sides_of_a_box_are_drawn_within_the_image() -> None:
    drawn = boxes((1, 1, 3.5, 3.5), (4.2, -1, 9, 1.5)).outline((5, 6))
    assert drawn.astype(int).tolist() == [
        [0, 0, 0, 0, 1, 1],
        [0, 1, 1, 1, 1, 1],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_table_may_say_its_diameters_or_leave_them_to_the_box(tmp_path: Path) -> None:
    told = written(
        tmp_path / "a.csv", "id,x0,y0,x1,y1,eq_diam_px\n1,1.5,2,5.5,11,5.25\n"
    )
    assert read_boxes(told).corners.tolist() == [[1.5, 2, 5.5, 11]]
    assert read_boxes(told).diameters_px.tolist() == [5.25]
    # As spreadsheets write it: a byte order mark, columns in any order, blank lines.
    plain = written(tmp_path / "b.csv", "\ufeffy0, x0,y1,x1\r\n2,1.5,11,5.5\r\n\r\n")
    assert read_boxes(plain).corners.tolist() == [[1.5, 2, 5.5, 11]]
    assert read_boxes(plain).diameters_px.tolist() == [6]  # sqrt(4 * 9)
    assert read_boxes(written(tmp_path / "c.csv", "x0,y0,x1,y1\n")).is_empty


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"lacks the columns x0, y0, x1, y1; got ;"),
        ("id,x,y,w,h\n1,2,3,4,5\n", r"lacks the columns x0, .*; got id, x, y, w, h;"),
        ("x0;y0;x1;y1\n1;2;3;4\n", r"separated by commas"),
        ("x0,y0,x1,y1\n1,2,3,4\n1,2,three,4\n", r"line 3: x1 is 'three'"),
        ("x0,y0,x1,y1\n1,2,3\n", r"line 2: y1 is None"),
        ("x0,y0,x1,y1\n1,2,nan,4\n", r"line 2: x1 is 'nan'"),
        ("x0,y0,x1,y1,eq_diam_px\n1,2,3,4,inf\n", r"line 2: eq_diam_px is 'inf'"),
        ("x0,y0,x1,y1\n5,2,3,4\n", r"line 2: a box from \(5, 2\) to \(3, 4\) is empty"),
    ],
)
def test_a_bad_table_is_an_error_with_its_line(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        read_boxes(written(tmp_path / "bad.csv", content))
    assert "bad.csv" in str(error.value)


def test_a_table_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00x0")
    with pytest.raises(ConfigError, match="cannot read the boxes"):
        read_boxes(tmp_path / "bad.csv")


def test_images_and_boxes_meet_by_stem(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"1 of them without a box file .*a\.csv"):
        find_boxed(tmp_path, tmp_path)
    written(tmp_path / "a.csv", "x0,y0,x1,y1\n1,2,3,4\n")
    (found,) = find_boxed(tmp_path, tmp_path)
    assert (found.name, len(found.boxes.corners)) == ("a", 1)


def test_boxes_of_an_image_of_another_size_are_refused(tmp_path: Path) -> None:
    case = BoxedImage(tmp_path / "a.png", boxes((0, 0, 31, 20)))
    assert case.boxes_within((20, 30)) is case.boxes  # hands are not exact
    for shape in ((20, 15), (15, 31)):
        with pytest.raises(DecodeError, match=r"boxes reach from 0 to \[31.0, 20.0\]"):
            case.boxes_within(shape)
    nothing = BoxedImage(tmp_path / "a.png", boxes())
    assert nothing.boxes_within((2, 2)).is_empty


@pytest.mark.skipif(
    "EMCOPILOT_DATA" not in os.environ, reason="EMCOPILOT_DATA is unset"
)
def test_the_real_boxes_are_read_and_fit_their_images() -> None:
    folder = Path(os.environ["EMCOPILOT_DATA"]) / "arda_stem"
    cases = find_boxed(folder / "images", folder / "boxes")
    assert len(cases) == 18
    assert sum(len(case.boxes.corners) for case in cases) == 2528
    for case in cases:
        with Image.open(case.image) as picture:
            case.boxes_within((picture.height, picture.width))
    with (folder / "boxes" / "Cu1.csv").open(newline="") as file:
        diameters = [float(row["eq_diam_px"]) for row in csv.DictReader(file)]
    assert cases[0].boxes.diameters_px.tolist() == diameters
