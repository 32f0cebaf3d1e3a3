"""A microscope's clock that runs ahead is told, one that may only be slow is not."""

import hashlib

from gpu_server.clocks import clocks_ahead_s
from gpu_server.deliveries import ReceivedFile


def deliver(lab, *, took_s: float, seq: int) -> None:
    sha256 = hashlib.sha256(str(seq).encode()).hexdigest()
    lab.store.record_stored(
        [
            ReceivedFile(
                agent_id=lab.agent_id, journal="j", seq=seq, rev=1,
                source_key=f"run/{seq}.tif", size=1, sha256=sha256, mtime_ns=seq,
                sealed_at=1000.0 + seq, received_at=1000.0 + seq + took_s,
            )
        ]
    )  # fmt: skip


def test_the_quickest_file_says_how_far_ahead_a_clock_is(lab) -> None:
    for seq, took_s in enumerate((-38.0, -39.5, -10.0), start=1):
        deliver(lab, took_s=took_s, seq=seq)
    with lab.store.read() as connection:
        assert clocks_ahead_s(connection) == {lab.agent_id: 39.5}


def test_late_files_and_a_right_clock_say_nothing(lab) -> None:
    deliver(lab, took_s=3600.0, seq=1)  # the network was away
    deliver(lab, took_s=0.2, seq=2)
    with lab.store.read() as connection:
        assert clocks_ahead_s(connection) == {}


def test_a_clock_that_was_set_right_is_forgotten_with_its_files(lab) -> None:
    deliver(lab, took_s=-60.0, seq=1)
    for seq in range(2, 53):
        deliver(lab, took_s=0.1, seq=seq)
    with lab.store.read() as connection:
        assert clocks_ahead_s(connection) == {}
