"""The command: the contract's JSON, tests against other models, and clear refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emcopilot.errors import ConfigError, ModelError
from emcopilot.frame_files import mrc_bytes
from models.box_truth import BOX_METRICS
from models.checkpoint import save
from models.evaluate import main
from models.npssegnet import Architecture, build
from models.scores import METRICS
from models.training import named_device

CONTRACT = {
    "loss",
    "pa",
    "miou",
    "iou_particle",
    "boundary_f1",
    "instance_f1",
    "mean_diameter_error_percent",
}


def discs(side: int = 64) -> np.ndarray:
    """Two discs of 16 px on a field, numbered, none at the border."""
    labels = np.zeros((side, side), np.uint16)
    y, x = np.ogrid[:side, :side]
    for number, (cy, cx) in enumerate(((20, 20), (42, 40)), start=7):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 8**2] = number
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    noise = np.random.default_rng(0).normal(200, 20, (64, 64))
    counts = (noise + 400 * (discs() > 0)).astype(np.uint16)
    Image.fromarray((counts // 4).astype(np.uint8)).save(images / "a.png")
    (images / "b.mrc").write_bytes(mrc_bytes(counts, 0.5, "HAADF"))
    for name in ("a", "b"):
        Image.fromarray(discs()).save(masks / f"{name}.png")
        (masks / f"{name}.csv").write_text("x0,y0,x1,y1\n11,11,29,29\n31,33,49,51\n")
    return images, masks


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two untrained models: their answers are poor, their figures must be right."""
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        architecture = Architecture()
        save(
            folder / name,
            build(architecture),
            name=name,
            architecture=architecture,
            data={},
            training={},
        )
    return str(folder / "one"), str(folder / "two")


def arguments(folders: tuple[Path, Path], truth: str, *more: str) -> list[str]:
    return [
        "--images",
        str(folders[0]),
        truth,
        str(folders[1]),
        "--device",
        "cpu",
        *more,
    ]


def test_the_command_answers_the_contract_and_tests_against_others(
    folders: tuple[Path, Path],
    models: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = tmp_path / "new" / "figures.json"
    chosen = ["--model", models[0], "--json", str(figures)]
    others = ["--against", models[1], "--against", models[0]]
    assert main(arguments(folders, "--masks", *chosen, *others)) == 0
    answer = json.loads(figures.read_text())
    assert answer["model_id"].startswith("one-")
    assert (answer["images"], answer["device"], answer["truth"]) == (2, "cpu", "masks")
    assert set(METRICS) >= CONTRACT
    assert set(answer["mean"]) == set(answer["std"]) == set(METRICS)
    assert {"name", *METRICS} == set(answer["per_image"][0])
    other, same = answer["against"]
    assert other["model_id"].startswith("two-")
    assert same["mean"] == answer["mean"]
    assert same["tests"]["miou"]["p"] == same["tests"]["miou"]["p_holm"] == 1
    assert other["tests"]["loss"]["n"] == 2
    assert "cannot reach" in other["tests"]["loss"]["note"]
    said = capsys.readouterr()
    assert "miou" in said.out
    assert f"against {other['model_id']}" in said.out
    assert f"{answer['model_id']}: 2/2 b" in said.err


def test_the_shipped_model_finds_discs_in_boxes(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, pictures = tmp_path / "figures.json", tmp_path / "pictures"
    more = ["--json", str(figures), "--overlays", str(pictures)]
    assert main(arguments(folders, "--boxes", *more)) == 0
    answer = json.loads(figures.read_text())
    assert set(answer["mean"]) == set(BOX_METRICS)
    assert answer["truth"] == "boxes"
    assert answer["against"] == []
    # Two plain discs on noise: whatever model is shipped finds them both.
    assert answer["mean"]["recall"] == 1
    assert len(list(pictures.glob("*.png"))) == 2
    assert "boxes run wide" in capsys.readouterr().out


def test_a_bad_image_among_good_ones_is_named_and_fails_the_command(
    folders: tuple[Path, Path],
    models: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folders[0] / "a.png").write_bytes(b"no picture")
    Image.new("L", (64, 64)).save(folders[1] / "b.png")
    assert main(arguments(folders, "--masks", "--model", models[0])) == 1
    said = capsys.readouterr()
    assert "not scored: a:" in said.err
    assert "no particle in any of the masks" in said.out


def test_exactly_one_truth_is_asked_for(folders: tuple[Path, Path]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--images", str(folders[0])])
    with pytest.raises(SystemExit, match="2"):
        main(arguments(folders, "--masks", "--boxes", str(folders[1])))


def test_what_cannot_work_is_refused_before_the_first_image(
    folders: tuple[Path, Path], models: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model"):
        main(arguments(folders, "--masks", "--model", "elsewhere"))
    with pytest.raises(ModelError, match="no model"):
        main(arguments(folders, "--masks", "--against", "elsewhere"))
    here = arguments(folders, "--masks", "--model", models[0])
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        main([*here, "--json", str(tmp_path)])
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=r"cannot make .*taken"):
        main([*here, "--overlays", str(tmp_path / "taken" / "pictures")])
    (folders[1] / "b.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ConfigError, match="lacks the columns"):
        main(arguments(folders, "--boxes"))
    (folders[1] / "b.png").rename(folders[1] / "other.png")
    with pytest.raises(ConfigError, match=r"1 of them without a mask \(first: b\)"):
        main(here)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    assert named_device("auto") == named_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="use --device cpu"):
        named_device("cuda")
