"""Where a new agent trades its one-time code for a place on the list.

The desk lets any key in, for a new agent's key is known to nobody; in return it speaks
one message, ENROL, and only the code of an `Invitation` opens it: ten minutes, one use,
five wrong ones void it (`gpu_server.enrolment`). The agent knows that it talks to the
right server because the invitation holds the server's key.
"""

import logging
import socket as sockets
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from acquisition_agent.identity import Identity, new_key_pair, save_identity
from emcopilot import wire
from emcopilot.errors import EMcopilotError, StoreError, WireError
from emcopilot.wire import Invitation
from gpu_server.keys import ServerKeys, bind, guard, server_keys
from gpu_server.store import Store

log = logging.getLogger(__name__)

DOMAIN = "enrol"
_BAD_CODE = wire.Refused(
    code="bad_code",
    reason="this enrolment code is wrong, was used, or is older than ten minutes; make "
    "a new one on the server (emcopilot keys new) and paste the whole line",
)


class EnrolDesk:
    """Owns the enrolment socket and its thread.

    Parameters
    ----------
    context : zmq.Context
        With a `Gate` that admits everybody to the domain `DOMAIN`.
    address : str
        Where to listen.
    data_port : int
        Where enrolled agents deliver, told to the new one.

    Raises
    ------
    ConfigError
        If it cannot listen there.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        store: Store,
        keys: ServerKeys,
        *,
        address: str,
        data_port: int,
    ) -> None:
        self._store = store
        self._data_port = data_port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="enrol", daemon=True)
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 200)
        self._socket.setsockopt(zmq.SNDHWM, 4)
        self._socket.setsockopt(zmq.RCVHWM, 4)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.HEADER_BYTES)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        guard(self._socket, keys, DOMAIN)
        try:
            self.address = bind(self._socket, address, "ingest.enrol_bind")
        except EMcopilotError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with self._socket:
            while not self._stopping.is_set():
                try:
                    peer, *frames = self._socket.recv_multipart(copy=False)
                except zmq.Again:
                    continue
                try:
                    answer = self._answer(str(peer.get("User-Id")), frames)
                    # ROUTER without MANDATORY: an answer to one who left vanishes, rightly.
                    self._socket.send_multipart([peer.bytes, *wire.encode(answer)])
                except Exception:
                    # The border: any key may speak here, none may close the desk.
                    log.exception("enrolment failed")

    def _answer(self, public_key: str, frames: list[zmq.Frame]) -> wire.Message:
        try:
            message, _ = wire.decode([frame.buffer for frame in frames])
            if not isinstance(message, wire.Enrol):
                raise WireError(f"this port speaks ENROL only, not {message.name}")
            if not self._store.use_enrol_code(message.code):
                log.warning("enrolment refused host=%r", message.host)
                return _BAD_CODE
            name = message.host or "microscope"
            self._store.enrol_agent(public_key, name, message.host)
        except WireError as error:
            return wire.Refused(code="bad_message", reason=str(error)[:500])
        except StoreError as error:
            log.error("enrolment failed error=%s", error)
            return wire.Refused(code="bad_code", reason=str(error)[:500])
        log.info("agent enrolled name=%r key=%s", name, public_key)
        return wire.Enrolled(agent=name, data_port=self._data_port)


def new_invitation(store: Store, *, host: str, enrol_port: int) -> Invitation:
    """Make what a person pastes on the microscope PC; its code is good for ten minutes.

    Raises
    ------
    ConfigError
        If the server's keys cannot be used.
    StoreError
        If the code cannot be saved.
    """
    return Invitation(
        host=host,
        port=enrol_port,
        server_key=server_keys(store.data_dir).public,
        code=store.new_enrol_code(),
    )


def enrol_locally(
    store: Store, identity_path: Path, *, server_url: str, name: str = "this PC"
) -> Identity:
    """Enrol an agent on the server's own machine, without anybody typing a code.

    Whoever may write the server's database needs no invitation.

    Raises
    ------
    ConfigError
        If keys or identity cannot be written.
    StoreError
        If the agent cannot be saved.
    """
    public, secret = new_key_pair()
    identity = Identity(
        agent=name,
        server_url=server_url,
        server_key=server_keys(store.data_dir).public,
        public_key=public,
        secret_key=secret,
    )
    save_identity(identity, identity_path)
    store.enrol_agent(public, name, sockets.gethostname())
    return identity
