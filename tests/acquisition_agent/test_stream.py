"""The agent's state machine, sentence by sentence; no socket and no clock."""

import pytest

from acquisition_agent import stream_machine as machine
from acquisition_agent.config import StreamSettings
from acquisition_agent.stream_events import (
    Connected,
    Forget,
    Heard,
    Lost,
    Reconnect,
    Renew,
    Renewed,
    Sealed,
    Send,
    SendChunk,
    Settle,
    Tick,
    Unreadable,
    Writable,
)
from acquisition_agent.stream_machine import StreamMachine
from emcopilot import wire

JOURNAL = "0f8fad5b-d9cb-469f-a165-70867728950e"
HELLO = wire.Hello(journal=JOURNAL, host="scope", agent_version="0")
WELCOME = wire.Welcome(server_version="0")
CHUNK = 4096
QUIET = Tick(wire.Report())


def new_machine(**changes: object) -> StreamMachine:
    settings = StreamSettings.model_validate({"chunk_bytes": CHUNK} | changes)
    return StreamMachine(settings, HELLO, now=0.0)


def header(seq: int, size: int = 10_000) -> wire.FileHeader:
    return wire.FileHeader(
        seq=seq,
        rev=1,
        source_key=f"acquisitions/{seq}.tif",
        size=size,
        sha256=f"{seq:064x}",
        mtime_ns=0,
        sealed_at=0.0,
    )


def need(seq: int, upto: int, offset: int = 0) -> Heard:
    grant = wire.Need(seq=seq, rev=1, offset=offset, upto=upto)
    return Heard(wire.NeedBytes(files=(grant,)))


@pytest.fixture
def opened() -> StreamMachine:
    agent = new_machine()
    agent.step(Connected(), 0.0)
    agent.step(Heard(WELCOME), 0.1)
    return agent


def drain(agent: StreamMachine, now: float = 1.0) -> list[tuple[int, int, int]]:
    """Return (seq, offset, length) of every chunk the machine would send now."""
    chunks: list[tuple[int, int, int]] = []
    while actions := agent.step(Writable(), now):
        (action,) = actions
        assert isinstance(action, SendChunk)
        chunks.append((action.item[0], action.offset, action.length))
    return chunks


def test_a_new_connection_is_greeted_and_nothing_is_in_flight() -> None:
    agent = new_machine()
    assert agent.step(Connected(), 0.0) == [Forget(), Send(HELLO)]
    assert agent.room() == 0
    agent.step(Heard(WELCOME), 0.1)
    assert agent.is_open
    assert agent.room() == machine.MAX_IN_FLIGHT


def test_hello_is_repeated_until_it_is_answered() -> None:
    agent = new_machine()
    agent.step(Connected(), 0.0)
    assert agent.step(QUIET, 1.9) == []
    assert Send(HELLO) in agent.step(QUIET, 2.0)
    assert Send(HELLO) in agent.step(QUIET, 4.0)


def test_silence_asks_for_a_new_socket_even_while_hello_is_repeated() -> None:
    agent = new_machine()
    agent.step(Connected(), 0.0)
    at = 0.0
    while Reconnect() not in agent.step(QUIET, at):
        at += 0.5
        assert at < 12
    assert at > 10


def test_silence_of_an_open_connection_asks_for_a_new_socket(
    opened: StreamMachine,
) -> None:
    assert Reconnect() not in opened.step(QUIET, 10.0)
    assert opened.step(QUIET, 10.2) == [Forget(), Reconnect()]
    assert not opened.is_open


def test_chunks_follow_the_grant_and_go_no_further(opened: StreamMachine) -> None:
    assert opened.step(Sealed([header(1)]), 0.2) == [
        Send(wire.Offer(files=(header(1),)))
    ]
    assert drain(opened) == []
    opened.step(need(1, upto=5000), 0.3)
    assert drain(opened) == [(1, 0, 4096), (1, 4096, 904)]
    opened.step(need(1, upto=10_000), 0.4)
    assert drain(opened) == [(1, 5000, 4096), (1, 9096, 904)]


