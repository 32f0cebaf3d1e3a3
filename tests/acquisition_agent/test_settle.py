from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition_agent.settle import (
    Decision,
    Look,
    Patience,
    Verdict,
    decide,
    explain,
    first_sight,
    looked,
    next_look_s,
    probed,
)

PATIENCE = Patience(still_s=1.0, revision_still_s=5.0, stalled_after_s=60.0)
LOOK = Look(size=100, mtime_ns=1, file_id="1:2")


def test_a_new_file_is_probed_first() -> None:
    assert decide(first_sight(LOOK, 0.0), 0.0, PATIENCE) is Decision.PROBE


def test_a_complete_file_is_sealed_at_once() -> None:
    candidate = probed(first_sight(LOOK, 0.0), Verdict.COMPLETE)
    assert decide(candidate, 0.0, PATIENCE) is Decision.SEAL


def test_a_file_that_cannot_tell_is_sealed_when_it_held_still_long_enough() -> None:
    candidate = probed(first_sight(LOOK, 10.0), Verdict.UNKNOWN)
    assert decide(candidate, 10.99, PATIENCE) is Decision.WAIT
    assert decide(candidate, 11.0, PATIENCE) is Decision.SEAL


def test_an_incomplete_file_is_never_sealed_however_still_it_holds() -> None:
    candidate = probed(first_sight(LOOK, 0.0), Verdict.INCOMPLETE)
    assert decide(candidate, 1e6, PATIENCE) is Decision.WAIT


def test_an_empty_file_is_never_sealed() -> None:
    candidate = probed(first_sight(LOOK._replace(size=0), 0.0), Verdict.COMPLETE)
    assert decide(candidate, 1e6, PATIENCE) is Decision.WAIT


@pytest.mark.parametrize(
    "moved",
    [LOOK._replace(size=101), LOOK._replace(mtime_ns=2), LOOK._replace(file_id="1:3")],
)
def test_any_movement_begins_the_wait_and_the_probe_anew(moved: Look) -> None:
    candidate = probed(first_sight(LOOK, 0.0), Verdict.COMPLETE)
    candidate = looked(candidate, moved, 5.0)
    assert candidate.still_since_s == 5.0
    assert decide(candidate, 5.0, PATIENCE) is Decision.PROBE


def test_the_same_look_keeps_the_verdict_and_the_wait() -> None:
    candidate = probed(first_sight(LOOK, 0.0), Verdict.UNKNOWN)
    assert looked(candidate, LOOK, 5.0) == candidate


def test_a_stack_that_grew_after_sealing_waits_although_it_is_complete() -> None:
    candidate = probed(first_sight(LOOK, 0.0, is_revision=True), Verdict.COMPLETE)
    assert decide(candidate, 4.9, PATIENCE) is Decision.WAIT
    assert decide(candidate, 5.0, PATIENCE) is Decision.SEAL


def test_the_operator_is_told_only_after_a_minute_and_why() -> None:
    still = probed(first_sight(LOOK, 0.0), Verdict.INCOMPLETE)
    assert explain(still, 59.0, PATIENCE) is None
    assert "no longer growing" in (explain(still, 60.0, PATIENCE) or "")
    growing = looked(still, LOOK._replace(size=200), 55.0)
    assert explain(growing, 60.0, PATIENCE) == "still growing"
    empty = replace(still, look=LOOK._replace(size=0))
    assert "empty" in (explain(empty, 60.0, PATIENCE) or "")


def test_the_longer_a_file_holds_still_the_more_rarely_it_is_looked_at() -> None:
    candidate = probed(first_sight(LOOK, 0.0), Verdict.INCOMPLETE)
    pauses = [next_look_s(candidate, t, PATIENCE) - t for t in (0.0, 5.0, 50.0, 5000.0)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.1)
    assert pauses[-1] == pytest.approx(10.0)


def test_the_next_look_is_never_later_than_the_moment_of_sealing() -> None:
    candidate = probed(first_sight(LOOK, 0.0), Verdict.UNKNOWN)
    assert next_look_s(candidate, 0.95, PATIENCE) == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 3.0),
            st.integers(0, 3),
            st.sampled_from(list(Verdict)),
        ),
        max_size=30,
    )
)
def test_whatever_happens_a_seal_needs_bytes_that_hold_still_or_are_complete(
    history: list[tuple[float, int, Verdict]],
) -> None:
    now, last_move = 0.0, 0.0
    candidate = first_sight(Look(1, 0, None), now)
    for pause, size, verdict in history:
        now += pause
        if size != candidate.look.size:
            last_move = now
        candidate = looked(candidate, Look(size, 0, None), now)
        decision = decide(candidate, now, PATIENCE)
        if decision is Decision.PROBE:
            candidate = probed(candidate, verdict)
            decision = decide(candidate, now, PATIENCE)
        if decision is Decision.SEAL:
            assert size > 0
            assert candidate.verdict is Verdict.COMPLETE or (
                candidate.verdict is Verdict.UNKNOWN
                and now - last_move >= PATIENCE.still_s
            )
