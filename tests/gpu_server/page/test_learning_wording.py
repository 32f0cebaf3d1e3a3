"""What the panel says of models, domains and jobs, without a browser."""

from dataclasses import replace

import pytest

from gpu_server.domains import DomainRow
from gpu_server.job_estimate import estimate
from gpu_server.job_rows import Job
from gpu_server.page import learning_wording as wording
from gpu_server.page.learning_buttons import calls, proposed, refusals, wanted
from gpu_server.page.learning_view import Candidate, Learning, job_to_tell
from gpu_server.promotion_rows import Change
from gpu_server.registry import StoredModel
from gpu_server.shift_rows import Proposal, Shift

JOB = Job(
    id=3, domain_id=2, state="train", preset="quick", start_model="base", frame_count=40,
    seed=0, who="Ida", queued_at=1.0, started_at=2.0, ended_at=None, cancel_wanted=False,
    attempts=1, step=120, steps=400, eta_s=372.0,
    seconds={"rough_masks": 40.0, "pix2pix": 60.0}, candidate=None, reason=None,
)  # fmt: skip
MODEL = StoredModel(
    "adapted-1",
    "adapted",
    "adapted-1",
    "0" * 64,
    2,
    3,
    5.0,
    "job",
    "promote",
    None,
    None,
)
CALM = Learning(at=100.0, live="base", has_models=True, has_jobs=True)
SHIFTED = Shift("shifted", "contrast inverted", "base", 2, Proposal("adapt", 2), 7)
RETURNED = Shift("returned", "", "base", 2, Proposal("promote", 2, "adapted-1"), 7)
NAMES = {2: "BF, Titan"}
DOMAIN = DomainRow(
    id=2, name="gold", instrument=None, modality=None, detector=None, sample=None,
    pixel_band=None, created_at=1.0, seen_at=2.0, frame_count=9, reservoir_count=8,
    features="net", look=b"", model_id=None, selects_model=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "a moment"),
        (7, "about 5 s"),
        (58, "about 60 s"),
        (372, "about 6 min"),
        (12_600, "about 3.5 h"),
    ],
)
def test_times_are_said_as_well_as_they_are_known(seconds: float, said: str) -> None:
    assert wording.about(seconds) == said


def test_an_estimate_is_a_sentence_of_its_own() -> None:
    assert wording.estimate_text(estimate("quick", 40, [])) == "About 26 min"


def test_the_badge_says_what_changed_and_what_can_be_done() -> None:
    assert wording.shift_title(SHIFTED, NAMES) == (
        "The image has changed: contrast inverted"
    )
    assert "adapt to it" in wording.shift_advice(SHIFTED)
    assert wording.shift_title(RETURNED, NAMES) == "Back in domain BF, Titan"
    assert "adapted-1 is not live" in wording.shift_advice(RETURNED)
    selected = replace(RETURNED, proposal=Proposal("promote", 2, "adapted-1", True))
    assert "by itself" in wording.shift_advice(selected)


@pytest.mark.parametrize("shift", [None, Shift("ok", "", "base")])
def test_nothing_is_said_while_nothing_is_wrong(shift: Shift | None) -> None:
    assert wording.shift_title(shift, NAMES) == wording.shift_advice(shift) == ""


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("queued", "Queued: begins in a moment"),
        ("train", "Training, step 120 of 400  ·  about 6 min left"),
        ("awaiting_operator", "The candidate is ready"),
        ("cancelled", "Cancelled: it can go on where it was"),
        ("failed", "Failed: for no reason that it told"),
        ("promoted", "Promoted"),
        ("rejected", "Rejected"),
    ],
)
def test_every_state_of_a_job_has_its_sentence(state: str, said: str) -> None:
    assert wording.job_line(replace(JOB, state=state)) == said


def test_a_discarded_job_says_so_and_is_told_to_nobody_any_more() -> None:
    for state in ("cancelled", "failed"):
        gone = replace(JOB, state=state, reason="discarded by Ida; before that: x")
        assert wording.job_line(gone) == "Discarded: it cannot go on"
        assert job_to_tell([gone], 2) is None
    running = replace(JOB, reason="discarded by nobody: it runs")
    assert job_to_tell([running], 2) == running
    assert not running.is_discarded


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(0, "0 MB"), (4_200_000, "4.2 MB"), (3_612_000_000, "3.6 GB")],
)
def test_what_a_discard_frees_is_said_before(size_bytes: int, said: str) -> None:
    told = wording.discard_text(JOB, "Adapting to BF", size_bytes)
    assert told == (
        f"Adapting to BF, job 3: what it has learnt so far goes for good, {said}."
    )


def test_a_queued_job_says_how_many_go_before_it_and_a_stopping_one_that_it_stops() -> (
    None
):
    queued = replace(JOB, state="queued")
    assert wording.job_line(queued, 2) == "Queued: waits, 2 before it"
    assert wording.job_line(replace(JOB, cancel_wanted=True)).startswith("Stopping")


def test_the_bar_is_full_up_to_the_stage_and_as_far_as_its_steps() -> None:
    assert wording.stage_fractions(JOB) == [1.0, 1.0, 1.0, 1.0, 0.3, 0.0]
    failed = replace(JOB, state="failed")
    assert wording.stage_fractions(failed) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert set(wording.stage_fractions(replace(JOB, state="queued"))) == {0.0}
    assert set(wording.stage_fractions(replace(JOB, state="promoted"))) == {1.0}
    assert wording.stage_fractions(replace(JOB, steps=0))[4] == 0.0


