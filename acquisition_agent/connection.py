"""One encrypted DEALER, and what its monitor sees as sentences a person can act on."""

from collections.abc import Generator
from types import TracebackType
from typing import Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from acquisition_agent.identity import Identity, identify
from acquisition_agent.stream_events import Connected, Troubled
from emcopilot import wire

_RECONNECT_MS = 250
_RECONNECT_MAX_MS = 2000
_ABSENT = (
    "no server answers at {url}; is it running, is the address right, does a firewall "
    "block the port? Files are kept and sent later"
)
_STRANGER = (
    "the server at {url} did not prove that it is the one this PC was enrolled with; "
    "if it was set up anew, enrol again (emcopilot enroll STRING)"
)
_TROUBLES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: (
        "the server at {url} does not know this agent's key; enrol again (emcopilot "
        "enroll STRING)"
    ),
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: _STRANGER,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: _STRANGER,
    zmq.EVENT_DISCONNECTED: "the connection to {url} is cut; it is being made anew",
    zmq.EVENT_CLOSED: _ABSENT,
}
_UNPROVEN = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_UNPROVEN_TIMES = 3
"""A line that is cut during one handshake looks the same; three in a row are no chance."""
_MONITORED = sum(_TROUBLES) | zmq.EVENT_HANDSHAKE_SUCCEEDED  # each event is one bit


class Connection:
    """A socket that connects, and connects again, for as long as the `with` block lasts.

    Parameters
    ----------
    context : zmq.Context
        Of the thread that uses this connection.
    identity : Identity
        This agent's keys and the server's.
    server_url : str
        ZeroMQ address.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        server_url: str,
    ) -> None:
        self._url = server_url
        self._unproven = 0
        self.socket = _dealer(context, identity)
        self.monitor = self.socket.get_monitor_socket(_MONITORED)
        """Readable when there is something for `news` to tell."""

    def __enter__(self) -> Self:
        self.socket.connect(self._url)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)

    def news(self, trouble: str | None) -> Generator[Connected | Troubled]:
        """Tell what happened to the line since last time; `trouble` is what is shown."""
        while self.monitor.poll(0):
            event = int(recv_monitor_message(self.monitor)["event"])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._unproven = 0
                trouble = None
                yield Connected()
                continue
            self._unproven += event in _UNPROVEN
            if event in _UNPROVEN and self._unproven < _UNPROVEN_TIMES:
                event = zmq.EVENT_DISCONNECTED
            # A refused handshake ends in "disconnected", too: keep the better reason.
            if event != zmq.EVENT_DISCONNECTED or trouble is None:
                trouble = _TROUBLES[event].format(url=self._url)
                yield Troubled(trouble)


def _dealer(
    context: zmq.Context[zmq.Socket[bytes]], identity: Identity
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    identify(socket, identity.server_key, identity.public_key, identity.secret_key)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a server that is away
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 4)  # messages of 1 MiB: on a slow link these wait
    socket.setsockopt(zmq.RCVHWM, 200)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.HEADER_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    # Slower than our own 10 s of silence: on a slow link a heartbeat waits behind
    # megabytes that are on their way, and must not cut the line they travel on.
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 30_000)
    return socket
