"""The judge: every image scored or named, and pictures of the telling ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from models.box_truth import BoxedImage, find_boxed
from models.datasets import Pair, find_pairs
from models.judge import draw_overlays, evaluate, extremes, read_case
from models.scores import MarkedParticles


def discs(side: int = 96, radius: int = 12) -> np.ndarray:
    """Two touching discs and one apart, numbered, none at the border."""
    labels = np.zeros((side, side), np.uint16)
    y, x = np.ogrid[:side, :side]
    for number, (cy, cx) in enumerate(((30, 30), (30, 54), (70, 70)), start=7):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    # "a" is answered exactly, "b" and "c" show wider particles than are true.
    for name, radius in (("a", 12), ("b", 13), ("c", 15)):
        shown = (discs(radius=radius) > 0).astype(np.uint8) * 200
        Image.fromarray(shown).save(images / f"{name}.png")
        Image.fromarray(discs()).save(masks / f"{name}.png")
    return images, masks


def bright_is_particle(tiles: np.ndarray) -> np.ndarray:
    return (tiles[:, 0] > tiles.mean()).astype(np.float32)


def blind(tiles: np.ndarray) -> np.ndarray:
    return np.zeros_like(tiles[:, 0])


def test_a_perfect_answer_scores_perfectly(folders: tuple[Path, Path]) -> None:
    result = evaluate(bright_is_particle, find_pairs(*folders)[:1], "perfect")
    (score,) = result.scores
    assert score.miou == score.pa == score.boundary_f1 == 1
    assert score.loss < 0.01
    assert score.instance_f1 == 1
    assert score.false_per_megapixel == 0
    # Numbered discs that touch give up no pixel; the watershed line may cost one in 440.
    assert abs(score.mean_diameter_error_percent) < 0.5
    assert result.std("miou") == 0
    assert result.empty == 0


def test_an_empty_answer_has_no_size_error(folders: tuple[Path, Path]) -> None:
    answer = evaluate(blind, find_pairs(*folders), "blind").as_json()
    assert answer["mean"]["mean_diameter_error_percent"] is None
    assert answer["mean"]["instance_f1"] == 0
    json.dumps(answer, allow_nan=False)


def test_an_unreadable_image_is_named_and_the_rest_is_scored(
    folders: tuple[Path, Path],
) -> None:
    (folders[0] / "a.png").write_bytes(b"no picture")
    Image.new("L", (4, 4)).save(folders[1] / "b.png")
    result = evaluate(bright_is_particle, find_pairs(*folders), "any")
    assert [score.name for score in result.scores] == ["c"]
    reasons = dict(result.unreadable)
    assert "a.png" in reasons["a"]
    assert "draw the mask" in reasons["b"]


def test_a_full_gpu_costs_one_image(folders: tuple[Path, Path]) -> None:
    def full_at_first(tiles: np.ndarray) -> np.ndarray:
        if not seen:
            seen.append(1)
            raise torch.OutOfMemoryError
        return bright_is_particle(tiles)

    seen: list[int] = []
    result = evaluate(full_at_first, find_pairs(*folders), "any")
    assert [score.name for score in result.scores] == ["b", "c"]
    assert "--device cpu" in result.unreadable[0][1]


def test_empty_truth_is_counted(folders: tuple[Path, Path]) -> None:
    for name in "ab":
        Image.new("L", (96, 96)).save(folders[1] / f"{name}.png")
    assert evaluate(blind, find_pairs(*folders), "any").empty == 2


def test_images_of_all_depths_are_judged_alike(tmp_path: Path) -> None:
    truth = discs()
    for dtype in ("u1", "u2", "i2", "u4", "f4", "f8"):
        (tmp_path / dtype).mkdir()
        counts = (truth > 0) * 100 + np.indices(truth.shape).sum(0) % 3
        tifffile.imwrite(tmp_path / dtype / "a.tif", counts.astype(dtype))
        tifffile.imwrite(tmp_path / dtype / "m.tif", truth.astype(dtype))
    cases = [Pair(f / "a.tif", f / "m.tif") for f in sorted(tmp_path.iterdir())]
    scores = evaluate(bright_is_particle, cases, "any").scores
    assert len(scores) == 6
    assert all(score.miou == score.instance_f1 == 1 for score in scores)
    assert len({score.loss for score in scores}) == 1


def test_numbers_of_a_mask_reach_the_judge(folders: tuple[Path, Path]) -> None:
    _, truth = read_case(find_pairs(*folders)[0])
    assert isinstance(truth, MarkedParticles)
    np.testing.assert_array_equal(truth.labels, np.maximum(discs(), 6).astype(int) - 6)


def boxed(folders: tuple[Path, Path]) -> list[BoxedImage]:
    for name in "abc":
        rows = ["x0,y0,x1,y1", "57,57,83,83", "10,70,30,90"]
        (folders[1] / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return find_boxed(*folders)


def test_boxes_are_a_truth_as_good_as_masks(folders: tuple[Path, Path]) -> None:
    result = evaluate(bright_is_particle, boxed(folders), "any")
    score = result.scores[0]
    assert (score.boxed, score.recall) == (2, 0.5)
    assert score.f1 == 2 / (score.found + 2)
    (folders[1] / "b.csv").write_text("x0,y0,x1,y1\n900,900,950,950\n")
    result = evaluate(bright_is_particle, find_boxed(*folders), "any")
    assert [name for name, _ in result.unreadable] == ["b"]


def test_the_best_median_and_worst_are_drawn(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    pairs = find_pairs(*folders)
    result = evaluate(bright_is_particle, pairs, "any")
    drawn = draw_overlays(bright_is_particle, pairs, result, tmp_path)
    assert {path.name for path in drawn} == {
        "best_a.png",
        "median_b.png",
        "worst_c.png",
    }
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.height == 960 + 26


def test_boxes_are_drawn_too(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cases = boxed(folders)
    result = evaluate(bright_is_particle, cases, "any")
    assert len(draw_overlays(bright_is_particle, cases, result, tmp_path)) == 3


def test_few_images_are_drawn_once_each(folders: tuple[Path, Path]) -> None:
    scores = evaluate(bright_is_particle, find_pairs(*folders), "any").scores
    assert {k: s.name for k, s in extremes(scores[:2]).items()} == {
        "best": "a",
        "worst": "b",
    }
    assert {k: s.name for k, s in extremes(scores[:1]).items()} == {"best": "a"}
    assert extremes(()) == {}
