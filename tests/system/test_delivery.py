"""From sealed files to committed rows, over real CURVE sockets, real disk and SQLite."""

import errno
import hashlib
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zmq

from acquisition_agent.config import StreamSettings
from acquisition_agent.identity import Identity, identify, new_key_pair
from acquisition_agent.journal import Journal, Place
from acquisition_agent.stream import Stream
from acquisition_agent.waiting import digest, look_at
from emcopilot import wire
from emcopilot.errors import ConfigError, StoreError
from gpu_server import ingest_machine
from gpu_server.config import IngestSettings
from gpu_server.enrol_desk import enrol_locally
from gpu_server.ingest import Ingest
from gpu_server.keys import server_keys
from gpu_server.spool import Spool
from gpu_server.store import Store
from gpu_server.tables import agents, files, frames, gone
from gpu_server.verify import verify

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

    def stop_streaming(self) -> None:
        self._streams.close()

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

    def copy_journal(self) -> Path:
        copy = self.home / "copy.db"
        with closing(sqlite3.connect(self.home / "journal.db")) as journal:
            journal.execute("VACUUM INTO ?", (str(copy),))
        return copy

    def rows(self, *columns: sa.ColumnElement[Any]) -> list[tuple[Any, ...]]:
        query = sa.select(*columns)
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
    assert site.rows(files.c.source_key, files.c.size, files.c.rev) == [
        ("acquisitions/2026-11-22/frame_0001.tif", len(content), 1)
    ]
    assert site.rows(frames.c.page, frames.c.state) == [(0, "queued")]
    assert site.told == ["acquisitions/2026-11-22/frame_0001.tif"]
    assert site.journal.counts().stored == 1
    assert list((site.store.data_dir / "parts").iterdir()) == []


def test_a_journal_restored_from_a_backup_loses_nothing(site: Site) -> None:
    site.serve()
    site.seal("one.tif", b"one")
    stream = site.stream()
    wait_for(site.is_drained, "one is stored")
    stream.stop()
    backup = site.copy_journal()
    site.seal("two.tif", b"two")
    stream = site.stream()
    wait_for(site.is_drained, "two is stored")
    stream.stop()
    site.journal.close()
    # As after a restore: the journal knows nothing of two.tif, and its number is free.
    site.journal = Journal(backup)
    journal_id = site.journal.journal_id
    site.seal("three.tif", b"three")
    stream = site.stream()
    wait_for(site.is_drained, "three is stored")
    assert site.journal.journal_id != journal_id
    site.seal("two.tif", b"two")
    stream.wake()
    wait_for(site.is_drained, "two is recognised")
    names = {f"acquisitions/{name}.tif" for name in ("one", "two", "three")}
    found = site.rows(files.c.source_key, files.c.sha256)
    assert {name for name, _ in found} == names
    assert len(found) == site.rows(sa.func.count(frames.c.id))[0][0] == 3
    assert all(site.store.blob_path(sha256).exists() for _, sha256 in found)
    wait_for(lambda: site.rows(agents.c.stored) == [(3,)], "reported")
    assert verify(site.store.database).passed


def test_cloned_computers_both_deliver_all_they_have(site: Site) -> None:
    site.serve()
    site.seal("one.tif", b"one")
    site.stream()
    wait_for(site.is_drained, "one is stored")
    first, site.journal = site.journal, Journal(site.copy_journal())
    site.stream()
    with first:
        for number in range(20):
            site.seal(f"clone_{number}.tif", os.urandom(1000))
        site.journal, clone = first, site.journal
        for number in range(20):
            site.seal(f"first_{number}.tif", os.urandom(1000))
        with clone:
            wait_for(
                lambda: not first.counts().pending + clone.counts().pending,
                "both are drained",
            )
            site.stop_streaming()
        assert clone.journal_id != first.journal_id
        found = site.rows(files.c.source_key, files.c.sha256)
        assert len(dict(found)) == len(found) == 41
        assert all(site.store.blob_path(sha256).exists() for _, sha256 in found)