def test_a_repeated_or_late_grant_does_no_harm(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    for upto in (8000, 8000, 3000):
        opened.step(need(1, upto=upto), 0.3)
    assert sum(length for _, _, length in drain(opened)) == 8000
    opened.step(need(1, upto=8000), 0.4)
    assert drain(opened) == []


def test_a_grant_beyond_the_file_or_for_an_unknown_file_is_no_grant(
    opened: StreamMachine,
) -> None:
    opened.step(Sealed([header(1, size=100)]), 0.2)
    opened.step(need(1, upto=2**40), 0.3)
    opened.step(need(7, upto=100), 0.3)
    assert drain(opened) == [(1, 0, 100)]


def test_a_file_that_is_there_in_part_goes_on_where_it_ended(
    opened: StreamMachine,
) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    opened.step(need(1, offset=9000, upto=10_000), 0.3)
    assert drain(opened) == [(1, 9000, 1000)]


def test_only_stored_lets_go_of_a_file(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    opened.step(need(1, upto=10_000), 0.3)
    drain(opened)
    assert opened.room() == machine.MAX_IN_FLIGHT - 1
    assert opened.step(Heard(wire.Stored(items=((1, 1),))), 0.5) == [
        Settle("stored", ((1, 1),))
    ]
    assert opened.room() == machine.MAX_IN_FLIGHT


def test_stored_is_a_fact_even_before_welcome() -> None:
    agent = new_machine()
    agent.step(Connected(), 0.0)
    stored = Heard(wire.Stored(items=((3, 1),)))
    assert agent.step(stored, 0.1) == [Settle("stored", ((3, 1),))]


def test_a_reset_says_hello_once(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    assert opened.step(Heard(wire.Reset()), 0.3) == [Forget(), Send(HELLO)]
    assert opened.step(Heard(wire.Reset()), 0.3) == []  # one for each chunk under way
    assert not opened.has_chunk()


def test_no_progress_means_a_message_was_lost(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    for at in range(1, 11):
        opened.step(Heard(wire.Pong()), float(at))
        assert Send(HELLO) not in opened.step(QUIET, float(at))
    assert Send(HELLO) in opened.step(QUIET, 10.3)


def test_a_pause_is_patient_and_shows_its_reason(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    opened.step(Heard(wire.Pong(paused="disk full")), 0.3)
    assert opened.paused == "disk full"
    assert opened.room() == 0
    for at in range(1, 60):
        actions = opened.step(QUIET, float(at))
        assert Forget() not in actions
        opened.step(Heard(wire.Pong(paused="disk full")), float(at))
    opened.step(Heard(wire.Pong()), 60.0)
    assert opened.paused is None
    assert Forget() not in opened.step(QUIET, 60.1)


def test_lost_is_offered_again_and_mismatch_is_looked_at(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1), header(2)]), 0.2)
    lost = Heard(wire.Retry(seq=1, rev=1, reason="lost"))
    assert opened.step(lost, 0.3) == [Send(wire.Offer(files=(header(1),)))]
    mismatch = Heard(wire.Retry(seq=2, rev=1, reason="mismatch"))
    assert opened.step(mismatch, 0.3) == [Settle("doubtful", [(2, 1)])]
    assert opened.step(mismatch, 0.4) == []


def test_an_unreadable_file_makes_room_for_the_next(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1), header(2)]), 0.2)
    opened.step(need(1, upto=10_000), 0.3)
    opened.step(need(2, upto=10_000), 0.3)
    opened.step(Writable(), 0.4)
    assert opened.step(Unreadable((1, 1)), 0.4) == [Settle("doubtful", [(1, 1)])]
    assert {seq for seq, _, _ in drain(opened)} == {2}


