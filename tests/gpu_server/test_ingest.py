"""The server's state machine, answer by answer; no socket, disk or clock."""

import pytest

from emcopilot import wire
from gpu_server import ingest_machine as machine
from gpu_server.config import IngestSettings
from gpu_server.ingest_events import (
    Action,
    Append,
    Commit,
    Committed,
    Drained,
    Drop,
    Failed,
    GoneRecorded,
    Heard,
    Key,
    RecordGone,
    RecordReport,
    Revoked,
    Send,
    Tick,
    Written,
)
from gpu_server.ingest_machine import IngestMachine

JOURNAL = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_JOURNAL = "11111111-d9cb-469f-a165-70867728950e"
PEER, PEER_2 = b"peer", b"peer2"
MIB = 2**20
PLENTY = Tick(free_bytes=2**50)


def header(seq: int, size: int = 1000, **changes: object) -> wire.FileHeader:
    fields: dict[str, object] = {
        "seq": seq,
        "rev": 1,
        "source_key": f"acquisitions/{seq}.tif",
        "size": size,
        "sha256": f"{seq:064x}",
        "mtime_ns": 0,
        "sealed_at": 0.0,
    }
    return wire.FileHeader.model_validate(fields | changes)


def key(seq: int) -> Key:
    return Key(1, JOURNAL, seq, 1)


def heard(
    message: wire.Message,
    payload: bytes = b"",
    *,
    peer: bytes = PEER,
    present: frozenset[str] = frozenset(),
    agent_id: int | None = 1,
) -> Heard:
    return Heard(peer, "key", agent_id, message, memoryview(payload), present)


def hello(journal: str = JOURNAL) -> wire.Hello:
    return wire.Hello(journal=journal, host="scope", agent_version="0")


def offer(*files: wire.FileHeader) -> wire.Offer:
    return wire.Offer(files=files)


def chunk(seq: int, offset: int, size: int, peer: bytes = PEER) -> Heard:
    return heard(wire.Chunk(seq=seq, rev=1, offset=offset), bytes(size), peer=peer)


def needs(actions: list[Action]) -> list[tuple[int, int, int]]:
    """Return (seq, offset, upto) of everything asked for."""
    return [
        (need.seq, need.offset, need.upto)
        for action in actions
        if isinstance(action, Send) and isinstance(action.message, wire.NeedBytes)
        for need in action.message.files
    ]


def new_machine(**changes: object) -> IngestMachine:
    settings = {"window_bytes": 4 * MIB, "disk_reserve_bytes": 1000}
    server = IngestMachine(IngestSettings.model_validate(settings | changes))
    server.step(PLENTY, 0.0)
    server.step(heard(hello()), 0.0)
    return server


def deliver(server: IngestMachine, seq: int, size: int = 1000) -> None:
    """Take one file up to the point where it waits for its commit."""
    server.step(heard(offer(header(seq, size))), 0.0)
    server.step(chunk(seq, 0, size), 0.0)
    server.step(Written(key(seq), "whole"), 0.0)


def test_hello_is_welcomed_and_the_report_kept() -> None:
    server = IngestMachine(IngestSettings())
    report, answer = server.step(heard(hello()), 0.0)
    assert isinstance(report, RecordReport)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, wire.Welcome)
    assert server.agents == {1}


def test_who_has_not_said_hello_is_asked_to() -> None:
    server = IngestMachine(IngestSettings())
    assert server.step(chunk(1, 0, 10), 0.0) == [Send(PEER, wire.Reset())]


def test_stored_comes_after_the_commit_and_never_before() -> None:
    server = new_machine()
    assert needs(server.step(heard(offer(header(1, 3000))), 0.0)) == [(1, 0, 3000)]
    (append,) = server.step(chunk(1, 0, 2000), 0.0)
    assert isinstance(append, Append)
    assert server.step(Written(key(1), "partly"), 0.0) == []
    server.step(chunk(1, 2000, 1000), 0.0)
    assert server.step(Written(key(1), "whole"), 0.0) == []
    assert server.step(Drained(), 0.0) == [Commit(((key(1), header(1, 3000)),))]
    assert server.step(Drained(), 0.0) == []
    stored = wire.Stored(items=((1, 1),))
    assert server.step(Committed([key(1)]), 0.0) == [Send(PEER, stored)]