def test_a_hundred_files_arrive_once_each_in_groups(site: Site) -> None:
    for number in range(100):
        site.seal(f"frame_{number:04}.tif", os.urandom(20_000))
    site.serve()
    site.stream()
    wait_for(site.is_drained, "100 files stored")
    assert site.rows(sa.func.count(files.c.id)) == [(100,)]


def test_the_server_may_come_later_and_come_back(site: Site) -> None:
    first, second = os.urandom(50_000), os.urandom(50_000)
    site.seal("first.tif", first)
    stream = site.stream()
    wait_for(lambda: "no server answers" in (stream.status().trouble or ""), "told")
    site.serve()
    wait_for(site.is_drained, "stored when the server came")
    assert stream.status().trouble is None
    site.stop_serving()
    wait_for(lambda: not stream.status().is_connected, "noticed")
    site.seal("second.tif", second)
    site.serve()
    back = time.monotonic()
    wait_for(site.is_drained, "stored when the server came back")
    assert time.monotonic() - back < 5.0  # the promise for a restart
    assert site.blob(second).exists()


def test_the_same_bytes_travel_once_and_count_as_two_files(site: Site) -> None:
    content = os.urandom(2_000_000)
    ingest = site.serve()
    stream = site.stream()
    site.seal("frame.tif", content)
    stream.wake()
    wait_for(site.is_drained, "the first")
    site.seal("copy.tif", content)
    stream.wake()
    wait_for(site.is_drained, "the copy")
    assert site.rows(sa.func.count(files.c.id)) == [(2,)]
    assert ingest.status().bytes_received == len(content)


def test_a_file_offered_again_after_a_lost_stored_is_stored_again(site: Site) -> None:
    site.serve()
    seq = site.seal("frame.tif", os.urandom(1000))
    stream = site.stream()
    wait_for(site.is_drained, "stored")
    stream.stop()
    # What a kill between STORED and its note in the journal leaves behind:
    with site.journal._write() as db:
        db.execute("UPDATE files SET state='sealed', stored_rev=0 WHERE seq=?", (seq,))
    site.stream()
    wait_for(site.is_drained, "stored again")
    assert site.rows(sa.func.count(files.c.id)) == [(1,)]
    assert site.rows(sa.func.count(frames.c.id)) == [(1,)]


def test_an_agent_with_a_foreign_key_is_told_to_enrol_and_refused(site: Site) -> None:
    ingest = site.serve()
    public, secret = new_key_pair()
    stranger = site.identity.model_copy(
        update={"public_key": public, "secret_key": secret}
    )
    site.seal("frame.tif", b"secret sample")
    stream = site.stream(stranger)
    wait_for(
        lambda: "does not know this agent" in (stream.status().trouble or ""), "told"
    )
    assert ingest.status().refused_handshakes >= 1
    assert site.rows(files.c.id) == []


def test_an_agent_does_not_talk_to_another_server(site: Site) -> None:
    site.serve()
    public, _ = new_key_pair()
    misled = site.identity.model_copy(update={"server_key": public})
    site.seal("frame.tif", b"secret sample")
    stream = site.stream(misled)
    wait_for(lambda: "did not prove" in (stream.status().trouble or ""), "told")
    assert not site.is_drained()


def test_a_revoked_agent_is_dropped_at_once_and_let_in_again(site: Site) -> None:
    ingest = site.serve()
    stream = site.stream()
    wait_for(lambda: len(ingest.status().agents) == 1, "connected")
    ((agent_id,),) = site.rows(agents.c.id)
    site.store.revoke_agent(agent_id)
    wait_for(lambda: "enrol again" in (stream.status().trouble or ""), "told")
    site.seal("frame.tif", os.urandom(1000))
    stream.wake()
    wait_for(lambda: not ingest.status().agents, "dropped")
    assert site.rows(files.c.id) == []
    site.store.enrol_agent(site.identity.public_key, "microscope", "here")
    wait_for(site.is_drained, "stored after enrolling again", limit_s=30)


