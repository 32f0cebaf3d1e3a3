"""A job's folder holds all that it needs, whole or not at all."""

import asyncio
import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcopilot.decode import Frame, open_frames
from emcopilot.errors import AdaptationError, DecodeError
from gpu_server import job_folders
from gpu_server.domains import reservoir_frames
from gpu_server.job_folders import Places, job_toml, lay_out
from gpu_server.job_rows import Job
from models.adapt_settings import chosen_job

ODD = '"odd" \\ \x7f \u00e5 \U0001f52c name'


class Decoder:
    """Decodes in process: the frames are our own."""

    def __init__(self, broken: int = 0) -> None:
        self.broken, self.asked = broken, 0

    async def decode(self, path: Path, name: str, page: int) -> Frame:
        self.asked += 1
        if self.asked <= self.broken:
            raise DecodeError(f"{name} is torn")
        with open_frames(path, name) as file:
            return file.read(page)


async def at_once() -> None:
    return None


def laid_out(job_lab, job: Job, folder: Path, decoder: Decoder, **given) -> None:
    def places() -> Places:
        with job_lab.store.read() as connection:
            chosen = reservoir_frames(connection, job.domain_id, job.frame_count)
        start = job_lab.registry.folder("a")
        return Places(chosen, job_lab.store.blob_path, start, None, "a domain")

    wanted = {"overrides": {}, "device": "cpu", "pause": at_once} | given
    asyncio.run(lay_out(folder, job, places, decoder, **wanted))


def ordered(job_lab, frames: int = 8) -> Job:
    return job_lab.desk.order(job_lab.add_domain(frames), "ada", preset="quick")