def test_where_a_domains_frames_come_from_is_said_as_far_as_it_is_known() -> None:
    assert wording.domain_origin(DOMAIN) == ""
    known = replace(DOMAIN, instrument="Titan", modality="HAADF", detector="HAADF")
    assert wording.domain_origin(known) == "Titan  ·  HAADF"
    sized = replace(known, detector="Ceta", sample="Au on C", pixel_band=-3)
    assert wording.domain_origin(sized) == (
        "Titan  ·  HAADF  ·  detector Ceta  ·  sample Au on C  ·  0.125 to 0.25 nm/px"
    )
    coarse = replace(DOMAIN, pixel_band=7)
    assert wording.domain_origin(coarse) == "128 to 256 nm/px"


def test_who_made_the_model_live_is_named_but_not_who_started_the_server() -> None:
    change = Change(1, "base", None, None, 40.0, "settings", "")
    started = replace(CALM, live_change=change)
    assert wording.live_facts(started) == "live since the server's start, 1 min ago"
    by_hand = replace(CALM, live_change=replace(change, who="Ida"))
    assert wording.live_facts(by_hand) == "promoted by Ida, 1 min ago"
    back = replace(CALM, live_change=replace(change, who="Ida", undoes=1))
    assert wording.live_facts(back) == "brought back by Ida, 1 min ago"
    assert wording.live_facts(CALM) == ""


def test_the_light_shows_what_asks_most_for_the_operator() -> None:
    def light(**more) -> tuple[str, str]:
        found = wording.adapter_light(replace(CALM, **more))
        return found.colour, found.figure

    candidate = Candidate(MODEL, None)
    assert light() == ("green", "idle")
    assert light(has_models=False) == ("off", "one model")
    assert light(trouble="ended", candidate=candidate) == ("red", "stopped")
    assert light(doing="Ida is promoting x", shift=SHIFTED) == ("yellow", "swapping")
    assert light(candidate=candidate, shift=SHIFTED) == ("yellow", "candidate ready")
    assert light(job=JOB) == ("green", "learning, 6 min")
    assert light(job=JOB, shift=SHIFTED) == ("yellow", "learning, 6 min")
    assert light(shift=SHIFTED) == ("yellow", "image changed")
    assert light(shift=RETURNED) == ("yellow", "known domain")
    assert light(job=replace(JOB, state="failed")) == ("red", "job failed")


def test_a_viewer_presses_nothing_but_compare() -> None:
    ready = replace(CALM, candidate=Candidate(MODEL, None), rollback_to="older")
    refused = refusals(ready, may_change=False)
    assert refused["compare"] == ""
    for name in ("adapt", "promote", "roll-back"):
        assert "operator scope" in refused[name]


def test_buttons_that_cannot_be_pressed_say_why() -> None:
    refused = refusals(CALM, may_change=True)
    assert "three frames" in refused["adapt"]
    assert refused["promote"] == "no candidate is ready"
    assert refused["roll-back"] == "there is no promotion to undo"
    busy = replace(CALM, candidate=Candidate(MODEL, None), doing="Ida is promoting x")
    assert refusals(busy, may_change=True)["promote"] == "Ida is promoting x"


def test_promote_is_about_the_candidate_else_about_what_the_alarm_proposes() -> None:
    assert proposed(CALM) is None
    assert proposed(replace(CALM, shift=SHIFTED)) is None
    assert wanted(replace(CALM, shift=SHIFTED)) == "adapt"
    back = replace(CALM, shift=RETURNED)
    assert (proposed(back), wanted(back)) == ("adapted-1", "promote")
    assert proposed(replace(back, live="adapted-1")) is None
    worse = replace(CALM, candidate=Candidate(MODEL, "it is worse"))
    assert (proposed(worse), wanted(worse)) == ("adapted-1", "compare")
    doubtful = Candidate(replace(MODEL, verdict="doubtful"), None)
    assert wanted(replace(CALM, candidate=doubtful)) == "compare"
    better = Candidate(replace(MODEL, verdict="promote"), None)
    assert wanted(replace(CALM, candidate=better)) == "promote"


def test_the_panel_moves_up_only_while_something_asks_for_the_operator() -> None:
    assert not calls(CALM)
    assert calls(replace(CALM, shift=SHIFTED))
    assert calls(replace(CALM, job=JOB))
    assert calls(replace(CALM, job=replace(JOB, state="awaiting_operator")))
    assert not calls(replace(CALM, job=replace(JOB, state="failed")))


def test_a_domains_own_job_is_told_first_and_settled_ones_never() -> None:
    other = replace(JOB, id=4, domain_id=9)
    assert job_to_tell([other, JOB], 2) == JOB
    settled = replace(JOB, state="promoted")
    assert job_to_tell([other, settled], 2) == other
    assert job_to_tell([settled], 2) is None
    ready = replace(other, state="awaiting_operator")
    assert job_to_tell([ready], 2) == ready
    assert job_to_tell([replace(other, state="failed")], 2) is None


def test_a_candidate_is_better_than_the_model_that_it_was_judged_against() -> None:
    assert wording.candidate_title("promote") == "Better than the live model"
    told = wording.candidate_title("promote", "base")
    assert told == "Better than base, not live now"
    assert wording.candidate_title(None, "base") == "Nobody judged this candidate"
