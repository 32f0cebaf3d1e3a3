"""A job that somebody else runs: its lines outlive a kill, and a file stops it."""

import json
from pathlib import Path

import pytest

from emcopilot.job_progress import CANCEL_FILE, PROGRESS_FILE, JobReport, reports_of
from models.adapt_settings import chosen_job
from models.job_clock import STAGES, JobClock, expected_s
from models.watch import FileWatch

PLAN_S = {"rough_masks": 10.0, "pix2pix": 100.0, "train": 90.0}


class Hours:
    """A clock that is set by hand."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def watch(folder: Path, hours: Hours) -> FileWatch:
    return FileWatch(folder, JobClock(PLAN_S), monotonic=hours, wall=lambda: 1e9)


def reports(folder: Path) -> list[JobReport]:
    return reports_of((folder / PROGRESS_FILE).read_bytes().splitlines())


def test_a_report_says_how_far_the_job_is_and_what_was_measured(tmp_path: Path) -> None:
    hours = Hours()
    ours = watch(tmp_path, hours)
    ours.report("rough_masks", 0, 1)
    hours.now_s += 10
    ours.report("pix2pix", 0, 500)
    hours.now_s += 100
    ours.report("pix2pix", 250, 500, l1=0.123456789)
    *_, last = reports(tmp_path)
    assert (last.stage, last.step, last.steps, last.round) == ("pix2pix", 250, 500, 1)
    assert last.figures == {"l1": 0.123457}
    assert last.seconds == {"rough_masks": 10.0, "pix2pix": 100.0}
    # 140 s are left by plan, and what took 110 s was planned with 60 s.
    assert last.eta_s == pytest.approx(140 * 120 / 70, abs=0.1)


def test_a_job_that_was_killed_goes_on_counting_after_its_cut_line(
    tmp_path: Path,
) -> None:
    hours = Hours()
    first = watch(tmp_path, hours)
    first.report("rough_masks", 0, 1)
    hours.now_s += 30
    first.report("pix2pix", 1, 500)
    path = tmp_path / PROGRESS_FILE
    path.write_bytes(path.read_bytes() + b'{"stage": "pix2p')
    again = watch(tmp_path, hours)
    hours.now_s += 5
    again.report("pix2pix", 2, 500)
    said = reports(tmp_path)
    assert [report.step for report in said] == [0, 1, 2]
    assert said[-1].seconds == {"rough_masks": 30.0, "pix2pix": 5.0}


def test_lines_that_are_no_reports_are_passed_over() -> None:
    good = json.dumps({"stage": "train", "step": 1, "steps": 2, "at": 0})
    assert len(reports_of(["", "{}", "[1]", good, good[:20], "\x00"])) == 1


def test_a_loss_that_is_no_number_is_reported_as_none(tmp_path: Path) -> None:
    watch(tmp_path, Hours()).report("train", 1, 2, loss=float("nan"))
    assert reports(tmp_path)[0].figures == {"loss": None}


def test_a_file_cancels_the_job(tmp_path: Path) -> None:
    ours = watch(tmp_path, Hours())
    assert not ours.is_cancelled()
    (tmp_path / CANCEL_FILE).touch()
    assert ours.is_cancelled()


def test_a_disk_that_takes_no_line_does_not_stop_the_job(tmp_path: Path) -> None:
    ours = watch(tmp_path, Hours())
    (tmp_path / PROGRESS_FILE).mkdir()
    ours.report("train", 1, 2)


def test_the_second_round_does_not_end_with_the_first() -> None:
    clock = JobClock(PLAN_S, rounds=2, seconds={"train": 200.0})
    assert clock.left_s("train", 90, 90, 1) == pytest.approx(200)
    assert clock.left_s("train", 90, 90, 2) == 0


@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_every_stage_is_planned(preset: str) -> None:
    job = chosen_job(None, {"frames": "f", "out": "o", "preset": preset})
    plan_s = expected_s(job)
    assert tuple(plan_s) == STAGES
    assert all(seconds > 0 for seconds in plan_s.values())