def test_repeats_and_gaps_change_nothing() -> None:
    server = new_machine()
    server.step(heard(offer(header(1, 3000))), 0.0)
    server.step(chunk(1, 0, 2000), 0.0)
    assert server.step(chunk(1, 0, 2000), 0.0) == []  # a repeat
    assert server.step(chunk(1, 2500, 500), 0.0) == []  # beyond a gap
    assert server.step(chunk(1, 2000, 1001), 0.0) == []  # more than promised
    assert server.step(chunk(9, 0, 10), 0.0) == []  # never offered
    (append,) = server.step(chunk(1, 1000, 2000), 0.0)  # half of it is new
    assert isinstance(append, Append)
    assert append.payload.nbytes == 1000


def test_the_window_is_never_exceeded_and_moves_with_what_is_written() -> None:
    server = new_machine()
    asked = needs(
        server.step(heard(offer(header(1, 3 * MIB), header(2, 3 * MIB))), 0.0)
    )
    assert asked == [(1, 0, 3 * MIB), (2, 0, MIB)]
    server.step(chunk(1, 0, MIB), 0.0)
    assert needs(server.step(Written(key(1), "partly"), 0.0)) == [(2, 0, 2 * MIB)]


def test_a_file_larger_than_the_window_is_asked_for_bit_by_bit() -> None:
    server = new_machine()
    assert needs(server.step(heard(offer(header(1, 64 * MIB))), 0.0)) == [
        (1, 0, 4 * MIB)
    ]
    for done in range(60):
        server.step(chunk(1, done * MIB, MIB), 0.0)
        asked = needs(server.step(Written(key(1), "partly"), 0.0))
        assert asked == [(1, (done + 1) * MIB, (done + 5) * MIB)]


def test_a_frame_overtakes_a_huge_file_that_was_begun_before_it() -> None:
    server = new_machine(window_bytes=2**20)
    server.step(heard(offer(header(1, size=2**30))), 0.1)
    server.step(heard(offer(header(2, size=1000))), 0.2)
    server.step(chunk(1, 0, 2**19), 0.3)
    actions = server.step(Written(key(1), "partly"), 0.3)
    assert needs(actions)[0] == (2, 0, 1000)


def test_after_a_cut_a_file_goes_on_where_it_was() -> None:
    server = new_machine()
    server.step(heard(offer(header(1, 3000))), 0.0)
    server.step(chunk(1, 0, 2000), 0.0)
    server.step(heard(hello(), peer=PEER_2), 1.0)
    asked = needs(server.step(heard(offer(header(1, 3000)), peer=PEER_2), 1.0))
    assert asked == [(1, 2000, 3000)]
    assert server.step(chunk(1, 2000, 1000), 1.0) == [Send(PEER, wire.Reset())]


def test_another_content_under_the_same_number_begins_anew() -> None:
    server = new_machine()
    server.step(heard(offer(header(1, 3000))), 0.0)
    server.step(chunk(1, 0, 2000), 0.0)
    server.step(heard(hello(), peer=PEER_2), 1.0)
    other = header(1, 3000, sha256="f" * 64)
    actions = server.step(heard(offer(other), peer=PEER_2), 1.0)
    assert actions[0] == Drop(key(1))
    assert needs(actions) == [(1, 0, 3000)]


def test_bytes_that_are_here_are_not_asked_for() -> None:
    server = new_machine()
    file = header(1)
    actions = server.step(heard(offer(file), present=frozenset([file.sha256])), 0.0)
    assert actions == []
    assert server.step(Drained(), 0.0) == [Commit(((key(1), file),))]


def test_an_offer_repeated_during_its_commit_gets_one_stored() -> None:
    server = new_machine()
    deliver(server, 1)
    server.step(Drained(), 0.0)
    assert server.step(heard(offer(header(1))), 0.0) == []
    assert len(server.step(Committed([key(1)]), 0.0)) == 1


def test_stored_reaches_an_agent_that_has_connected_anew() -> None:
    server = new_machine()
    deliver(server, 1)
    server.step(Drained(), 0.0)
    server.step(heard(hello(), peer=PEER_2), 1.0)
    assert server.step(heard(offer(header(1)), peer=PEER_2), 1.0) == []
    stored = wire.Stored(items=((1, 1),))
    assert server.step(Committed([key(1)]), 1.0) == [Send(PEER_2, stored)]


