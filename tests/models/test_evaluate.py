"""The judge: right scores for answers that are known, and the contract's JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emcopilot.errors import ModelError
from models.checkpoint import save
from models.datasets import find_pairs
from models.evaluate import (
    METRICS,
    evaluate,
    main,
    probability_loss,
    score_image,
    true_labels,
    whole_diameters_px,
)
from models.npssegnet import Architecture, build


def discs(side: int = 96) -> np.ndarray:
    """Two touching discs of 24 px and one apart, numbered, none at the border."""
    labels = np.zeros((side, side), np.uint16)
    y, x = np.ogrid[:side, :side]
    for number, (cy, cx) in enumerate(((30, 30), (30, 54), (70, 70)), start=7):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 12**2] = number
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for name in ("a", "b"):
        Image.fromarray((discs() > 0).astype(np.uint8) * 200).save(
            images / f"{name}.png"
        )
        Image.fromarray(discs()).save(masks / f"{name}.png")
    return images, masks


def bright_is_particle(tiles: np.ndarray) -> np.ndarray:
    return (tiles[:, 0] > tiles.mean()).astype(np.float32)


def test_a_perfect_answer_scores_perfectly(folders: tuple[Path, Path]) -> None:
    result = evaluate(bright_is_particle, find_pairs(*folders), "perfect")
    assert len(result.scores) == 2
    assert result.mean("miou") == result.mean("pa") == result.mean("boundary_f1") == 1
    assert result.mean("instance_f1") == 1
    # Numbered discs that touch give up no pixel; the watershed line may cost one in 440.
    assert abs(result.mean("mean_diameter_error_percent")) < 0.5
    assert result.mean("loss") < 0.01
    assert result.std("miou") == 0


def test_an_empty_answer_has_no_size_error(folders: tuple[Path, Path]) -> None:
    result = evaluate(lambda t: np.zeros_like(t[:, 0]), find_pairs(*folders), "blind")
    answer = result.as_json()
    assert answer["mean"]["mean_diameter_error_percent"] is None
    assert answer["mean"]["instance_f1"] == 0
    json.dumps(answer, allow_nan=False)


def test_numbered_masks_keep_their_numbers_apart() -> None:
    assert true_labels(discs()).max() == 3
    assert set(np.unique(true_labels(discs()))) == {0, 1, 2, 3}
    # 8-bit masks are marks, not numbers: touching discs are parted by their shape.
    binary = (discs() > 0).astype(np.uint8) * 255
    assert true_labels(binary).max() == 3
    assert true_labels(np.zeros((5, 5), np.uint8)).max() == 0


def test_a_fully_numbered_mask_has_no_background() -> None:
    marks = np.array([[1, 1, 2], [1, 1, 2]], np.int32)
    assert true_labels(marks).tolist() == [[1, 1, 2], [1, 1, 2]]


def test_particles_cut_by_the_border_have_no_size() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[0:10, 5:15] = 1
    labels[20:30, 20:30] = 2
    np.testing.assert_allclose(whole_diameters_px(labels), [math.sqrt(400 / math.pi)])


def test_a_dilated_answer_shows_as_a_size_error() -> None:
    truth = np.zeros((80, 80), np.uint16)
    truth[20:40, 20:40] = 1
    wide = np.zeros((80, 80), np.uint8)
    wide[18:42, 18:42] = 255
    score = score_image("wide", wide, wide, truth)
    # A square of 24 instead of 20 px.
    assert score.mean_diameter_error_percent == pytest.approx(20, abs=1e-6)
    assert score.iou_particle == pytest.approx(400 / 576)


def test_the_loss_grows_with_the_error() -> None:
    truth = discs() > 0
    sure = truth.astype(np.uint8) * 255
    unsure = np.full(truth.shape, 128, np.uint8)
    wrong = 255 - sure
    losses = [probability_loss(p, truth) for p in (sure, unsure, wrong)]
    assert losses == sorted(losses)
    assert losses[0] < 0.01 < losses[1] < losses[2]


def test_an_unreadable_image_is_named_and_the_rest_is_scored(
    folders: tuple[Path, Path],
) -> None:
    (folders[0] / "a.png").write_bytes(b"no picture")
    result = evaluate(bright_is_particle, find_pairs(*folders), "any")
    assert [score.name for score in result.scores] == ["b"]
    assert [name for name, _ in result.unreadable] == ["a"]
    Image.new("L", (4, 4)).save(folders[0] / "a.png")
    result = evaluate(bright_is_particle, find_pairs(*folders), "any")
    assert "draw the mask" in result.unreadable[0][1]


def test_the_command_writes_the_contracts_keys(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save(
        tmp_path / "model",
        build(),
        name="random",
        architecture=Architecture(),
        data={},
        training={},
    )
    arguments = ["--images", str(folders[0]), "--masks", str(folders[1])]
    figures = tmp_path / "figures.json"
    chosen = ["--model", str(tmp_path / "model"), "--json", str(figures)]
    assert main([*arguments, *chosen]) == 0
    answer = json.loads(figures.read_text())
    assert answer["model_id"].startswith("random-")
    assert answer["images"] == 2
    expected = {
        "loss",
        "pa",
        "miou",
        "iou_particle",
        "boundary_f1",
        "instance_f1",
        "mean_diameter_error_percent",
    }
    assert set(answer["mean"]) == set(answer["std"]) == expected == set(METRICS)
    assert {"name", *expected} == set(answer["per_image"][0])
    assert "miou" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_an_error(folders: tuple[Path, Path]) -> None:
    arguments = ["--images", str(folders[0]), "--masks", str(folders[1])]
    with pytest.raises(ModelError, match="no model"):
        main([*arguments, "--model", "elsewhere"])
