"""Jobs as rows: one open job a domain, one order of work, and every change told."""

import time

import pytest
import sqlalchemy as sa

from gpu_server import job_rows, jobs
from gpu_server.job_desk import JobDesk, NoSpaceError, TooFewFramesError
from gpu_server.job_rows import Standing
from gpu_server.jobs import JobConflictError
from gpu_server.tables import STAGES, audit, events


def told(job_lab) -> list[str]:
    with job_lab.store.read() as connection:
        chosen = sa.select(events.c.data).where(events.c.kind == "job")
        return [data["state"] for data in connection.execute(chosen).scalars()]


def find(job_lab, job_id: int) -> job_rows.Job:
    with job_lab.store.read() as connection:
        return job_rows.find(connection, job_id)


def change(job_lab, what, *given, **named):
    with job_lab.store.database.write() as connection:
        return what(connection, *given, at=time.time(), **named)


def test_a_new_job_starts_from_the_live_model_and_is_told(job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    job = job_lab.desk.order(domain_id, "ada", preset="quick")
    assert (job.state, job.start_model, job.frame_count) == ("queued", "a", 8)
    assert told(job_lab) == ["queued"]
    with job_lab.store.read() as connection:
        line = connection.execute(sa.select(audit)).all()[-1]
    assert (line.who, line.action, line.subject) == (
        "ada",
        "adapt",
        f"domain {domain_id}",
    )


def test_a_second_press_names_the_open_job(job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    job = job_lab.desk.order(domain_id, "ada", preset="quick")
    with pytest.raises(JobConflictError, match=rf"job {job.id} .* queued .* ada"):
        job_lab.desk.order(domain_id, "bob", preset="quick")


def test_too_few_frames_say_how_many_are_there_and_needed(job_lab) -> None:
    domain_id = job_lab.add_domain(6)
    with pytest.raises(TooFewFramesError, match=r"has 6 frames .* expected 7"):
        job_lab.desk.order(domain_id, "ada", preset="quick")


def test_asking_for_too_few_frames_is_too_few(job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    with pytest.raises(TooFewFramesError, match="3 were asked for"):
        job_lab.desk.order(domain_id, "ada", preset="quick", wanted=3)


def test_rejected_frames_are_not_counted(job_lab) -> None:
    domain_id = job_lab.add_domain(7)
    job_lab.store.reject_frame(1, "ada")
    with pytest.raises(TooFewFramesError, match="has 6 frames"):
        job_lab.desk.order(domain_id, "ada", preset="quick")


def test_an_unknown_domain_or_model_is_said(job_lab) -> None:
    with pytest.raises(LookupError, match="no domain 9"):
        job_lab.desk.order(9, "ada", preset="quick")
    domain_id = job_lab.add_domain(8)
    with pytest.raises(LookupError, match="no model gone"):
        job_lab.desk.order(domain_id, "ada", preset="quick", model="gone")


def test_a_disk_that_cannot_hold_the_job_is_said_before(job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    desk = JobDesk(job_lab.store, job_lab.registry, disk_reserve_bytes=10**18)
    with pytest.raises(NoSpaceError, match="GB free"):
        desk.order(domain_id, "ada", preset="quick")


def test_what_was_begun_goes_before_what_waits(job_lab) -> None:
    first = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    second = job_lab.desk.order(job_lab.add_domain(8, "BF"), "ada", preset="quick")
    with job_lab.store.read() as connection:
        assert job_rows.next_job(connection) == first
        assert job_rows.ahead_of(connection, second) == 1
    change(job_lab, jobs.begin, second.id)
    with job_lab.store.read() as connection:
        assert job_rows.next_job(connection).id == second.id
        assert job_rows.ahead_of(connection, first) == 1


def test_coming_further_counts_the_starts_anew(job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    for attempts in (1, 2):
        assert change(job_lab, jobs.begin, job.id).attempts == attempts
    standing = Standing("pix2pix", 10, 500, 90.0, {"rough_masks": 3.0})
    change(job_lab, jobs.advance, job.id, standing, is_further=False, tells=False)
    assert find(job_lab, job.id).attempts == 2
    change(job_lab, jobs.advance, job.id, standing, is_further=True, tells=True)
    found = find(job_lab, job.id)
    assert (found.state, found.step, found.eta_s, found.attempts) == (
        "pix2pix", 10, 90.0, 0,
    )  # fmt: skip
    assert told(job_lab)[-1] == "pix2pix"


def test_a_stage_that_nobody_knows_is_not_written(job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    change(job_lab, jobs.begin, job.id)
    odd = Standing("baking", 1, 2, None, {})
    change(job_lab, jobs.advance, job.id, odd, is_further=True, tells=True)
    assert find(job_lab, job.id).state == STAGES[0]


def test_a_waiting_job_is_cancelled_at_once_and_can_go_on(job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    assert job_lab.desk.cancel(job.id, "bob").state == "cancelled"
    with pytest.raises(JobConflictError, match="nothing to cancel"):
        job_lab.desk.cancel(job.id, "bob")
    again = job_lab.desk.resume(job.id, "bob")
    assert (again.state, again.cancel_wanted, again.reason) == ("queued", False, None)


def test_a_job_that_is_cancelled_just_before_its_start_does_not_begin(job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    job_lab.desk.cancel(
        job.id, "bob"
    )  # between the look for the next job and its start
    stopped = change(job_lab, jobs.begin, job.id)
    assert (stopped.state, stopped.attempts) == ("cancelled", 0)
    assert stopped.reason == "cancelled by bob"


def test_a_running_job_is_asked_to_stop(job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    change(job_lab, jobs.begin, job.id)
    asked = job_lab.desk.cancel(job.id, "bob")
    assert (asked.state, asked.cancel_wanted) == (STAGES[0], True)


def test_a_job_does_not_go_on_beside_a_newer_one(job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    old = job_lab.desk.order(domain_id, "ada", preset="quick")
    job_lab.desk.cancel(old.id, "ada")
    new = job_lab.desk.order(domain_id, "ada", preset="quick")
    with pytest.raises(JobConflictError, match=f"job {new.id}"):
        job_lab.desk.resume(old.id, "ada")


def test_only_a_waiting_candidate_can_be_turned_down(job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    with pytest.raises(JobConflictError, match="only a candidate that waits"):
        job_lab.desk.reject(job.id, "ada")
    change(job_lab, jobs.end, job.id, "awaiting_operator", candidate="b")
    assert job_lab.desk.reject(job.id, "ada").state == "rejected"
    assert told(job_lab)[-2:] == ["awaiting_operator", "rejected"]


def test_an_estimate_follows_what_earlier_jobs_took(job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    before = job_lab.desk.estimate(domain_id, "quick", None)
    assert tuple(before.stages) == STAGES
    assert "no job of this preset" in before.source
    job = job_lab.desk.order(domain_id, "ada", preset="quick")
    took = {name: 10.0 * n for n, name in enumerate(STAGES, 1)}
    standing = Standing("evaluate", 0, 1, 5.0, took)
    change(job_lab, jobs.advance, job.id, standing, is_further=True, tells=False)
    change(job_lab, jobs.end, job.id, "awaiting_operator", candidate="b")
    after = job_lab.desk.estimate(domain_id, "quick", None)
    assert after.stages == took
    assert after.total_s == 210
    assert "1 earlier job" in after.source


def ended(job_lab, state: str, reason: str | None = None) -> job_rows.Job:
    """Return a job that ended so, with work in its folder."""
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    frames = job_lab.desk.folder(job.id) / "frames"
    frames.mkdir(parents=True)
    (frames / "frame-00000001.tif").write_bytes(b"pixels")
    return change(job_lab, jobs.end, job.id, state, reason=reason)


@pytest.mark.parametrize("state", ["cancelled", "failed", "rejected"])
def test_a_job_that_is_discarded_frees_its_room_and_says_by_whom(
    job_lab, state: str
) -> None:
    job = ended(job_lab, state, "no memory")
    assert not job.is_discarded
    gone = job_lab.desk.discard(job.id, "bob")
    assert (gone.state, gone.is_discarded, gone.can_resume) == (state, True, False)
    assert gone.reason == "discarded by bob; before that: no memory"
    assert not job_lab.desk.folder(job.id).exists()
    assert told(job_lab)[-2:] == [state, state]
    with job_lab.store.read() as connection:
        line = connection.execute(sa.select(audit)).all()[-1]
    assert (line.who, line.action, line.subject) == ("bob", "discard job", "job 1")
    assert line.detail == {"state": state, "reason": "no memory"}


def test_a_discarded_job_cannot_go_on(job_lab) -> None:
    job = ended(job_lab, "cancelled", "cancelled by ada")
    job_lab.desk.discard(job.id, "bob")
    with pytest.raises(
        JobConflictError, match="was discarded by bob: its work is gone"
    ):
        job_lab.desk.resume(job.id, "ada")
    assert job_lab.desk.order(job.domain_id, "ada", preset="quick").id != job.id


def test_discarding_again_tells_nobody_again(job_lab) -> None:
    job = ended(job_lab, "failed")
    first = job_lab.desk.discard(job.id, "bob")
    events_before = told(job_lab)
    assert job_lab.desk.discard(job.id, "ada") == first
    assert told(job_lab) == events_before


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("queued", "cancel it"),
        ("train", "cancel it"),
        ("awaiting_operator", "promote its candidate, or turn it down"),
        ("promoted", "its work is gone already"),
    ],
)
def test_a_job_that_is_still_wanted_is_not_discarded(
    job_lab, state: str, remedy: str
) -> None:
    job = ended(job_lab, state)
    with pytest.raises(JobConflictError, match=f"job {job.id} is {state}.*{remedy}"):
        job_lab.desk.discard(job.id, "ada")
    assert (job_lab.desk.folder(job.id) / "frames").is_dir()


def test_what_a_kill_left_of_a_discarded_job_goes_at_the_next_start(job_lab) -> None:
    kept, left = ended(job_lab, "failed"), ended(job_lab, "failed")
    change(job_lab, jobs.discard, left.id, "ada")  # and killed before its folder went
    assert job_lab.desk.folder(left.id).exists()
    job_lab.desk.clear_discarded()
    assert not job_lab.desk.folder(left.id).exists()
    assert (job_lab.desk.folder(kept.id) / "frames").is_dir()
    assert find(job_lab, kept.id).can_resume