def test_a_file_that_changed_after_sealing_is_looked_at_again(site: Site) -> None:
    seq = site.seal("frame.tif", os.urandom(3_000_000))
    site.write("frame.tif", os.urandom(3_000_001))
    site.serve()
    site.stream()
    wait_for(lambda: site.journal.take_doubtful() == [seq], "doubted")
    assert site.rows(files.c.id) == []


def test_bytes_that_changed_in_secret_are_caught_by_their_hash(site: Site) -> None:
    seq = site.seal("frame.tif", b"a" * 50_000)
    path = site.folder / "frame.tif"
    times = path.stat()
    path.write_bytes(b"b" * 50_000)  # same size, and the same time of change:
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    ingest = site.serve()
    site.stream()
    wait_for(lambda: site.journal.take_doubtful() == [seq], "doubted")
    assert ingest.status().mismatches == 1
    assert site.rows(files.c.id) == []
    assert list((site.store.data_dir / "parts").iterdir()) == []


def test_a_file_that_vanished_is_listed_by_name_and_the_next_arrives(
    site: Site,
) -> None:
    seq = site.seal("vanished.tif", os.urandom(1000))
    (site.folder / "vanished.tif").unlink()
    site.serve()
    stream = site.stream()
    wait_for(lambda: site.journal.take_doubtful() == [seq], "doubted")
    site.journal.mark_gone(seq, 1, "vanished")  # what the watcher finds out
    wait_for(lambda: bool(site.rows(gone.c.seq)), "told")
    assert site.rows(gone.c.source_key, gone.c.reason) == [
        ("acquisitions/vanished.tif", "vanished")
    ]
    wait_for(lambda: site.journal.gone_to_tell(9) == [], "confirmed")
    site.seal("next.tif", os.urandom(1000))
    stream.wake()
    wait_for(site.is_drained, "the next")


def test_a_file_beyond_the_limit_is_rejected_by_name(tmp_path: Path) -> None:
    with Site(tmp_path, max_file_bytes=1000) as site:
        site.serve()
        site.stream()
        site.seal("large.tif", bytes(1001))
        site.seal("small.tif", bytes(1000))
        wait_for(site.is_drained, "settled")
        counts = site.journal.counts()
        assert (counts.stored, counts.rejected) == (1, 1)
        (problem,) = site.journal.problems()
        assert problem.source_key == "acquisitions/large.tif"
        assert "max_file_bytes" in problem.text
        wait_for(lambda: bool(site.rows(gone.c.reason)), "told")
        assert site.rows(gone.c.reason) == [("rejected",)]


def test_a_full_disk_pauses_with_a_reason_and_resumes_by_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_machine, "PAUSE_S", 0.5)
    content = os.urandom(500_000)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    site.serve()
    stream = site.stream()
    with monkeypatch.context() as full:
        full.setattr(Spool, "append", refuse)
        site.seal("frame.tif", content)
        stream.wake()
        wait_for(lambda: "No space left" in (stream.status().paused or ""), "paused")
        assert not site.is_drained()
    wait_for(site.is_drained, "resumed")
    assert site.blob(content).read_bytes() == content
    wait_for(lambda: stream.status().paused is None, "no longer paused")


def test_a_database_that_refuses_means_no_stored(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_machine, "PAUSE_S", 0.5)

    def refuse(*_: object) -> None:
        raise StoreError("database or disk is full")

    site.serve()
    stream = site.stream()
    with monkeypatch.context() as full:
        full.setattr(Store, "record_stored", refuse)
        site.seal("frame.tif", os.urandom(1000))
        stream.wake()
        wait_for(lambda: "disk is full" in (stream.status().paused or ""), "paused")
        assert site.journal.counts().stored == 0
    wait_for(site.is_drained, "resumed")
    assert site.rows(sa.func.count(files.c.id)) == [(1,)]