def test_stored_is_not_said_to_a_clone_that_means_other_bytes() -> None:
    server = new_machine()
    deliver(server, 1)
    server.step(Drained(), 0.0)
    server.step(heard(hello(), peer=PEER_2), 1.0)
    other = header(1, sha256="f" * 64)
    assert server.step(heard(offer(other), peer=PEER_2), 1.0) == []
    assert server.step(Committed([key(1)]), 1.0) == []
    assert needs(server.step(heard(offer(other), peer=PEER_2), 2.0)) == [(1, 0, 1000)]


def test_a_number_that_stands_for_other_bytes_asks_once_for_a_new_journal() -> None:
    server = new_machine()
    for seq in (1, 2, 3):
        deliver(server, seq)
    server.step(Drained(), 0.0)
    reasons = {key(1): "number 1 is stored", key(3): "number 3 is stored"}
    stored, refused = server.step(Committed([key(2)], reasons), 0.0)
    assert stored == Send(PEER, wire.Stored(items=((2, 1),)))
    assert isinstance(refused, Send)
    assert isinstance(refused.message, wire.Refused)
    assert (refused.message.code, refused.message.seq) == ("journal_reused", None)
    # Under the new journal they are asked for as if they had never been here.
    server.step(heard(hello(OTHER_JOURNAL)), 1.0)
    assert needs(server.step(heard(offer(header(1))), 1.0)) == [(1, 0, 1000)]


def test_a_group_is_committed_before_it_grows_too_large() -> None:
    server = new_machine(window_bytes=64 * MIB)
    for seq in range(1, machine.GROUP_FILES):
        deliver(server, seq)
    server.step(heard(offer(header(99))), 0.0)
    server.step(chunk(99, 0, 1000), 0.0)
    (commit,) = server.step(Written(key(99), "whole"), 0.0)
    assert isinstance(commit, Commit)
    assert len(commit.files) == machine.GROUP_FILES


def test_wrong_bytes_are_thrown_away_and_told() -> None:
    server = new_machine()
    server.step(heard(offer(header(1))), 0.0)
    server.step(chunk(1, 0, 1000), 0.0)
    retry = wire.Retry(seq=1, rev=1, reason="mismatch")
    assert server.step(Written(key(1), "mismatch"), 0.0) == [
        Drop(key(1)),
        Send(PEER, retry),
    ]
    assert server.mismatches == 1
    assert server.step(Drained(), 0.0) == []


def test_a_failed_commit_says_lost_pauses_and_goes_on_by_itself() -> None:
    server = new_machine()
    deliver(server, 1)
    server.step(Drained(), 0.0)
    actions = server.step(Failed([key(1)], "No space left on device"), 0.0)
    retry = Send(PEER, wire.Retry(seq=1, rev=1, reason="lost"))
    assert Drop(key(1)) in actions
    assert retry in actions
    pong, *_ = actions
    assert isinstance(pong, Send)
    assert isinstance(pong.message, wire.Pong)
    assert "No space left" in (pong.message.paused or "")
    assert needs(server.step(heard(offer(header(1))), 0.1)) == []
    assert needs(server.step(PLENTY, machine.PAUSE_S - 0.1)) == []
    actions = server.step(PLENTY, machine.PAUSE_S)
    assert Send(PEER, wire.Pong()) in actions
    assert needs(actions) == [(1, 0, 1000)]


def test_what_is_whole_waits_out_a_pause() -> None:
    server = new_machine()
    deliver(server, 1)
    server.step(Failed([key(7)], "disk I/O error"), 0.0)
    assert server.step(Drained(), 0.1) == []
    server.step(PLENTY, machine.PAUSE_S)
    assert isinstance(server.step(Drained(), machine.PAUSE_S)[0], Commit)


def test_a_disk_below_its_reserve_pauses_everybody_until_it_is_freed() -> None:
    server = new_machine()
    (said,) = server.step(Tick(free_bytes=999), 1.0)
    assert isinstance(said, Send)
    assert isinstance(said.message, wire.Pong)
    assert "disk is full" in (said.message.paused or "")
    assert server.step(Tick(free_bytes=998), 2.0) == []  # no news
    welcome = server.step(heard(hello(OTHER_JOURNAL), peer=PEER_2), 2.0)[-1]
    assert isinstance(welcome, Send)
    assert isinstance(welcome.message, wire.Welcome)
    assert welcome.message.paused
    assert len(server.step(PLENTY, 3.0)) == 2  # both are told


