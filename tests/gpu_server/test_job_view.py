"""What a job's folder tells a person, also when somebody else wrote into it."""

import json
from pathlib import Path

import pytest

from gpu_server import job_view
from gpu_server.trainer import ProgressTail

PNG = b"\x89PNG\r\n\x1a\n and so on"


def line(stage: str, step: int, **figures: float) -> str:
    said = {"stage": stage, "step": step, "steps": 1000, "at": 0.0, "figures": figures}
    return json.dumps(said) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "samples").mkdir(parents=True)
    (tmp_path / "out" / "round-1").mkdir()
    return tmp_path


def test_curves_are_thinned_and_keep_their_last_point(folder: Path) -> None:
    text = "".join(line("train", step, loss=1 / step) for step in range(1, 1000))
    (folder / "out" / "progress.jsonl").write_text(text)
    (curve,) = job_view.curves(folder)
    assert (curve.stage, curve.figure) == ("train", "loss")
    assert len(curve.step) == len(curve.value) <= job_view.POINTS
    assert (curve.step[-1], curve.value[-1]) == (999, 1 / 999)
    assert curve.step == sorted(curve.step)


def test_a_step_that_was_taken_again_counts_once(folder: Path) -> None:
    text = (
        line("pix2pix", 1, l1=3) + line("pix2pix", 2, l1=2) + line("pix2pix", 1, l1=9)
    )
    (folder / "out" / "progress.jsonl").write_text(text)
    (curve,) = job_view.curves(folder)
    assert (curve.step, curve.value) == ([1, 2], [9, 2])


def test_a_tail_reads_each_line_once_and_waits_for_whole_ones(folder: Path) -> None:
    path, tail = folder / "out" / "progress.jsonl", ProgressTail(folder)
    assert tail.new() == []
    whole = line("train", 1)
    path.write_text(whole + whole[:9])
    assert [report.step for report in tail.new()] == [1]
    path.write_text(whole + line("train", 2) + "no report\n")
    assert [report.step for report in tail.new()] == [2]
    assert tail.new() == []


def test_pictures_come_in_order_and_the_report_last(folder: Path) -> None:
    for name in ("1-2-first", "1-1-rough", "No Name"):
        (folder / "out" / "samples" / f"{name}.png").write_bytes(PNG)
    assert job_view.pictures(folder) == ["1-1-rough", "1-2-first"]
    (folder / "out" / "round-1" / "report.png").write_bytes(PNG)
    assert job_view.pictures(folder)[-1] == "report"
    assert job_view.picture(folder, "report") == PNG
    assert job_view.picture(folder, "1-1-rough") == PNG


@pytest.mark.parametrize("name", ["../../secret", "none", "a" * 200, "", "text"])
def test_a_name_is_never_a_path_and_a_picture_is_one(folder: Path, name: str) -> None:
    (folder.parent / "secret.png").write_bytes(PNG)
    (folder / "out" / "samples" / "text.png").write_text("no picture")
    with pytest.raises(LookupError):
        job_view.picture(folder, name)


def test_a_link_out_of_the_folder_is_not_followed(folder: Path) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(PNG)
    (folder / "out" / "samples" / "link.png").symlink_to(secret)
    with pytest.raises(LookupError):
        job_view.picture(folder, "link")


def test_a_report_is_there_or_said_not_to_be(folder: Path) -> None:
    with pytest.raises(LookupError, match="no report yet"):
        job_view.report(folder)
    (folder / "out" / "round-1" / "report.json").write_text('{"verdict": "promote"}')
    assert job_view.report(folder) == {"verdict": "promote"}
    (folder / "out" / "round-1" / "report.json").write_text("cut of")
    with pytest.raises(LookupError):
        job_view.report(folder)
