"""The thread that owns the DEALER: sealed files leave the microscope PC here.

`stream_machine` decides; this module reads the journal and the files, moves bytes, and
turns what the socket's monitor sees into sentences that a microscopist can act on.
"""

import logging
import os
import socket as sockets
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import zmq
from pydantic import ValidationError

from acquisition_agent import stream_events as events
from acquisition_agent.config import StreamSettings
from acquisition_agent.connection import Connection
from acquisition_agent.identity import Identity
from acquisition_agent.journal import Journal, SealedFile
from acquisition_agent.stream_machine import StreamMachine
from acquisition_agent.windows import open_shared
from emcopilot import __version__, wire
from emcopilot.errors import StoreError, WireError
from emcopilot.wire import FileHeader, GoneItem, Item

log = logging.getLogger(__name__)

_TICK_S = 0.25
_REPORT_EVERY_S = 1.0
_TELL_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What the agent's console says about the connection."""

    server_url: str
    is_connected: bool
    """The server has said WELCOME."""
    paused: str | None
    """Why the server takes nothing just now."""
    trouble: str | None
    """What a person should look at; None when all is well."""
    sent_bytes: int
    stored_files: int
    """Since this agent was started."""


class Stream:
    """Sends what the journal holds, and writes down what became of it.

    Parameters
    ----------
    journal : Journal
        Where sealed files come from and their fate goes to.
    settings : StreamSettings
        Window, chunk size and patience; `server_url` overrides the identity's.
    identity : Identity
        This agent's keys and its server.
    """

    def __init__(
        self, journal: Journal, settings: StreamSettings, identity: Identity
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._identity = identity
        self._server_url = settings.server_url or identity.server_url
        hello = wire.Hello(
            journal=journal.journal_id,
            host=sockets.gethostname()[:200],
            agent_version=__version__,
        )
        self._machine = StreamMachine(settings, hello, time.monotonic())
        self._files: dict[Item, SealedFile] = {}
        self._outbox: deque[list[wire.BytesLike]] = deque()
        self._report = wire.Report()
        self._reported_at = self._told_at = self._looked_at = float("-inf")
        self._said: tuple[str | None, bool] = (None, False)
        self._is_curious = True
        """Whether the journal may have files to offer that we have not seen."""
        self._journal_trouble: str | None = None
        self._sent_bytes = self._stored_files = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._context = zmq.Context[zmq.Socket[bytes]]()
        # Other threads wake the loop through this pair: sockets are not thread safe,
        # so the sending end has a lock.
        self._waking = self._context.socket(zmq.PAIR)
        self._waking.bind("inproc://wake")
        self._waker = self._context.socket(zmq.PAIR)
        self._waker.setsockopt(zmq.SNDHWM, 1)
        self._waker.connect("inproc://wake")
        self._waker_lock = threading.Lock()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the journal now: a file was sealed. May be called from any thread."""
        # An error means: it is being woken already, or has stopped.
        with self._waker_lock, suppress(zmq.ZMQError):
            self._waker.send(b"", zmq.NOBLOCK)

    def stop(self) -> None:
        """End the thread; what was not stored stays in the journal."""
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        with self._waker_lock:
            self._context.destroy(linger=0)

    def status(self) -> StreamStatus:
        """Say how it goes. May be called from any thread."""
        current = self._machine
        return StreamStatus(
            server_url=self._server_url,
            is_connected=current.is_open,
            paused=current.paused if current.is_open else None,
            trouble=self._journal_trouble or current.trouble or current.notice,
            sent_bytes=self._sent_bytes,
            stored_files=self._stored_files,
        )

    # The loop --------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._use_one_socket()
            except StoreError as error:
                log.error("journal failed error=%s", error)
                self._journal_trouble = str(error)
                self._stopping.wait(1.0)  # until its disk has room again
            except Exception:
                # The border: the next socket begins with HELLO and offers all anew.
                log.exception("stream failed, starting over")
                self._stopping.wait(1.0)

    def _use_one_socket(self) -> None:
        """Work with one socket until the machine wants another."""
        self._outbox.clear()
        with Connection(self._context, self._identity, self._server_url) as line:
            self._serve(line)

    def _serve(self, line: Connection) -> None:
        dealer = line.socket
        poller = zmq.Poller()
        poller.register(self._waking, zmq.POLLIN)
        poller.register(line.monitor, zmq.POLLIN)
        is_wanted = True
        while is_wanted and not self._stopping.is_set():
            has_output = bool(self._outbox) or self._machine.has_chunk()
            poller.register(dealer, zmq.POLLIN | (zmq.POLLOUT if has_output else 0))
            ready = dict(poller.poll(int(_TICK_S * 1000)))
            if self._waking in ready:
                self._waking.recv()
                self._is_curious = True
            if line.monitor in ready:
                for event in line.news(self._machine.trouble):
                    self._perform(event)
            if ready.get(dealer, 0) & zmq.POLLIN:
                self._hear(dealer)
            if ready.get(dealer, 0) & zmq.POLLOUT:
                self._write(dealer)
            is_wanted = self._consult_journal()
            self._journal_trouble = None
            self._say_what_is_new()

    def _say_what_is_new(self) -> None:
        """Show on the console what a person should know, each thing once."""
        state = self._machine
        news = state.trouble or state.paused or state.notice
        if (news, state.is_open) == self._said:
            return
        self._said = (news, state.is_open)
        if news:
            log.warning("%s", news)
        elif state.is_open:
            log.info("connected server=%s", self._server_url)

    def _hear(self, dealer: zmq.Socket[bytes]) -> None:
        while True:
            try:
                parts = dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message, _ = wire.decode(parts)
            except WireError as error:
                log.warning("message ignored error=%s", error)
                continue
            self._perform(events.Heard(message))

    def _write(self, dealer: zmq.Socket[bytes]) -> None:
        """Hand over what waits, then one chunk after the other, as the socket allows."""
        while True:
            if not self._outbox:
                self._perform(events.Writable())
            if not self._outbox:
                return
            try:
                dealer.send_multipart(self._outbox[0], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._outbox.popleft()
            if dealer.poll(0):
                return  # the server's word may change what to send next

    def _consult_journal(self) -> bool:
        """Look at clock and journal; return whether this socket is still good."""
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            self._report = self._make_report()
        if not self._perform(events.Tick(self._report)):
            return False
        if not self._machine.is_open:
            return True
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self._tell_losses()
        if now - self._looked_at >= _TICK_S:
            self._is_curious = True
        room = self._machine.room()
        if self._is_curious and room > 0:
            self._is_curious = False
            self._looked_at = now
            self._offer(self._journal.next_to_offer(room))
        return True

    def _offer(self, files: list[SealedFile]) -> None:
        headers: list[FileHeader] = []
        for file in files:
            try:
                headers.append(_header(file))
            except ValidationError as error:
                reason = error.errors(include_url=False)[0]["msg"]
                self._reject((file.seq, file.rev), reason)
                continue
            self._files[file.seq, file.rev] = file
        if headers:
            self._journal.mark_offered([(h.seq, h.rev) for h in headers])
            self._perform(events.Sealed(headers))

    def _tell_losses(self) -> None:
        gone = self._journal.gone_to_tell(wire.ITEMS)
        items = [
            GoneItem.model_validate(
                {
                    "seq": file.seq,
                    "rev": file.rev,
                    "source_key": wire.shown_name(file.source_key),
                    "reason": file.reason,
                }
            )
            for file in gone
        ]
        if items:
            self._perform(events.Lost(items))

    def _make_report(self) -> wire.Report:
        counts = self._journal.counts()
        problems = [f"{p.source_key}: {p.text}" for p in self._journal.problems(8)]
        return wire.Report(
            discovered=counts.discovered,
            stored=counts.stored,
            pending=counts.pending,
            vanished=counts.vanished,
            rejected=counts.rejected,
            pending_bytes=counts.pending_bytes,
            oldest_unsent_s=counts.oldest_unsent_s,
            problems=tuple(wire.shown_name(text)[:500] for text in problems),
        )

    # Actions ---------------------------------------------------------------------

    def _perform(self, event: events.Event) -> bool:
        """Do what the machine says; return False if it wants a new socket."""
        waiting = deque[events.Event]([event])
        is_wanted = True
        while waiting:
            for action in self._machine.step(waiting.popleft(), time.monotonic()):
                match action:
                    case events.Send(message):
                        self._outbox.append(wire.encode(message))
                    case events.SendChunk(item, offset, length):
                        if not self._read(item, offset, length):
                            waiting.append(events.Unreadable(item))
                    case events.Settle():
                        self._settle(action)
                    case events.Forget():
                        self._outbox.clear()
                        self._files.clear()
                        self._journal.reset_offered()
                    case events.Renew(reason):
                        log.warning("journal gets a new id reason=%s", reason)
                        waiting.append(events.Renewed(self._journal.renew()))
                    case events.Reconnect():
                        is_wanted = False
        return is_wanted

    def _read(self, item: Item, offset: int, length: int) -> bool:
        """Put bytes of a file into the outbox; False if it is not the file we sealed.

        The file is opened for every chunk: no handle outlives a rename, and a look at
        size and time finds most changes long before the server finds a wrong hash.
        """
        file = self._files[item]
        try:
            with open_shared(file.path) as source:
                source.seek(offset)
                payload = source.read(length)
                stat = os.fstat(source.fileno())
        except OSError as error:
            log.info("file unreadable name=%r error=%s", file.source_key, error)
            return False
        if (stat.st_size, stat.st_mtime_ns) != (file.size, file.mtime_ns):
            log.info("file changed name=%r", file.source_key)
            return False
        if len(payload) != length:
            return False
        seq, rev = item
        self._outbox.append(
            wire.encode(wire.Chunk(seq=seq, rev=rev, offset=offset), payload)
        )
        self._sent_bytes += length
        return True

    def _settle(self, action: events.Settle) -> None:
        for item in action.items:
            self._files.pop(item, None)
        match action.outcome:
            case "stored":
                self._journal.mark_stored(action.items)
                self._is_curious = True
                self._stored_files += len(action.items)
            case "told":
                self._journal.mark_told(action.items)
            case "doubtful":
                for item in action.items:
                    self._journal.look_again(*item)
            case "rejected":
                for item in action.items:
                    self._reject(item, action.reason)

    def _reject(self, item: Item, reason: str | None) -> None:
        log.warning("file rejected seq=%d reason=%s", item[0], reason)
        self._journal.note(item[0], reason)
        self._journal.mark_gone(*item, "rejected")


def _header(file: SealedFile) -> FileHeader:
    return FileHeader(
        seq=file.seq,
        rev=file.rev,
        source_key=file.source_key,
        size=file.size,
        sha256=file.sha256,
        mtime_ns=file.mtime_ns,
        sealed_at=file.sealed_at,
    )
