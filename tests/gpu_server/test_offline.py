import asyncio
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcopilot.errors import ConfigError
from emcopilot.messages import PARTICLE_COLUMNS
from gpu_server.offline import OfflineRun, find_files
from gpu_server.segment import InferenceSpec


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, random_model: Path
) -> tuple[Path, OfflineRun]:
    """A plain file, one with a sidecar, a stack, two of one stem and a bad file, in one run."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(1).integers(0, 4000, (4, 48, 64), dtype=np.uint16)
    (folder / "again").mkdir()
    tifffile.imwrite(folder / "plain.tif", pixels[0])
    tifffile.imwrite(folder / "again" / "plain.tif", pixels[1])
    tifffile.imwrite(folder / "sized.tif", pixels[2])
    (folder / "sized.toml").write_text("pixel_size_nm = 0.25\n")
    tifffile.imwrite(folder / "stack.tif", pixels[:3], photometric="minisblack")
    (folder / "text.tif").write_text("not an image")
    out = tmp_path_factory.mktemp("results")
    offline = OfflineRun(out, min_area_px=9, quiet=True)
    spec = InferenceSpec(
        model=str(random_model), device="cpu", engine="torch", warm_px=0
    )
    asyncio.run(offline.segment_all(list(find_files([folder])), spec))
    return out, offline


def test_every_frame_gets_labels_of_its_own_size(run: tuple[Path, OfflineRun]) -> None:
    out, _ = run
    names = {path.name for path in out.glob("*.labels.tif")}
    assert names == {
        "plain.labels.tif", "plain-2.labels.tif", "sized.labels.tif",
        "stack.p0000.labels.tif", "stack.p0001.labels.tif", "stack.p0002.labels.tif",
    }  # fmt: skip
    labels = tifffile.imread(out / "sized.labels.tif")
    assert labels.shape == (48, 64)
    assert labels.dtype == np.uint16


def test_the_table_has_the_columns_of_the_contract(
    run: tuple[Path, OfflineRun],
) -> None:
    out, _ = run
    with (out / "plain.particles.csv").open(newline="", encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == PARTICLE_COLUMNS


def test_the_summary_names_model_failures_and_calibration(
    run: tuple[Path, OfflineRun],
) -> None:
    out, _ = run
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["model_id"].startswith("test-")
    (failure,) = summary["failures"]
    assert failure["path"].endswith("text.tif")
    sized = next(frame for frame in summary["frames"] if frame["stem"] == "sized")
    assert (sized["pixel_size_nm"], sized["pixel_size_source"]) == (
        [0.25, 0.25],
        "sidecar",
    )
    plain = next(frame for frame in summary["frames"] if frame["stem"] == "plain")
    assert (plain["pixel_size_nm"], plain["unit"]) == (None, "px")


def test_every_frame_says_how_sure_the_model_is_of_it(
    run: tuple[Path, OfflineRun],
) -> None:
    out, _ = run

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON that other programs read")

    text = (out / "summary.json").read_text(encoding="utf-8")
    for frame in json.loads(text, parse_constant=refuse)["frames"]:
        with (out / f"{frame['stem']}.particles.csv").open(newline="") as file:
            chances = [float(row["confidence"]) for row in csv.DictReader(file)]
        assert frame["particles"] == len(chances)
        assert (frame["confidence"] is None) == (not chances)
        assert frame["doubtful"] == sum(chance < 0.5 for chance in chances)
        assert frame["doubtful_share"] >= 0


def test_a_path_that_is_not_there_is_said_before_the_network_is_loaded(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        list(find_files([tmp_path / "none.tif"]))
    with pytest.raises(ConfigError, match="no image file"):
        list(find_files([tmp_path]))
