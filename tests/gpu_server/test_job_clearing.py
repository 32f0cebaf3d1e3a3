"""A job that nobody wants any more frees its room; what people look at stays."""

import shutil
from pathlib import Path

import pytest

from gpu_server import job_clearing
from gpu_server.job_clearing import WorkLeftError

KEPT = (
    "job.toml",
    "answer.json",
    "trainer.log",
    "trainer.old.log",
    "out/progress.jsonl",
    "out/samples/1-1-rough-masks.png",
    "out/round-1/report.json",
    "out/round-1/report.png",
)
WORK = (
    "frames/frame-00000001.tif",
    "frames/frame-00000002.part",
    "start/model.safetensors",
    "live/card.json",
    "chosen.json",
    "job.damaged",
    "out/job.lock",
    "out/round-1/first.npz",
    "out/round-1/first.part",
    "out/round-1/train/state.pt",
    "out/round-1/train/model.part1234",
    "out/samples/of-a-stage/sample.png",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder as a kill leaves it, ten bytes a file."""
    for name in (*KEPT, *WORK):
        path = tmp_path / "jobs" / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"ten bytes.")
    return tmp_path / "jobs" / "7"


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def test_what_a_person_looks_at_stays_and_all_else_goes(folder: Path) -> None:
    job_clearing.clear(folder)
    assert files(folder) == set(KEPT)
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_dir()}
    assert left == {"out", "out/samples", "out/round-1"}
    job_clearing.clear(folder)
    assert files(folder) == set(KEPT)


def test_a_folder_in_which_nothing_is_worth_a_look_goes_too(folder: Path) -> None:
    shutil.rmtree(folder)
    job_clearing.clear(folder)  # a job that never came to its frames has none
    (folder / "frames").mkdir(parents=True)
    job_clearing.clear(folder)
    assert not folder.exists()
    assert folder.parent.is_dir()


def test_a_link_goes_and_what_it_leads_to_stays(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "frame.tif").write_bytes(b"not of this job")
    shutil.rmtree(folder / "frames")
    (folder / "frames").symlink_to(elsewhere)
    (folder / "job.toml").unlink()
    (folder / "job.toml").symlink_to(elsewhere / "frame.tif")
    job_clearing.clear(folder)
    assert (elsewhere / "frame.tif").read_bytes() == b"not of this job"
    assert files(folder) == set(KEPT) - {"job.toml"}


def test_a_disk_that_does_not_let_go_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "first.npz":
            raise OSError(30, "Read-only file system", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        WorkLeftError, match=r"first\.npz: Read-only .*discard it again"
    ):
        job_clearing.clear(folder)
    monkeypatch.undo()
    job_clearing.clear(folder)
    assert files(folder) == set(KEPT)


def test_a_folder_takes_what_its_own_files_take(folder: Path, tmp_path: Path) -> None:
    assert job_clearing.folder_bytes(folder) == 10 * len(KEPT + WORK)
    (tmp_path / "large").write_bytes(bytes(100_000))
    (folder / "frames" / "link.tif").symlink_to(tmp_path / "large")
    assert job_clearing.folder_bytes(folder) < 1000
    job_clearing.clear(folder)
    assert job_clearing.folder_bytes(folder) == 10 * len(KEPT)
    assert job_clearing.folder_bytes(folder / "none") == 0