def test_a_disk_below_its_reserve_takes_nothing(tmp_path: Path) -> None:
    with Site(tmp_path, disk_reserve_bytes=2**60) as site:
        ingest = site.serve()
        stream = site.stream()
        site.seal("frame.tif", os.urandom(1000))
        wait_for(lambda: "disk is full" in (stream.status().paused or ""), "paused")
        assert "disk is full" in (ingest.status().paused or "")
        assert not site.is_drained()


def test_a_port_in_use_stops_the_start_and_names_it(site: Site) -> None:
    site.serve()
    keys = server_keys(site.store.data_dir)
    with pytest.raises(
        ConfigError, match=rf"127.0.0.1:{site.port}: the port is in use"
    ):
        Ingest(site.store, site.settings, keys)


def test_nonsense_from_an_enrolled_agent_disturbs_nobody(site: Site) -> None:
    ingest = site.serve()
    stream = site.stream()
    with zmq.Context[zmq.Socket[bytes]]() as context:
        dealer = context.socket(zmq.DEALER)
        identify(
            dealer,
            site.identity.server_key,
            site.identity.public_key,
            site.identity.secret_key,
        )
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(site.identity.server_url)
        for parts in ([b""], [b"EMC1", b"OFFER", b"{}"], [b"x"] * 1000):
            dealer.send_multipart(parts)
            assert dealer.poll(5000)
            answer, _ = wire.decode(dealer.recv_multipart())
            assert isinstance(answer, wire.Refused)
        # In good form, but out of turn: the server asks who it is.
        dealer.send_multipart(wire.encode(wire.Chunk(seq=1, rev=1, offset=0), b"x"))
        assert dealer.poll(5000)
        assert wire.decode(dealer.recv_multipart())[0] == wire.Reset()
        dealer.close()
    assert ingest.status().bad_messages == 3
    site.seal("frame.tif", os.urandom(1000))
    stream.wake()
    wait_for(site.is_drained, "stored all the same")


def test_a_key_that_keeps_talking_nonsense_is_not_heard_for_a_while(site: Site) -> None:
    ingest = site.serve()
    with zmq.Context[zmq.Socket[bytes]]() as context:
        dealer = context.socket(zmq.DEALER)
        identify(
            dealer,
            site.identity.server_key,
            site.identity.public_key,
            site.identity.secret_key,
        )
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(site.identity.server_url)
        for _ in range(20):
            dealer.send(b"nonsense")
        wait_for(lambda: ingest.status().bad_messages == 10, "ten strikes")
        dealer.send_multipart(wire.encode(wire.Reset()))
        time.sleep(0.3)
        assert ingest.status().bad_messages == 10
        dealer.close()


def test_the_server_keeps_what_agents_say_of_themselves(site: Site) -> None:
    site.serve()
    site.stream()
    site.seal("frame.tif", os.urandom(1000))
    counts = (agents.c.discovered, agents.c.stored, agents.c.pending)
    wait_for(lambda: site.rows(*counts) == [(1, 1, 0)], "reported")
    ((journal, host),) = site.rows(agents.c.journal, agents.c.host)
    assert journal == site.journal.journal_id
    assert host == socket.gethostname()


def test_a_name_that_cannot_travel_is_rejected_and_shown(site: Site) -> None:
    site.serve()
    stream = site.stream()
    site.seal("two\nlines.tif", os.urandom(1000))
    site.seal("good.tif", os.urandom(1000))
    stream.wake()
    wait_for(lambda: bool(site.rows(gone.c.reason)), "told")
    assert site.rows(gone.c.source_key, gone.c.reason) == [
        ("acquisitions/two\N{REPLACEMENT CHARACTER}lines.tif", "rejected")
    ]
    wait_for(site.is_drained, "the good one")
