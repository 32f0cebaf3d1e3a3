"""Presets of an adaptation job, and what is laid over them."""

from pathlib import Path

import pytest

from emcopilot.errors import ConfigError
from models.adapt_command import main
from models.adapt_settings import PRESETS, chosen_job


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_a_whole_job(preset: str) -> None:
    job = chosen_job(None, {"frames": "in", "out": "out", "preset": preset, "seed": 7})
    assert job.preset == preset
    assert (
        job.train.architecture.local_contrast_px > 0
    )  # NPsSegNet keeps its architecture
    assert {job.pix2pix.seed, job.cyclegan.seed, job.train.seed} == {7}


def test_the_file_is_laid_over_its_preset_and_the_command_over_both(
    tmp_path: Path,
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        'frames = "a"\nout = "b"\npreset = "quick"\nsynthetic = 20\n'
        "[pix2pix]\nsteps = 9\n"
    )
    job = chosen_job(path, {"out": "c", "synthetic": None})
    assert (job.synthetic, str(job.out), job.pix2pix.steps) == (20, "c", 9)
    assert job.pix2pix.tile_px == PRESETS["quick"]["pix2pix"].tile_px  # type: ignore[attr-defined]


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('frames = "a"\nout = "b"\nsyntetic = 20\n')
    with pytest.raises(ConfigError, match="synthetic"):
        chosen_job(path, {})


def test_places_and_device_do_not_make_another_job() -> None:
    one = chosen_job(None, {"frames": "in", "out": "out", "preset": "quick"})
    other = chosen_job(
        None, {"frames": "x", "out": "y", "preset": "quick", "device": "cpu"}
    )
    assert one.lasting() == other.lasting()
    third = chosen_job(
        None, {"frames": "in", "out": "out", "preset": "quick", "seed": 1}
    )
    assert one.lasting() != third.lasting()


def test_a_command_without_frames_is_bad_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--out", "somewhere"])
    assert left.value.code == 2
    assert "give --frames and --out" in capsys.readouterr().err


def test_a_budget_in_the_file_replaces_the_presets(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('frames = "a"\nout = "b"\npreset = "paper"\n[pix2pix]\nsteps = 9\n')
    job = chosen_job(path, {})
    assert (job.pix2pix.steps, job.pix2pix.epochs) == (9, None)
    assert job.cyclegan.epochs == 150


def test_places_in_a_file_are_seen_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    path = tmp_path / "job.toml"
    path.write_text('frames = "frames"\nout = "out"\nmodel = "start"\n')
    job = chosen_job(path, {})
    assert (job.frames, job.out) == (tmp_path / "frames", tmp_path / "out")
    assert job.model == str(tmp_path / "start")
    path.write_text('frames = "/elsewhere"\nout = "out"\nmodel = "base"\n')
    job = chosen_job(path, {"out": "given"})
    assert (job.frames, job.out, job.model) == (
        Path("/elsewhere"),
        Path("given"),
        "base",
    )
