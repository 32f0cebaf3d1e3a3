"""From sealed files to committed rows, over real CURVE sockets, real disk and SQLite."""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from acquisition_agent.config import StreamSettings
from acquisition_agent.identity import Identity
from acquisition_agent.journal import Journal, Place
from acquisition_agent.stream import Stream
from acquisition_agent.waiting import digest, look_at
from gpu_server.config import IngestSettings
from gpu_server.enrol_desk import enrol_locally
from gpu_server.ingest import Ingest
from gpu_server.keys import server_keys
from gpu_server.store import Store
from gpu_server.tables import files, frames

PATIENCE_S = 15.0


def wait_for(
    is_done: Callable[[], bool], what: str, limit_s: float = PATIENCE_S
) -> None:
    end = time.monotonic() + limit_s
    while not is_done():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Site:
    """One server and one microscope PC in a temporary folder."""

    def __init__(self, home: Path, **changes: object) -> None:
        self.home = home
        self.folder = home / "acquisitions"
        self.folder.mkdir()
        self.port = free_port()
        # The demo machine's disk may be nearly full: the reserve has tests of its own.
        settings = {
            "bind": f"tcp://127.0.0.1:{self.port}",
            "enrol_bind": "tcp://127.0.0.1:*",
            "disk_reserve_bytes": 1,
        }
        self.settings = IngestSettings.model_validate(settings | changes)
        self.told: list[str] = []
        self.store = Store(home / "server")
        url = f"tcp://127.0.0.1:{self.port}"
        self.identity = enrol_locally(
            self.store, home / "identity.json", server_url=url, name="microscope"
        )
        self.journal = Journal(home / "journal.db")
        self.journal.set_roots({"acquisitions": self.folder})
        self._running = ExitStack()
        self.ingest: Ingest | None = None

    def serve(self) -> Ingest:
        self.ingest = Ingest(
            self.store,
            self.settings,
            server_keys(self.store.data_dir),
            lambda received: self.told.extend(f.source_key for f in received),
        )
        self._running.enter_context(self.ingest)
        return self.ingest

    def stop_serving(self) -> None:
        self._running.close()

    def stream(self, identity: Identity | None = None, **changes: object) -> Stream:
        settings = StreamSettings.model_validate(changes)
        stream = Stream(self.journal, settings, identity or self.identity)
        self._streams.callback(stream.stop)
        stream.start()
        return stream

    def __enter__(self) -> "Site":
        self._streams = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        self._streams.close()
        self._running.close()
        self.journal.close()
        self.store.close()

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def seal(self, name: str, content: bytes) -> int:
        """Do what the watcher does to one complete new file."""
        path = self.write(name, content)
        look = look_at(path)
        (seq,) = self.journal.discover([(Place("acquisitions", name), look)])
        self.journal.seal([(seq, look, digest(path))])
        return seq

    def rows(self, query: sa.Select[tuple[object, ...]]) -> list[tuple[object, ...]]:
        with self.store.read() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def blob(self, content: bytes) -> Path:
        return self.store.blob_path(hashlib.sha256(content).hexdigest())

    def is_drained(self) -> bool:
        return self.journal.counts().pending == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        yield site


def test_a_sealed_file_becomes_a_blob_a_row_and_a_queued_frame(site: Site) -> None:
    content = os.urandom(3_500_000)  # four chunks, the last one short
    site.serve()
    stream = site.stream()
    site.seal("2026-11-22/frame_0001.tif", content)
    stream.wake()
    wait_for(site.is_drained, "stored")
    assert site.blob(content).read_bytes() == content
    query = sa.select(files.c.source_key, files.c.size, files.c.rev)
    assert site.rows(query) == [
        ("acquisitions/2026-11-22/frame_0001.tif", len(content), 1)
    ]
    assert site.rows(sa.select(frames.c.page, frames.c.state)) == [(0, "queued")]
    assert site.told == ["acquisitions/2026-11-22/frame_0001.tif"]
    assert site.journal.counts().stored == 1
    assert list((site.store.data_dir / "parts").iterdir()) == []


def test_a_hundred_files_arrive_once_each_in_groups(site: Site) -> None:
    for number in range(100):
        site.seal(f"frame_{number:04}.tif", os.urandom(20_000))
    site.serve()
    site.stream()
    wait_for(site.is_drained, "100 files stored")
    assert site.rows(sa.select(sa.func.count()).select_from(files)) == [(100,)]
