"""Real programs' halves over a real TCP line that is cut, stalled or slow."""

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acquisition_agent.config import StreamSettings
from acquisition_agent.journal import Journal, Place
from acquisition_agent.stream import Stream
from acquisition_agent.waiting import digest, look_at
from gpu_server.config import IngestSettings
from gpu_server.enrol_desk import enrol_locally
from gpu_server.ingest import Ingest
from gpu_server.keys import server_keys
from gpu_server.store import Store


class Line(threading.Thread):
    """Carries bytes between agent and server, as badly as it is told to."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ways: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ending = threading.Event()
        self._cut = threading.Event()
        self.carried_bytes = 0
        self.stalled = threading.Event()
        self.bytes_per_s: float | None = None

    def run(self) -> None:
        while not self._ending.is_set():
            if self._cut.is_set():
                self._cut_all()
            if self.stalled.is_set():
                time.sleep(0.02)
                continue
            for ready, _ in self._selector.select(0.02):
                self._carry(ready.fileobj)  # pyright: ignore[reportArgumentType]
        self._cut_all()
        self._listener.close()

    def cut(self) -> None:
        """Break every connection, with whatever is under way."""
        self._cut.set()

    def end(self) -> None:
        self._ending.set()
        self.join()

    def _carry(self, source: socket.socket) -> None:
        if source is self._listener:
            near, _ = source.accept()
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ways |= {near: far, far: near}
            for end in (near, far):
                self._selector.register(end, selectors.EVENT_READ)
            return
        if source not in self._ways:
            return
        size = 2**16 if self.bytes_per_s is None else 2**13
        try:
            content = source.recv(size)
            self._ways[source].sendall(content)
        except OSError:
            content = b""
        self.carried_bytes += len(content)
        if not content:
            self._close(source)
        elif self.bytes_per_s:
            time.sleep(len(content) / self.bytes_per_s)

    def _cut_all(self) -> None:
        self._cut.clear()
        for end in list(self._ways):
            if end in self._ways:
                self._close(end)

    def _close(self, end: socket.socket) -> None:
        """Close both ends of one connection."""
        for either in (end, self._ways.pop(end)):
            self._ways.pop(either, None)
            self._selector.unregister(either)
            either.close()


class Site:
    def __init__(self, home: Path, **stream: object) -> None:
        settings = IngestSettings(
            bind="tcp://127.0.0.1:*",
            enrol_bind="tcp://127.0.0.1:*",
            disk_reserve_bytes=1,
        )
        self.folder = home / "acquisitions"
        self.folder.mkdir()
        self.store = Store(home / "server")
        self.ingest = Ingest(self.store, settings, server_keys(home / "server"))
        self.line = Line(int(self.ingest.address.rpartition(":")[2]))
        url = f"tcp://127.0.0.1:{self.line.port}"
        identity = enrol_locally(self.store, home / "identity.json", server_url=url)
        self.journal = Journal(home / "journal.db")
        self.journal.set_roots({"acquisitions": self.folder})
        self.stream = Stream(
            self.journal, StreamSettings.model_validate(stream), identity
        )

    def __enter__(self) -> "Site":
        self.line.start()
        self.ingest.__enter__()
        self.stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.stop()
        self.line.end()
        self.ingest.__exit__(None, None, None)
        self.journal.close()
        self.store.close()

    def acquire(self, frames: int, size: int) -> None:
        for number in range(frames):
            path = self.folder / f"frame_{number}.raw"
            path.write_bytes(os.urandom(size))
            look = look_at(path)
            place = Place("acquisitions", path.name)
            (seq,) = self.journal.discover([(place, look)])
            self.journal.seal([(seq, look, digest(path))])
        self.stream.wake()

    def wait_until_stored(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while self.journal.counts().pending:
            assert time.monotonic() < end, f"{self.journal.counts()}"
            time.sleep(0.02)

    def are_blobs_right(self) -> bool:
        return all(
            self.store.blob_path(digest(path)).read_bytes() == path.read_bytes()
            for path in self.folder.iterdir()
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, silence_s=2.0, resend_after_s=4.0) as site:
        yield site


def test_a_line_that_is_cut_again_and_again_delivers_in_the_end(site: Site) -> None:
    site.acquire(frames=8, size=3_000_000)
    for cut in range(1, 7):
        end = time.monotonic() + 20
        while site.line.carried_bytes < cut * 3_500_000 and time.monotonic() < end:
            time.sleep(0.002)
        assert site.journal.counts().pending > 0
        site.line.cut()  # in the middle of a message
    site.wait_until_stored(60)
    assert site.are_blobs_right()
    # What had arrived was kept: a cut costs the chunks under way, not the files.
    assert site.ingest.status().bytes_received < 2 * 8 * 3_000_000


def test_a_line_that_goes_dead_is_noticed_and_replaced(site: Site) -> None:
    site.line.stalled.set()
    site.acquire(frames=3, size=100_000)
    time.sleep(4.0)  # longer than `silence_s`: nothing says that the line is dead
    assert site.journal.counts().stored == 0
    site.line.stalled.clear()
    back = time.monotonic()
    site.wait_until_stored(20)
    assert time.monotonic() - back < 10
    assert site.are_blobs_right()


def test_a_slow_line_is_slow_and_not_dead(tmp_path: Path) -> None:
    # A message of 1 MiB takes longer than half the silence that is allowed.
    with Site(tmp_path, silence_s=2.0, resend_after_s=4.0) as site:
        site.line.bytes_per_s = 1_000_000
        began = time.monotonic()
        site.acquire(frames=2, size=2_500_000)
        site.wait_until_stored(60)
        assert time.monotonic() - began > 4.0  # the line was as slow as it says
        assert site.are_blobs_right()
        assert site.ingest.status().bytes_received < 1.5 * 2 * 2_500_000
