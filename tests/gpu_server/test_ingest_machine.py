"""What the server says to connections that claim the same journal."""

from uuid import uuid4

import pytest

from emcopilot import wire
from gpu_server.config import IngestSettings
from gpu_server.ingest_events import Heard, Send, Tick
from gpu_server.ingest_machine import PEER_FORGOTTEN_S, IngestMachine

KEY = "k" * 40
PING = wire.Ping(report=wire.Report())
ONE, OTHER, THIRD = b"one", b"other", b"third"


class Server:
    """An ingest machine that one agent's key, or copies of it, talk to."""

    def __init__(self) -> None:
        self.machine = IngestMachine(IngestSettings(disk_reserve_bytes=1))
        self.journal = str(uuid4())
        self.now = 1000.0

    def hello(self, peer: bytes) -> wire.Message:
        return self.told(
            peer, wire.Hello(journal=self.journal, host="scope", agent_version="0")
        )

    def told(self, peer: bytes, message: wire.Message) -> wire.Message:
        """Return what the server answers a peer."""
        heard = Heard(peer, KEY, 1, message, memoryview(b""), frozenset())
        actions = self.machine.step(heard, self.now)
        (answer,) = [action for action in actions if isinstance(action, Send)]
        assert answer.peer == peer
        return answer.message

    def is_refused(self, peer: bytes) -> bool:
        """Let a living agent ask something, and say HELLO if it must."""
        answer = self.told(peer, PING)
        if isinstance(answer, wire.Reset):
            assert isinstance(self.hello(peer), wire.Welcome)
        return isinstance(answer, wire.Refused) and answer.code == "journal_reused"


@pytest.mark.parametrize("first_to_speak", [ONE, OTHER])
def test_two_computers_that_take_a_journal_from_each_other_are_parted(
    first_to_speak: bytes,
) -> None:
    server = Server()
    for peer in (ONE, OTHER):
        assert isinstance(server.hello(peer), wire.Welcome)
    # Each is made to begin anew by the other, before a commit could tell their files apart.
    assert isinstance(server.told(ONE, PING), wire.Reset)
    assert isinstance(server.hello(ONE), wire.Welcome)
    speakers = [first_to_speak, OTHER if first_to_speak == ONE else ONE] * 3
    refused = {peer for peer in speakers if server.is_refused(peer)}
    (kept,) = {ONE, OTHER} - refused  # not both, not neither
    assert isinstance(server.told(kept, PING), wire.Pong)


@pytest.mark.parametrize("left", ["H", "PH", "HH", "PPHHHH"])
def test_what_a_cut_connection_left_behind_costs_no_journal(left: str) -> None:
    # An agent that is not welcomed says HELLO only, so a P hardly ever follows an H.
    server = Server()
    server.hello(ONE)
    server.hello(OTHER)  # the same agent, on its next connection
    for message in left:  # read between what the living connection says
        if message == "H":
            server.hello(ONE)
        else:
            assert not isinstance(server.told(ONE, PING), wire.Refused)
        assert not server.is_refused(OTHER)
    assert not server.is_refused(OTHER)
    assert isinstance(server.told(OTHER, PING), wire.Pong)


def test_an_agent_that_is_cut_twice_keeps_its_journal() -> None:
    server = Server()
    server.hello(ONE)
    server.hello(OTHER)
    server.hello(ONE)  # left behind
    assert not server.is_refused(OTHER)  # asked, and welcomed again
    assert isinstance(server.told(OTHER, PING), wire.Pong)
    server.hello(THIRD)  # cut once more
    server.hello(OTHER)  # left behind by the second
    for _ in range(3):
        assert not server.is_refused(THIRD)


def test_saying_hello_twice_on_one_connection_is_no_rivalry() -> None:
    server = Server()
    for _ in range(3):
        assert isinstance(server.hello(ONE), wire.Welcome)
    assert isinstance(server.told(ONE, PING), wire.Pong)


def test_rivals_are_forgotten_in_time() -> None:
    server = Server()
    server.hello(ONE)
    server.hello(OTHER)
    server.told(ONE, PING)
    server.hello(ONE)
    server.told(ONE, PING)  # it lives
    server.now += PEER_FORGOTTEN_S + 1
    server.machine.step(Tick(free_bytes=2**40), server.now)
    server.hello(ONE)
    server.hello(OTHER)  # long after: the same agent, perhaps
    assert isinstance(server.told(ONE, PING), wire.Reset)
