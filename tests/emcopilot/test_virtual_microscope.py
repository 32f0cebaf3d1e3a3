import json
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rsciio import mrc

from emcopilot.errors import ConfigError
from emcopilot.truth import mean_diameter_nm, read_truth
from emcopilot.virtual_microscope import (
    MicroscopeSettings,
    acquire,
    default_truth_path,
    exposures,
    main,
)

# The public reader of MRC leaves its file open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

QUICK = MicroscopeSettings(frames=3, size=96, fps=float("inf"), pause_s=0.01)


def settings(**changes: object) -> MicroscopeSettings:
    return MicroscopeSettings.model_validate(QUICK.model_dump() | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "acquisitions"


@pytest.mark.parametrize("writing", ["rename", "slow", "mixed"])
def test_a_file_per_frame_and_nothing_else(folder: Path, writing: str) -> None:
    written = list(exposures(folder, settings(writing=writing)))
    names = [f"frame_{n:04d}.tif" for n in (1, 2, 3)]
    assert [file.path.name for file in written] == names
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [list(file.frames) for file in written] == [[0], [1], [2]]


def test_each_file_is_complete_when_it_is_reported(folder: Path) -> None:
    for file in exposures(folder, settings(writing="slow")):
        assert tifffile.imread(file.path).shape == (96, 96)
        assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("form", ["stack-tif", "stack-mrc"])
def test_stacks_hold_the_frames_in_order(folder: Path, form: str) -> None:
    single = [
        tifffile.imread(file.path)
        for file in exposures(folder / "single", settings(frames=5))
    ]
    stacks = list(exposures(folder, settings(format=form, frames=5, pages=3)))
    read = tifffile.imread if form == "stack-tif" else _read_mrc
    pages = np.concatenate([np.atleast_3d(read(file.path)) for file in stacks])
    assert [len(file.frames) for file in stacks] == [3, 2]
    assert np.array_equal(pages, np.stack(single))
    truth = read_truth(default_truth_path(folder))
    assert [(line.file, line.page) for line in truth] == [
        (stacks[0].path.name, 0),
        (stacks[0].path.name, 1),
        (stacks[0].path.name, 2),
        (stacks[1].path.name, 0),
        (stacks[1].path.name, 1),
    ]


def _read_mrc(path: Path) -> np.ndarray:
    return mrc.file_reader(str(path))[0]["data"]


def test_a_stack_of_one_frame_is_a_frame(folder: Path) -> None:
    (only,) = exposures(folder, settings(format="stack-tif", frames=1))
    assert tifffile.imread(only.path).shape == (96, 96)


@pytest.mark.parametrize("form", ["tif", "mrc"])
def test_files_state_the_pixel_size_of_the_truth(folder: Path, form: str) -> None:
    (file,) = exposures(folder, settings(format=form, frames=1, pixel_size_nm=0.31))
    (truth,) = read_truth(default_truth_path(folder))
    assert truth.pixel_size_nm == 0.31
    if form == "mrc":
        axes = mrc.file_reader(str(file.path))[0]["axes"]
        assert [a["scale"] for a in axes] == pytest.approx([0.31, 0.31], rel=1e-5)
        return
    with tifffile.TiffFile(file.path) as tif:
        per_nm, one = tif.pages[0].tags["YResolution"].value
        assert one / per_nm == pytest.approx(0.31, rel=1e-5)


def test_the_truth_lies_beside_the_folder_and_covers_every_frame(folder: Path) -> None:
    list(exposures(folder, QUICK))
    truth = read_truth(folder.parent / "acquisitions.truth.jsonl")
    assert [line.frame for line in truth] == [0, 1, 2]
    assert all(line.shape == (96, 96) and line.mode == "haadf" for line in truth)


def test_the_truth_is_known_before_the_frame_appears(folder: Path) -> None:
    for number, _ in enumerate(exposures(folder, QUICK), start=1):
        assert len(read_truth(default_truth_path(folder))) == number


@pytest.mark.parametrize(
    "inside", ["truth.jsonl", "deeper/truth.jsonl", "../acquisitions/t"]
)
def test_a_truth_file_in_the_watched_folder_is_refused(
    folder: Path, inside: str
) -> None:
    with pytest.raises(ConfigError, match="outside"):
        exposures(folder, QUICK, truth_path=folder / inside)
    assert not folder.exists()


def test_a_second_run_overwrites_nothing(folder: Path) -> None:
    first = next(iter(exposures(folder, settings(frames=1)))).path.read_bytes()
    (again,) = exposures(folder, settings(frames=1, seed=1))
    assert again.path.name == "frame_0002.tif"
    assert (folder / "frame_0001.tif").read_bytes() == first
    assert len(read_truth(default_truth_path(folder))) == 2


def test_one_seed_writes_one_film(tmp_path: Path) -> None:
    runs = [list(exposures(tmp_path / n, QUICK)) for n in ("a", "b")]
    for one, other in zip(*runs, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_frames_come_at_the_rate_asked_for(folder: Path) -> None:
    started_s = time.monotonic()
    list(exposures(folder, settings(frames=4, fps=5)))
    # The first frame is due at once, the fourth 0.6 s later.
    assert time.monotonic() - started_s >= 0.6


def test_the_watcher_can_hold_the_microscope_back(folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    def wait(written: int) -> None:
        seen.append((written, len(list(folder.iterdir()))))

    written = acquire(folder, frames=3, fps=float("inf"), size=96, wait=wait)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert len(written) == 3


def test_a_film_in_bright_field_has_dark_particles(folder: Path) -> None:
    (file,) = acquire(folder, mode="bf", frames=1, fps=float("inf"), size=256)
    (truth,) = read_truth(default_truth_path(folder))
    pixels = tifffile.imread(file.path)
    whole = [p for p in truth.particles if not p.touches_border]
    middles = [pixels[round(p.centroid_y_px), round(p.centroid_x_px)] for p in whole]
    assert np.mean(middles) < 0.7 * np.median(pixels)


def test_the_command_prints_what_it_wrote(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(folder), "--frames", "2", "--size", "96", "--fps", "inf", "--json"]
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    truth = read_truth(Path(summary["truth"]))
    assert summary["frames"] == len(summary["files"]) == 2
    assert summary["mean_diameter_nm"] == pytest.approx(mean_diameter_nm(truth))


def test_the_command_speaks_to_people_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--frames", "1", "--size", "96", "--format", "mrc"]) == 0
    assert "frames: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--size", "3"], "size"), (["--fps", "0"], "fps"), (["--name", "../x"], "name")],
)
def test_bad_usage_says_what_to_correct(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([str(folder), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert main([str(blocked / "frames")]) == 2
    assert "cannot make a folder" in capsys.readouterr().err


def test_ctrl_c_ends_with_complete_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sleeps: list[float] = []

    def interrupt(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:  # in the pause of the second file, a slow one
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)  # the clock, not our code
    assert main([str(folder), "--frames", "9", "--size", "96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] >= 1
    for path in folder.iterdir():
        assert tifffile.imread(path).shape == (96, 96)