def test_a_file_too_large_for_the_disk_waits_and_the_next_does_not() -> None:
    server = new_machine()
    server.step(Tick(free_bytes=10_000), 0.0)
    asked = needs(server.step(heard(offer(header(1, 9_500), header(2, 500))), 0.0))
    assert asked == [(2, 0, 500)]
    pong = server.step(heard(wire.Ping(report=wire.Report())), 1.0)[0]
    assert isinstance(pong, Send)
    assert isinstance(pong.message, wire.Pong)
    assert "1.tif" in (pong.message.notice or "")
    assert needs(server.step(PLENTY, 2.0)) == [(1, 0, 9_500)]


def test_a_file_beyond_the_limit_is_refused_for_good() -> None:
    server = new_machine(max_file_bytes=999)
    (refused,) = server.step(heard(offer(header(1, 1000))), 0.0)
    assert isinstance(refused, Send)
    assert isinstance(refused.message, wire.Refused)
    assert (refused.message.code, refused.message.seq) == ("file_too_large", 1)


def test_no_agent_can_offer_without_end() -> None:
    server = new_machine()
    asked: set[int] = set()
    for first in range(1, 500, wire.ITEMS):
        files = [header(first + n) for n in range(wire.ITEMS)]
        asked |= {seq for seq, _, _ in needs(server.step(heard(offer(*files)), 0.0))}
    assert len(asked) == machine.MAX_WANTED


def test_two_agents_have_a_window_each() -> None:
    server = new_machine()
    server.step(heard(hello(), peer=PEER_2, agent_id=2), 0.0)
    first = server.step(heard(offer(header(1, 9 * MIB))), 0.0)
    second = heard(offer(header(1, 9 * MIB)), peer=PEER_2, agent_id=2)
    assert needs(first) == needs(server.step(second, 0.0)) == [(1, 0, 4 * MIB)]


def test_a_revoked_key_is_out_and_stays_out() -> None:
    server = new_machine()
    (told,) = server.step(Revoked("key"), 1.0)
    assert isinstance(told, Send)
    assert isinstance(told.message, wire.Refused)
    assert server.agents == set()
    (again,) = server.step(heard(hello(), agent_id=None), 2.0)
    assert again == told
    assert server.agents == set()


def test_losses_are_confirmed_once_recorded() -> None:
    server = new_machine()
    server.step(heard(offer(header(1))), 0.0)
    gone = wire.GoneItem(seq=1, rev=1, source_key="a.tif", reason="vanished")
    actions = server.step(heard(wire.Gone(items=(gone,))), 1.0)
    assert actions == [Drop(key(1)), RecordGone(PEER, 1, JOURNAL, (gone,))]
    confirmed = wire.GoneOk(items=((1, 1),))
    assert server.step(GoneRecorded(PEER, [(1, 1)]), 1.0) == [Send(PEER, confirmed)]


def test_a_report_is_kept_when_it_is_news_or_old() -> None:
    server = new_machine()
    same = heard(wire.Ping(report=wire.Report()))
    assert len(server.step(same, 1.0)) == 1
    assert len(server.step(heard(wire.Ping(report=wire.Report(pending=1))), 2.0)) == 2
    repeat = heard(wire.Ping(report=wire.Report(pending=1)))
    assert len(server.step(repeat, 3.0)) == 1
    assert len(server.step(repeat, 2.0 + machine.REPORT_EVERY_S)) == 2


def test_silent_connections_and_stale_parts_are_forgotten_in_turn() -> None:
    server = new_machine()
    server.step(heard(offer(header(1, 3000))), 0.0)
    server.step(chunk(1, 0, 2000), 0.0)
    assert server.step(PLENTY, machine.PEER_FORGOTTEN_S + 1) == []
    assert server.agents == set()
    assert server.step(PLENTY, machine.PART_FORGOTTEN_S + 1) == [Drop(key(1))]


@pytest.mark.parametrize(
    "message", [wire.Reset(), wire.Pong(), wire.GoneOk(items=((1, 1),))]
)
def test_what_an_agent_does_not_say_is_refused(message: wire.Message) -> None:
    (answer,) = new_machine().step(heard(message), 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, wire.Refused)
    assert answer.message.code == "bad_message"