def test_a_folder_holds_frames_in_their_own_type_and_the_model(
    job_lab, tmp_path: Path
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    laid_out(job_lab, job, folder, Decoder())
    files = sorted((folder / "frames").iterdir())
    assert len(files) == 8
    pixels = tifffile.imread(files[0])
    assert (pixels.dtype, pixels.max()) == (np.uint16, 1000)
    assert {path.name for path in (folder / "start").iterdir()} == {
        "card.json", "model.safetensors",
    }  # fmt: skip
    said = tomllib.loads((folder / "job.toml").read_text())
    assert (said["frames"], said["out"], said["model"]) == ("frames", "out", "start")
    assert (said["preset"], said["most_frames"], said["domain"]) == (
        "quick", 8, "a domain",
    )  # fmt: skip


def test_what_is_there_is_not_made_again(job_lab, tmp_path: Path) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    laid_out(job_lab, job, folder, Decoder())
    again = Decoder()
    laid_out(job_lab, job, folder, again)
    assert again.asked == 0


@pytest.mark.parametrize("torn", [b"", b'frames = "fra', b"\0" * 200, b"\xff\xfe"])
def test_a_job_file_that_a_power_cut_tore_is_written_anew(
    job_lab, tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    laid_out(job_lab, job, folder, Decoder())
    whole = (folder / "job.toml").read_bytes()
    (folder / "job.toml").write_bytes(torn)
    again = Decoder()
    laid_out(job_lab, job, folder, again)
    assert (folder / "job.toml").read_bytes() == whole
    assert (folder / "job.damaged").read_bytes() == torn
    assert again.asked == 0  # the frames are there
    assert f"job file damaged path={folder / 'job.toml'}" in caplog.text


def test_a_job_file_that_the_disk_does_not_give_is_not_written_anew(
    job_lab, tmp_path: Path
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    (folder / "job.toml").mkdir(parents=True)
    with pytest.raises(
        AdaptationError, match=r"cannot read .*job\.toml: Is a directory"
    ):
        laid_out(job_lab, job, folder, Decoder())
    assert (folder / "job.toml").is_dir()


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_job_that_has_begun_keeps_its_models(
    job_lab, papers, tmp_path: Path, has_begun: bool
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    laid_out(job_lab, job, folder, Decoder())
    shutil.copytree(papers["b"], folder / "live")  # it was live when the job began
    (folder / "job.toml").write_text("preset = quick")
    if has_begun:
        (folder / "out").mkdir()
        (folder / "out" / "job.json").write_text("{}")
    laid_out(job_lab, job, folder, Decoder())
    assert (folder / "live").exists() == has_begun
    said = tomllib.loads((folder / "job.toml").read_text())
    assert said.get("incumbent") == ("live" if has_begun else None)


def test_all_that_a_job_file_names_is_on_disk_before_it_is(
    job_lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    synced: list[str] = []

    def sync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        is_named = (folder / "job.toml").exists()
        synced.append(f"{path.relative_to(folder)} named={is_named}")

    monkeypatch.setattr(os, "fsync", sync)
    laid_out(job_lab, job, folder, Decoder())
    for number in range(1, 9):
        assert f"frames/frame-{number:08}.part named=False" in synced
    assert "start/model.safetensors.part named=False" in synced
    assert synced[-2:] == ["job.part named=False", ". named=True"]


def test_a_stop_in_between_goes_on_with_the_frames_chosen_first(
    job_lab, tmp_path: Path
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    left = [3]

    async def stop_at_the_fourth() -> None:
        if not left[0]:
            raise AdaptationError("cancelled")
        left[0] -= 1

    with pytest.raises(AdaptationError, match="cancelled"):
        laid_out(job_lab, job, folder, Decoder(), pause=stop_at_the_fourth)
    assert not (folder / "job.toml").exists()
    job_lab.store.reject_frame(1, "ada")  # the reservoir changes meanwhile
    rest = Decoder()
    laid_out(job_lab, job, folder, rest)
    assert rest.asked == 5
    assert len(list((folder / "frames").glob("*.tif"))) == 8


def test_a_model_that_was_live_at_a_kill_leaves_nothing_in_the_folder(
    job_lab, tmp_path: Path
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    for name in ("start", "live"):
        (folder / name).mkdir(parents=True)
        (folder / name / "replay.npz").write_bytes(b"of another model")
    laid_out(job_lab, job, folder, Decoder())
    assert not (folder / "start" / "replay.npz").exists()
    assert not (folder / "live").exists()


def test_frames_that_cannot_be_read_are_left_out_until_too_few_are_left(
    job_lab, tmp_path: Path
) -> None:
    job = ordered(job_lab)
    laid_out(job_lab, job, tmp_path / "one", Decoder(broken=1))
    assert len(list((tmp_path / "one" / "frames").iterdir())) == 7
    with pytest.raises(AdaptationError, match=r"6 frames .* expected 7 .*torn"):
        laid_out(job_lab, job, tmp_path / "two", Decoder(broken=2))


def test_a_choice_that_somebody_edited_is_refused(job_lab, tmp_path: Path) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    folder.mkdir()
    (folder / job_folders.CHOICE_FILE).write_text(json.dumps([{"frame": 1}]))
    with pytest.raises(AdaptationError, match="somebody changed it"):
        laid_out(job_lab, job, folder, Decoder())


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("frame_id", "7", r"0\.frame_id: .* valid integer, got '7'"),
        ("frame_id", "seven", r"0\.frame_id: .* valid integer, got 'seven'"),
        ("page", -1, r"0\.page: "),
        ("sha256", "../../secrets", r"0\.sha256: "),
    ],
)
def test_a_choice_with_an_odd_entry_says_which_and_how_to_go_on(
    job_lab, tmp_path: Path, key: str, value: object, why: str
) -> None:
    job, folder = ordered(job_lab), tmp_path / "job"
    laid_out(job_lab, job, folder, Decoder())
    path = folder / job_folders.CHOICE_FILE
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0] | {key: value}, *rows[1:]]))
    (folder / "job.toml").unlink()
    with pytest.raises(AdaptationError, match=f"chosen.json .*{why}.*start a new job"):
        laid_out(job_lab, job, folder, Decoder())


def test_a_folder_that_cannot_be_written_is_said(job_lab, tmp_path: Path) -> None:
    (tmp_path / "job").write_text("in the way")
    with pytest.raises(AdaptationError, match="free some room"):
        laid_out(job_lab, ordered(job_lab), tmp_path / "job", Decoder())


def test_overrides_lie_over_the_preset_of_the_job(job_lab) -> None:
    over = {"rough": "classical", "pix2pix": {"steps": 3, "weights": {"gan": 0.5}}}
    text = job_toml(ordered(job_lab), over, device="cpu", domain=ODD)
    said = tomllib.loads(text)
    assert said["rough"] == "classical"
    assert said["pix2pix"] == {"steps": 3, "weights": {"gan": 0.5}}
    assert said["domain"] == ODD
    assert "incumbent" not in said


def test_a_job_s_domain_is_told_by_its_key_and_is_no_other_job_by_its_name(
    job_lab, tmp_path: Path
) -> None:
    job, jobs = ordered(job_lab), []
    for name, key in (("one", "domain 1 of 5.000"), ("renamed", ""), ("one", "x" * 9)):
        path = tmp_path / "job.toml"
        path.write_text(job_toml(job, {}, device="cpu", domain=name, domain_key=key))
        jobs.append(chosen_job(path, {}))
    assert [one.domain_key for one in jobs] == ["domain 1 of 5.000", "", "x" * 9]
    assert jobs[0].lasting() == jobs[1].lasting() == jobs[2].lasting()


def test_a_job_that_is_done_keeps_its_pictures_and_figures_alone(
    tmp_path: Path,
) -> None:
    kept = ("job.toml", "trainer.log", "out/report.json", "out/samples/1-1.png")
    dropped = (
        "frames/one.tif",
        "start/model.safetensors",
        "live/card.json",
        "out/model.safetensors",
        "out/round-1/first.npz",
        "out/round-1/train/model.safetensors",
        "out/round-1/pix2pix/state.pt",
        "out/round-1/pix2pix/state.damaged",
    )
    for name in (*kept, *dropped):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    job_folders.drop_work(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(kept)