def test_a_refused_file_is_rejected_with_the_reason(opened: StreamMachine) -> None:
    opened.step(Sealed([header(1)]), 0.2)
    refused = wire.Refused(code="file_too_large", reason="9 GB", seq=1, rev=1)
    assert opened.step(Heard(refused), 0.3) == [Settle("rejected", [(1, 1)], "9 GB")]
    assert opened.is_open


def test_a_journal_whose_numbers_are_taken_is_renewed_once_and_offered_anew(
    opened: StreamMachine,
) -> None:
    opened.step(Sealed([header(1), header(2)]), 0.2)
    refused = Heard(wire.Refused(code="journal_reused", reason="number 1 is stored"))
    assert opened.step(refused, 0.3) == [Renew("number 1 is stored")]
    assert opened.room() == 0
    other = "11111111-d9cb-469f-a165-70867728950e"
    said = HELLO.model_copy(update={"journal": other})
    assert opened.step(Renewed(other), 0.3) == [Forget(), Send(said)]
    # A second refusal was on its way: it is about the old journal.
    assert opened.step(refused, 0.4) == []
    opened.step(Heard(WELCOME), 0.5)
    assert opened.room() == machine.MAX_IN_FLIGHT
    assert opened.step(Connected(), 9.0) == [Forget(), Send(said)]


def test_an_unknown_key_is_shown_and_asked_about_seldom(opened: StreamMachine) -> None:
    refused = Heard(wire.Refused(code="key_unknown", reason="enrol again"))
    opened.step(refused, 1.0)
    assert opened.trouble == "enrol again"
    assert opened.room() == 0
    said_hello = 0
    for tenth in range(10, 310):
        actions = opened.step(QUIET, tenth / 10)
        if Send(HELLO) in actions:
            said_hello += 1
            opened.step(refused, tenth / 10)
    assert said_hello <= 3  # in thirty seconds
    opened.step(Heard(WELCOME), 31.0)
    assert opened.trouble is None


def test_the_window_is_kept_with_large_files() -> None:
    agent = new_machine(window_bytes=2**20)
    agent.step(Connected(), 0.0)
    agent.step(Heard(WELCOME), 0.1)
    agent.step(Sealed([header(n, size=2**20) for n in range(1, 5)]), 0.2)
    assert agent.room() == 0
    agent.step(need(1, upto=2**20), 0.3)
    drain(agent)
    assert agent.room() > 0


def test_a_huge_file_leaves_room_for_the_frames_behind_it(
    opened: StreamMachine,
) -> None:
    opened.step(Sealed([header(1, size=2**36)]), 0.2)
    assert opened.room() > 0  # although the server may have no place for it for hours


def test_many_files_and_losses_are_told_in_messages_the_wire_allows(
    opened: StreamMachine,
) -> None:
    offers = opened.step(Sealed([header(n) for n in range(1, 49)]), 0.2)
    assert len(offers) == 2
    gone = [
        wire.GoneItem(seq=n, rev=1, source_key="a.tif", reason="vanished")
        for n in range(1, 26)
    ]
    told = opened.step(Lost(gone), 0.3)
    assert len(told) == 2
    answer = Heard(wire.GoneOk(items=((1, 1),)))
    assert opened.step(answer, 0.4) == [Settle("told", ((1, 1),))]


def test_ping_carries_the_latest_report(opened: StreamMachine) -> None:
    report = wire.Report(discovered=5, pending=2)
    assert opened.step(Tick(report), 1.0) == []
    assert opened.step(Tick(report), 2.2) == [Send(wire.Ping(report=report))]
    assert opened.step(Tick(report), 2.3) == []


@pytest.mark.parametrize(
    "message", [wire.Pong(), wire.Reset(), wire.Ping(report=wire.Report()), HELLO]
)
def test_what_is_not_for_this_moment_is_ignored(message: wire.Message) -> None:
    agent = new_machine()
    agent.step(Connected(), 0.0)
    assert agent.step(Heard(message), 0.1) == []
    assert not agent.is_open
