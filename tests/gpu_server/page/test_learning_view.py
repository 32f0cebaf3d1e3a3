"""What the page reads of models, domains, jobs and what happened, from a real store."""

from types import SimpleNamespace

import pytest

from gpu_server import domains, jobs, promotion_rows, shift_rows
from gpu_server.page.learning_events import happenings
from gpu_server.page.learning_view import LearningReader
from gpu_server.shift_rows import Proposal, Shift


@pytest.fixture
def reader(job_lab) -> LearningReader:
    models = SimpleNamespace(
        registry=job_lab.registry, promotion=SimpleNamespace(doing=None)
    )
    services = SimpleNamespace(
        store=job_lab.store, models=models, jobs=job_lab.desk, probes={}
    )
    return LearningReader(lambda: services)


def write(job_lab, change):
    with job_lab.store.database.write() as connection:
        return change(connection)


def seen_domain(job_lab) -> int:
    """Return a domain whose frames say that they are of it, as the accumulator writes."""
    domain_id = job_lab.add_domain(9)

    def mark(connection) -> None:
        from gpu_server import look_rows

        for one in domains.reservoir_frames(connection, domain_id):
            look_rows.save_look(
                connection, one.frame_id, domain_id=domain_id, flaw=None, distance=0.1,
                model_id="a",
            )  # fmt: skip

    write(job_lab, mark)
    return domain_id


def test_a_fresh_server_has_a_live_model_and_nothing_to_do(job_lab, reader) -> None:
    found = reader.read(None)
    assert (found.live, found.domain, found.job, found.others) == ("a", None, None, [])
    assert found.has_models
    assert found.has_jobs


def test_the_sessions_domain_and_alarm_are_read(job_lab, reader) -> None:
    domain_id = seen_domain(job_lab)
    told = Shift("shifted", "new texture", "a", domain_id, Proposal("adapt", domain_id))
    write(job_lab, lambda c: shift_rows.tell(c, 1, told, at=9.0))
    found = reader.read(1)
    assert found.domain is not None
    assert found.domain.id == domain_id
    assert found.look.startswith("bright on dark")
    assert found.shift == told
    assert reader.read(2).shift is None


def test_all_pages_are_answered_by_one_read_until_somebody_changed_something(
    job_lab, reader
) -> None:
    before = reader.read(1)
    assert reader.read(1) is before
    assert reader.read(1, anew=True) is not before


def test_a_rejected_candidate_comes_with_what_speaks_against_it(
    job_lab, reader, papers
) -> None:
    domain_id = seen_domain(job_lab)
    job = job_lab.desk.order(domain_id, "Ida", preset="quick")
    job_lab.registry.add(papers["b"], "adapted", "job", verdict="reject", job_id=job.id)
    write(
        job_lab,
        lambda c: jobs.end(c, job.id, "awaiting_operator", at=9.0, candidate="b"),
    )
    found = reader.read(1)
    assert found.candidate is not None
    assert found.candidate.model.model_id == "b"
    assert "worse than the incumbent" in (found.candidate.objection or "")


def test_a_candidate_says_whom_it_was_judged_against_where_another_is_live(
    job_lab, reader, papers, judge
) -> None:
    domain_id = seen_domain(job_lab)
    job = job_lab.desk.order(domain_id, "Ida", preset="quick")
    judge(papers["b"], incumbent="a")
    job_lab.registry.add(
        papers["b"], "adapted", "job", verdict="promote", job_id=job.id
    )
    write(
        job_lab,
        lambda c: jobs.end(c, job.id, "awaiting_operator", at=9.0, candidate="b"),
    )
    found = reader.read(1).candidate
    assert (found.objection, found.judged_against) == (None, None)
    job_lab.registry.add(papers["c"], "imported", "Ida")
    write(job_lab, lambda c: promotion_rows.record(c, "c", "Ida", at=10.0))
    found = reader.read(1, anew=True).candidate
    assert found.judged_against == "a"
    assert "judged against a, but c is live now" in found.objection


def test_jobs_of_other_domains_are_listed_beside(job_lab, reader) -> None:
    own, other = seen_domain(job_lab), job_lab.add_domain(9, "BF")
    first = job_lab.desk.order(other, "Ida", preset="quick")
    second = job_lab.desk.order(own, "Ida", preset="quick")
    found = reader.read(1)
    assert found.job is not None
    assert (found.job.id, found.ahead) == (second.id, 1)
    assert [job.id for job in found.others] == [first.id]


def test_a_server_without_models_says_so() -> None:
    services = SimpleNamespace(models=None)
    assert not LearningReader(lambda: services).read(None).has_models


def test_what_happened_is_told_once_a_state_and_the_newest_first(job_lab) -> None:
    domain_id = seen_domain(job_lab)
    told = Shift("shifted", "new texture", "a", domain_id)
    write(job_lab, lambda c: shift_rows.tell(c, 1, told, at=2.0))
    write(job_lab, lambda c: domains.rename(c, domain_id, "<b>gold", "Ida", at=3.0))
    job = job_lab.desk.order(domain_id, "Ida", preset="quick")

    def run(connection) -> None:
        jobs.begin(connection, job.id, at=4e9)
        jobs.tell(connection, job.id, at=4e9 + 1)
        jobs.end(connection, job.id, "failed", at=4e9 + 2, reason="no memory")
        promotion_rows.record(connection, "a", "Ida", at=4e9 + 3, reason="again")

    write(job_lab, run)
    found = [(one.severity, one.what) for one in write(job_lab, happenings)]
    assert found == [
        ("good", "Promoted a"),
        ("bad", "Job 1: failed"),
        ("off", "Job 1: rough masks"),
        ("off", "Job 1: queued"),
        ("off", "A domain is called <b>gold"),
        ("warn", "The image changed: new texture"),
        ("good", "Promoted a"),
    ]
    more = [one.more for one in write(job_lab, happenings)]
    assert more[:2] == ["by Ida: again", "adapting to <b>gold. no memory"]


def test_a_discard_is_told_although_the_state_stays(job_lab, reader) -> None:
    domain_id = seen_domain(job_lab)
    job = job_lab.desk.order(domain_id, "Ida", preset="quick")
    write(job_lab, lambda c: jobs.end(c, job.id, "failed", at=4e9, reason="no memory"))
    assert reader.read(1).job.id == job.id
    write(job_lab, lambda c: jobs.discard(c, job.id, "Ida", at=4e9 + 1))
    assert reader.read(1, anew=True).job is None
    last, before = write(job_lab, happenings)[:2]
    assert (last.severity, last.what) == ("off", "Job 1: discarded")
    assert last.more.endswith("discarded by Ida; before that: no memory")
    assert before.what == "Job 1: failed"
