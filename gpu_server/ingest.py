"""The thread that owns the ROUTER: frames come in here, and STORED goes out.

`ingest_machine` decides; this module moves the bytes, calls the disk and the database,
and tells the machine how that went. One thread does it all: whatever waits, waits where
ZeroMQ's high-water marks hold the sender back.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import zmq

from emcopilot import wire
from emcopilot.errors import EMcopilotError, StoreError, WireError
from gpu_server import ingest_events as events
from gpu_server.config import IngestSettings
from gpu_server.enrol_desk import DOMAIN as ENROL_DOMAIN
from gpu_server.enrol_desk import EnrolDesk
from gpu_server.enrolment import AgentReport
from gpu_server.ingest_events import Key
from gpu_server.ingest_machine import IngestMachine
from gpu_server.intake import GoneItem, ReceivedFile
from gpu_server.keys import Gate, ServerKeys, bind, guard
from gpu_server.spool import Spool
from gpu_server.store import Store

log = logging.getLogger(__name__)

DOMAIN = "data"
_TICK_S = 0.2
_KEYS_EVERY_S = 1.0
"""A key revoked by another process is out after this long."""
_BURST = 64
"""Messages taken before disk and clock get their turn."""
_STRIKES = 10
"""Bad messages a minute before a key is not listened to for a minute."""

OnStored = Callable[[Sequence[ReceivedFile]], None]
"""Told in the ingest thread, after the commit; must hand over and return at once."""


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """What health page and metrics say about the way in."""

    is_alive: bool
    agents: frozenset[int]
    """Ids of the agents that are connected."""
    paused: str | None
    """Why nothing is taken just now."""
    files_stored: int
    bytes_received: int
    refused_handshakes: int
    bad_messages: int
    mismatches: int
    """Files whose bytes were not those their agent had sealed."""


class Ingest:
    """Receives files from agents for as long as the `with` block lasts.

    Parameters
    ----------
    store : Store
        Called from this object's own thread.
    settings : IngestSettings
        Addresses, window, disk reserve.
    keys : ServerKeys
        The server's CURVE key pair.
    on_stored : callable
        Told which files have been committed; a repeat of a file may be told again.

    Raises
    ------
    ConfigError
        If an address is in use or the data directory cannot be written.
    """

    def __init__(
        self,
        store: Store,
        settings: IngestSettings,
        keys: ServerKeys,
        on_stored: OnStored = lambda _files: None,
    ) -> None:
        self._store = store
        self._on_stored = on_stored
        self._machine = IngestMachine(settings)
        self._agents: dict[str, int | None] = {}
        self._looked_at = self._ticked_at = float("-inf")
        self._strikes: dict[str, deque[float]] = {}
        self._count: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._helpers = ExitStack()
        self._spool = Spool(store.data_dir)
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._gate = Gate(
            self._context,
            {
                DOMAIN: lambda key: store.enrolled_agent(key) is not None,
                ENROL_DOMAIN: lambda _key: True,
            },
        )
        self._socket = _router(self._context, keys)
        try:
            self.address = bind(self._socket, settings.bind, "ingest.bind")
            self._desk = EnrolDesk(
                self._context,
                store,
                keys,
                address=settings.enrol_bind,
                data_port=int(self.address.rpartition(":")[2]),
            )
        except EMcopilotError:
            self._context.destroy(linger=0)
            raise
        self.enrol_address = self._desk.address

    def __enter__(self) -> Self:
        self._helpers.enter_context(self._spool)
        self._helpers.enter_context(self._gate)
        self._helpers.enter_context(self._desk)
        self._thread.start()
        log.info("ingest listens address=%s enrol=%s", self.address, self.enrol_address)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._helpers.close()
        self._context.destroy(linger=0)

    def status(self) -> IngestStatus:
        """Say how it goes; may be called from any thread."""
        return IngestStatus(
            is_alive=self._thread.is_alive() and self._gate.is_alive,
            agents=frozenset(self._machine.agents),
            paused=self._machine.paused,
            files_stored=self._count["files"],
            bytes_received=self._count["bytes"],
            refused_handshakes=self._gate.refused,
            bad_messages=self._count["bad"],
            mismatches=self._machine.mismatches,
        )

    def _run(self) -> None:
        with self._socket:
            # Before the first word is heard: is there room on the disk?
            self._perform(events.Tick(self._spool.free_bytes))
            while not self._stopping.is_set():
                try:
                    self._turn()
                except Exception:
                    # The border: one agent's odd file must not end everybody's ingest.
                    log.exception("ingest turn failed")
                    self._stopping.wait(_TICK_S)

    def _turn(self) -> None:
        is_waiting = self._socket.poll(int(_TICK_S * 1000))
        for _ in range(_BURST if is_waiting else 0):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._receive(peer.bytes, str(peer.get("User-Id")), frames)
        self._perform(events.Drained())
        now = time.monotonic()
        if now - self._looked_at >= _KEYS_EVERY_S:
            self._looked_at = now
            self._look_at_keys()
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            self._perform(events.Tick(self._spool.free_bytes))

    def _receive(self, peer: bytes, public_key: str, frames: list[zmq.Frame]) -> None:
        if self._is_struck(public_key):
            return
        try:
            message, payload = wire.decode([frame.buffer for frame in frames])
        except WireError as error:
            self._strike(peer, public_key, error)
            return
        self._count["bytes"] += payload.nbytes
        present = frozenset[str]()
        if isinstance(message, wire.Offer):
            present = frozenset(
                file.sha256
                for file in message.files
                if self._spool.holds(file.sha256, file.size)
            )
        agent_id = self._agent_id(public_key)
        self._perform(
            events.Heard(peer, public_key, agent_id, message, payload, present)
        )

    # Keys ------------------------------------------------------------------------

    def _agent_id(self, public_key: str) -> int | None:
        if public_key not in self._agents:
            agent = self._store.enrolled_agent(public_key)
            self._agents[public_key] = agent.id if agent else None
        return self._agents[public_key]

    def _look_at_keys(self) -> None:
        self._agents.clear()
        for public_key in self._machine.public_keys:
            if self._agent_id(public_key) is None:
                log.warning("agent revoked key=%s", public_key)
                self._perform(events.Revoked(public_key))

    def _is_struck(self, public_key: str) -> bool:
        strikes = self._strikes.get(public_key, ())
        return len(strikes) == _STRIKES and time.monotonic() - strikes[0] < 60

    def _strike(self, peer: bytes, public_key: str, error: WireError) -> None:
        self._count["bad"] += 1
        strikes = self._strikes.setdefault(public_key, deque(maxlen=_STRIKES))
        strikes.append(time.monotonic())
        log.warning("bad message key=%s error=%s", public_key, error)
        refused = wire.Refused(code="bad_message", reason=str(error)[:500])
        self._send(peer, refused)

    # Actions ---------------------------------------------------------------------

    def _perform(self, event: events.Event) -> None:
        """Let the machine see an event, and do what it says until it says no more."""
        waiting = deque([event])
        while waiting:
            for action in self._machine.step(waiting.popleft(), time.monotonic()):
                outcome = self._do(action)
                if outcome is not None:
                    waiting.append(outcome)

    def _do(self, action: events.Action) -> events.Event | None:
        match action:
            case events.Send(peer, message):
                return self._send(peer, message)
            case events.Append():
                return self._append(action)
            case events.Drop(key):
                return self._spool.drop(key)
            case events.Commit(files):
                return self._commit(files)
            case events.RecordGone():
                return self._record_gone(action)
            case events.RecordReport():
                return self._record_report(action)

    def _send(self, peer: bytes, message: wire.Message) -> None:
        try:
            self._socket.send_multipart([peer, *wire.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # Gone, or not reading its answers: it will say HELLO and ask again.
            log.info("answer dropped message=%s error=%s", message.name, error)

    def _append(self, action: events.Append) -> events.Written | events.Failed:
        try:
            size = self._spool.append(action.key, action.payload)
        except OSError as error:
            log.error("write failed file=%s error=%s", action.header.source_key, error)
            return events.Failed([action.key], str(error))
        if size < action.header.size:
            return events.Written(action.key, "partly")
        is_right = self._spool.sha256(action.key) == action.header.sha256
        if not is_right:
            log.warning("wrong bytes file=%s", action.header.source_key)
        return events.Written(action.key, "whole" if is_right else "mismatch")

    def _commit(
        self, files: Sequence[tuple[Key, wire.FileHeader]]
    ) -> events.Committed | events.Failed:
        """Bytes first, then the rows, then the word: in this order nothing is lost."""
        received = {self._received(key, header): key for key, header in files}
        keys = list(received.values())
        try:
            self._spool.keep([(key, header.sha256) for key, header in files])
            refused = self._store.record_stored(received)
        except Exception as error:
            # The border: whatever it was, these files are not stored and must be sent
            # again; full disks are ordinary, anything else shows its traceback.
            is_ordinary = isinstance(error, OSError | StoreError)
            log.error("commit failed error=%s", error, exc_info=not is_ordinary)
            return events.Failed(keys, str(error))
        self._spool.close_parts(keys)
        for file, reason in refused.items():
            log.warning("file not recorded name=%s reason=%s", file.source_key, reason)
        stored = [file for file in received if file not in refused]
        self._count["files"] += len(stored)
        for file in stored:
            log.info("file stored name=%s bytes=%d", file.source_key, file.size)
        self._on_stored(stored)
        return events.Committed(
            [received[file] for file in stored],
            {received[file]: reason for file, reason in refused.items()},
        )

    def _received(self, key: Key, header: wire.FileHeader) -> ReceivedFile:
        return ReceivedFile(
            agent_id=key.agent_id,
            journal=key.journal,
            seq=key.seq,
            rev=key.rev,
            source_key=header.source_key,
            size=header.size,
            sha256=header.sha256,
            mtime_ns=header.mtime_ns,
            sealed_at=header.sealed_at,
            received_at=self._spool.began_at(key) or time.time(),
        )

    def _record_gone(self, action: events.RecordGone) -> events.GoneRecorded | None:
        items = [GoneItem(g.seq, g.rev, g.source_key, g.reason) for g in action.items]
        try:
            self._store.record_gone(action.agent_id, action.journal, items)
        except StoreError as error:
            log.error("losses not recorded files=%d error=%s", len(items), error)
            return None  # unanswered, they are told again
        return events.GoneRecorded(action.peer, [(g.seq, g.rev) for g in items])

    def _record_report(self, action: events.RecordReport) -> None:
        told = action.report
        report = AgentReport(
            journal=action.hello.journal,
            version=action.hello.agent_version,
            host=action.hello.host,
            discovered=told.discovered,
            stored=told.stored,
            pending=told.pending,
            vanished=told.vanished,
            rejected=told.rejected,
            pending_bytes=told.pending_bytes,
            oldest_unsent_s=told.oldest_unsent_s,
            problems=told.problems,
        )
        try:
            self._store.agent_seen(action.agent_id, report)
        except StoreError as error:
            log.warning("agent report not kept error=%s", error)


def _router(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    guard(socket, keys, DOMAIN)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else answers to the dead vanish unseen
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * wire.CHUNK_BYTES)
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.setsockopt(zmq.BACKLOG, 100)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    return socket
