import hashlib
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acquisition_agent import waiting
from acquisition_agent.config import EXCLUDE, INCLUDE
from acquisition_agent.journal import Journal, SealedFile
from acquisition_agent.names import NameRule
from acquisition_agent.settle import Patience
from acquisition_agent.watch import FolderWatch
from emcopilot.errors import StoreError


class Bench:
    """One watched folder, its journal and a clock that only the test turns."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 1000.0
        self.root = tmp_path / "acq"
        self.root.mkdir()
        self.journal = Journal(tmp_path / "journal.db")
        self.journal.set_roots({"acq": self.root})
        self.is_network = False
        self.watch = self.begin()
        self.spin(0.1)

    def begin(self) -> FolderWatch:
        """Watch as a freshly started agent does."""
        self.watch = FolderWatch(
            self.journal,
            "acq",
            self.root,
            NameRule(INCLUDE, EXCLUDE),
            Patience(),
            is_network=self.is_network,
            clock=lambda: self.now,
        )
        return self.watch

    def spin(self, seconds: float) -> None:
        """Let time pass in steps of a tenth of a second."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.watch.tick()

    def write(self, name: str, data: bytes = b"not an image") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def offered(self) -> dict[str, SealedFile]:
        return {file.source_key: file for file in self.journal.next_to_offer(10_000)}

    def store_all(self) -> None:
        files = self.offered().values()
        self.journal.mark_stored([(file.seq, file.rev) for file in files])

    def accounts(self) -> tuple[int, int, int, int]:
        c = self.journal.counts()
        assert c.discovered == c.stored + c.pending + c.vanished + c.rejected
        return c.discovered, c.stored, c.pending, c.vanished


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.journal.close()


def mrc(sections: int = 1, present: int | None = None) -> bytes:
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, 16, 16, sections, 0)
    return bytes(header) + b"p" * 256 * (sections if present is None else present)


# Finding and settling


def test_a_new_file_is_sealed_byte_for_byte(bench: Bench) -> None:
    path = bench.write("2026-11-22_PtC/frame_0001.png", b"anything")
    bench.spin(2.2)
    file = bench.offered()["acq/2026-11-22_PtC/frame_0001.png"]
    assert file.path == path
    assert file.sha256 == hashlib.sha256(b"anything").hexdigest()


def test_a_file_that_cannot_tell_waits_a_second_and_no_longer(bench: Bench) -> None:
    bench.write("a.tif")
    bench.spin(0.9)
    assert bench.offered() == {}
    bench.spin(1.3)  # at most 1 s until it is listed, 1 s of stillness, one step
    assert list(bench.offered()) == ["acq/a.tif"]


def test_a_complete_file_is_sealed_as_soon_as_it_is_listed(bench: Bench) -> None:
    bench.write("a.mrc", mrc())
    bench.spin(1.1)
    assert list(bench.offered()) == ["acq/a.mrc"]


def test_a_hint_saves_the_wait_for_the_listing(bench: Bench) -> None:
    path = bench.write("a.mrc", mrc())
    bench.watch.look_at_once([str(path)])
    bench.spin(0.1)
    assert list(bench.offered()) == ["acq/a.mrc"]


def test_hints_about_nothing_do_no_harm(bench: Bench) -> None:
    bench.watch.look_at_once(["/elsewhere/x.tif", str(bench.root / "absent/y.tif")])
    bench.watch.look_at_once([str(bench.root), str(bench.root / "absent.tif")])
    bench.spin(1.0)
    assert bench.accounts() == (0, 0, 0, 0)


def test_a_file_written_in_two_parts_is_sealed_once_and_whole(bench: Bench) -> None:
    bench.write("a.mrc", mrc(sections=4, present=1))
    bench.spin(30.0)
    assert bench.offered() == {}
    bench.write("a.mrc", mrc(sections=4))
    bench.spin(5.0)
    assert [(f.rev, f.size) for f in bench.offered().values()] == [(1, 1024 + 1024)]


def test_an_unfinished_or_empty_file_is_shown_after_a_minute(bench: Bench) -> None:
    bench.write("half.mrc", mrc(sections=4, present=1))
    bench.write("empty.tif", b"")
    bench.spin(50.0)
    assert bench.journal.problems() == []
    bench.spin(25.0)
    texts = {p.source_key: p.text for p in bench.journal.problems()}
    assert "not complete" in texts["acq/half.mrc"]
    assert "empty" in texts["acq/empty.tif"]
    assert bench.accounts() == (2, 0, 2, 0)
    bench.write("half.mrc", mrc(sections=4))
    bench.spin(12.0)
    assert list(bench.offered()) == ["acq/half.mrc"]
    assert [p.source_key for p in bench.journal.problems()] == ["acq/empty.tif"]


def test_a_growing_stack_becomes_one_revision_and_not_one_for_each_page(
    bench: Bench,
) -> None:
    for sections in range(1, 30):
        path = bench.write("movie.mrc", mrc(sections))
        bench.watch.look_at_once([str(path)])
        bench.spin(1.0)
    assert [f.rev for f in bench.offered().values()] == []
    bench.spin(8.0)
    assert [(f.rev, f.size) for f in bench.offered().values()] == [(2, 1024 + 29 * 256)]


def test_only_included_names_count_and_case_does_not_matter(bench: Bench) -> None:
    for name in (
        *("FRAME.TIF", "a.Png", "deep/er/b.dm4"),
        *("notes.txt", "a.tif.part", "~a.tif", ".hidden.tif", "x.tmp", ".snap/c.tif"),
    ):
        bench.write(name)
    bench.spin(4.0)
    assert set(bench.offered()) == {"acq/FRAME.TIF", "acq/a.Png", "acq/deep/er/b.dm4"}
    assert bench.accounts()[0] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_to_folders_are_not_followed_and_cannot_go_in_circles(
    bench: Bench,
) -> None:
    bench.write("run/a.tif")
    (bench.root / "run" / "loop").symlink_to(bench.root, target_is_directory=True)
    bench.spin(4.0)
    assert list(bench.offered()) == ["acq/run/a.tif"]


# Names that change


def test_temp_and_rename_gives_one_file(bench: Bench) -> None:
    bench.write("frame.mrc.tmp", mrc()).rename(bench.root / "frame.mrc")
    bench.spin(3.0)
    assert bench.accounts() == (1, 0, 1, 0)


def test_a_rename_while_settling_gives_one_file(bench: Bench) -> None:
    path = bench.write("part.tif")
    bench.spin(1.3)
    path.rename(bench.root / "final.tif")
    bench.spin(8.0)
    assert list(bench.offered()) == ["acq/final.tif"]
    assert bench.accounts() == (1, 0, 1, 0)


@pytest.mark.parametrize("target", ["b.tif", "other/run/b.tif"])
def test_a_stored_file_that_is_moved_is_not_counted_again(
    bench: Bench, target: str
) -> None:
    path = bench.write("a.tif")
    bench.spin(3.0)
    bench.store_all()
    (bench.root / target).parent.mkdir(parents=True, exist_ok=True)
    path.rename(bench.root / target)
    bench.spin(70.0)
    assert bench.accounts() == (1, 1, 0, 0)


def test_a_pending_file_that_is_moved_is_offered_under_its_new_path(
    bench: Bench,
) -> None:
    bench.write("run/a.tif")
    bench.spin(3.0)
    (bench.root / "run").rename(bench.root / "renamed")
    bench.spin(8.0)
    (file,) = bench.offered().values()
    assert file.path == bench.root / "renamed" / "a.tif"
    assert bench.accounts() == (1, 0, 1, 0)


def test_a_copy_is_a_new_frame(bench: Bench) -> None:
    path = bench.write("a.tif")
    bench.spin(3.0)
    shutil.copy2(path, bench.root / "b.tif")
    bench.spin(3.0)
    assert bench.accounts() == (2, 0, 2, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_hard_link_is_the_same_frame_and_takes_over_when_the_first_goes(
    bench: Bench,
) -> None:
    path = bench.write("a.tif")
    bench.spin(3.0)
    (bench.root / "b.tif").hardlink_to(path)
    bench.spin(3.0)
    assert bench.accounts() == (1, 0, 1, 0)
    path.unlink()
    bench.spin(70.0)
    assert [f.path.name for f in bench.offered().values()] == ["b.tif"]
    assert bench.accounts() == (1, 0, 1, 0)


# Bytes that change


def test_an_overwritten_file_is_revision_two_of_one_file(bench: Bench) -> None:
    bench.write("a.tif", b"first")
    bench.spin(3.0)
    bench.store_all()
    bench.write("a.tif", b"second one")
    bench.spin(70.0)
    assert [(f.rev, f.size) for f in bench.offered().values()] == [(2, 10)]
    bench.store_all()
    assert bench.accounts() == (1, 1, 0, 0)


def test_a_touched_file_is_not_sent_again(bench: Bench) -> None:
    path = bench.write("a.tif")
    bench.spin(3.0)
    bench.store_all()
    os.utime(path, ns=(1, 1))
    bench.spin(75.0)
    assert bench.offered() == {}
    assert bench.accounts() == (1, 1, 0, 0)


def test_bytes_that_move_while_they_are_hashed_are_not_sealed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("a.tif", b"before")
    digest = waiting.digest

    def digest_and_write(target: Path) -> str:
        found = digest(target)
        if target.read_bytes() == b"before":
            path.write_bytes(b"after it")
        return found

    monkeypatch.setattr(waiting, "digest", digest_and_write)
    bench.spin(6.0)
    (file,) = bench.offered().values()
    assert file.sha256 == hashlib.sha256(b"after it").hexdigest()


# Files that go


def test_a_pending_file_that_is_deleted_is_listed_as_vanished(bench: Bench) -> None:
    path = bench.write("a.tif")
    bench.write("b.tif")
    bench.spin(3.0)
    path.unlink()
    bench.spin(10.0)
    assert bench.accounts() == (2, 0, 1, 1)
    assert [p.source_key for p in bench.journal.problems()] == ["acq/a.tif"]


def test_the_last_file_of_a_local_folder_can_vanish(bench: Bench) -> None:
    bench.write("a.tif").unlink()
    path = bench.write("run/b.tif")
    bench.spin(1.3)
    path.unlink()
    bench.spin(10.0)
    assert bench.accounts() == (1, 0, 0, 1)


def test_a_stored_file_may_be_deleted(bench: Bench) -> None:
    path = bench.write("a.tif")
    bench.spin(3.0)
    bench.store_all()
    path.unlink()
    bench.spin(70.0)
    assert bench.accounts() == (1, 1, 0, 0)


def test_a_file_that_is_deleted_and_put_back_is_not_lost(bench: Bench) -> None:
    path = bench.write("a.tif")
    bench.write("b.tif")
    bench.spin(3.0)
    path.unlink()
    bench.spin(1.5)
    bench.write("a.tif", b"put back by its writer")
    bench.spin(20.0)
    assert bench.accounts() == (2, 0, 2, 0)


def test_a_vanished_file_that_comes_back_is_sent(bench: Bench) -> None:
    path = bench.write("a.tif")
    bench.write("b.tif")
    bench.spin(3.0)
    path.unlink()
    bench.spin(10.0)
    bench.write("a.tif", b"back")
    bench.spin(10.0)
    assert bench.accounts() == (2, 0, 2, 0)
    assert bench.offered()["acq/a.tif"].rev == 2


def test_a_folder_that_disappears_with_pending_files_is_judged_by_name(
    bench: Bench,
) -> None:
    bench.write("run/a.tif")
    bench.write("b.tif")
    bench.spin(3.0)
    shutil.rmtree(bench.root / "run")
    bench.spin(10.0)
    assert bench.accounts() == (2, 0, 1, 1)


# Folders that are unwell


def test_nothing_is_lost_while_the_watched_folder_is_away(bench: Bench) -> None:
    bench.write("a.mrc", mrc())
    bench.write("half.mrc", mrc(4, present=1))
    bench.spin(3.0)
    away = bench.root.rename(bench.root.with_name("away"))
    bench.spin(200.0)
    assert bench.watch.trouble
    assert "acq" in {p.source_key for p in bench.journal.problems()}
    assert bench.accounts() == (2, 0, 2, 0)
    away.rename(bench.root)
    (bench.root / "half.mrc").write_bytes(mrc(4))
    bench.write("new.mrc", mrc())
    bench.spin(40.0)
    assert bench.watch.trouble is None
    assert set(bench.offered()) == {"acq/a.mrc", "acq/half.mrc", "acq/new.mrc"}
    assert bench.accounts() == (3, 0, 3, 0)


def test_an_empty_folder_in_place_of_the_real_one_loses_nothing(bench: Bench) -> None:
    bench.write("a.tif")
    bench.spin(3.0)
    away = bench.root.rename(bench.root.with_name("away"))
    bench.root.mkdir()  # a mount point without its share
    bench.spin(200.0)
    assert "not the folder it was" in (bench.watch.trouble or "")
    assert bench.accounts() == (1, 0, 1, 0)
    bench.root.rmdir()
    away.rename(bench.root)
    bench.spin(70.0)
    assert bench.watch.trouble is None
    assert bench.accounts() == (1, 0, 1, 0)


def test_an_empty_folder_at_start_loses_nothing_either(bench: Bench) -> None:
    bench.write("a.tif")
    bench.spin(3.0)
    bench.root.rename(bench.root.with_name("away"))
    bench.root.mkdir()
    bench.begin()
    bench.spin(200.0)
    assert bench.accounts() == (1, 0, 1, 0)


def test_an_empty_share_is_not_believed(bench: Bench) -> None:
    bench.is_network = True
    bench.begin()
    path = bench.write("a.tif")
    bench.spin(5.0)
    path.unlink()
    bench.spin(200.0)
    assert bench.accounts() == (1, 0, 1, 0)
    assert "share" in (bench.watch.trouble or "")
    bench.write("b.tif")  # a share that shows new files is not away
    bench.spin(5.0)
    assert bench.accounts()[0] == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX rights")
def test_one_unreadable_folder_or_file_does_not_stop_the_scan(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, listdir, stat = os.scandir, os.listdir, os.stat

    def guard(real: Callable[..., object]) -> Callable[..., object]:
        def guarded(path: str | Path, *args: object, **kwargs: object) -> object:
            if str(path).endswith(("locked", "locked.tif")):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **kwargs)

        return guarded

    bench.write("locked/a.tif")
    bench.write("b.tif")
    bench.spin(3.0)
    for name, real in (("scandir", scandir), ("listdir", listdir), ("stat", stat)):
        monkeypatch.setattr(os, name, guard(real))
    bench.write("locked.tif")
    bench.write("c.tif")
    bench.spin(130.0)
    assert {"acq/b.tif", "acq/c.tif"} <= set(bench.offered())
    texts = {p.source_key: p.text for p in bench.journal.problems()}
    assert "Permission denied" in texts["acq/locked.tif"]
    assert bench.accounts() == (4, 0, 4, 0)  # locked/a.tif is not taken for lost


def test_a_file_held_by_its_writer_is_retried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = waiting.open_shared

    def refuse(path: Path) -> object:
        raise PermissionError(13, "held", str(path), 32)  # as on Windows

    bench.write("a.tif")
    monkeypatch.setattr(waiting, "open_shared", refuse)
    bench.spin(10.0)
    assert bench.offered() == {}
    monkeypatch.setattr(waiting, "open_shared", real)
    bench.spin(12.0)
    assert list(bench.offered()) == ["acq/a.tif"]


# Starts, kills and a full disk


def test_after_a_restart_nothing_is_sealed_or_counted_again(bench: Bench) -> None:
    for number in range(150):  # enough that the journal is asked for whole folders
        bench.write(f"{number}.tif")
    bench.spin(4.0)
    bench.store_all()
    bench.begin()
    bench.spin(3.0)
    assert bench.watch.is_ready
    assert bench.watch.waiting == 0
    assert bench.accounts() == (150, 150, 0, 0)


def test_what_happened_while_the_agent_was_off_is_found_at_start(bench: Bench) -> None:
    bench.write("same.tif")
    changed, moved, gone = (
        bench.write(f"{n}.tif") for n in ("changed", "moved", "gone")
    )
    waited = bench.write("waiting.tif")
    bench.spin(1.2)
    waited_seq = bench.accounts()[0]
    bench.spin(2.0)
    bench.journal.mark_stored(
        [(f.seq, f.rev) for f in bench.offered().values() if "gone" not in f.source_key]
    )
    changed.write_bytes(b"other bytes")
    moved.rename(bench.root / "new name.tif")
    gone.unlink()
    waited.touch()
    bench.write("new.tif")
    bench.begin()
    bench.spin(10.0)
    assert waited_seq == 5
    offered = {key: file.rev for key, file in bench.offered().items()}
    assert offered == {"acq/changed.tif": 2, "acq/new.tif": 1}
    assert bench.accounts() == (6, 3, 2, 1)


def test_a_file_that_was_still_settling_at_a_kill_is_sealed_afterwards(
    bench: Bench,
) -> None:
    bench.write("a.tif")
    bench.spin(1.2)
    assert bench.offered() == {}
    bench.begin()
    bench.spin(2.0)
    assert list(bench.offered()) == ["acq/a.tif"]


def test_a_full_journal_disk_seals_nothing_and_recovers_by_itself(bench: Bench) -> None:
    bench.write("before.tif")
    bench.spin(1.5)
    bench.journal._db.execute("PRAGMA query_only = 1")  # refuses writes as a full disk
    bench.write("during.tif")
    refused = 0
    for _ in range(40):
        try:
            bench.spin(0.1)
        except StoreError:
            refused += 1
    assert refused > 1
    assert bench.accounts()[0] == 1
    bench.journal._db.execute("PRAGMA query_only = 0")
    bench.spin(4.0)
    assert set(bench.offered()) == {"acq/before.tif", "acq/during.tif"}


def test_a_file_the_sender_could_not_read_is_looked_at_again(bench: Bench) -> None:
    path = bench.write("a.tif", b"first")
    bench.spin(3.0)
    (file,) = bench.offered().values()
    bench.journal.mark_offered([(file.seq, file.rev)])
    path.write_bytes(b"other")
    bench.journal.look_again(file.seq, file.rev)
    for seq in bench.journal.take_doubtful():
        bench.watch.doubt(seq)
    bench.spin(3.0)
    assert [(f.seq, f.rev) for f in bench.offered().values()] == [(file.seq, 2)]


def test_a_file_the_sender_could_not_find_is_followed_or_given_up(bench: Bench) -> None:
    moved, gone = bench.write("moved.tif"), bench.write("gone.tif", b"x")
    bench.write("stays.tif", b"yy")
    bench.spin(3.0)
    files = list(bench.offered().values())
    bench.journal.mark_offered([(file.seq, file.rev) for file in files])
    moved.rename(bench.root / "new.tif")
    gone.unlink()
    for file in files:
        if "stays" not in file.source_key:
            bench.journal.look_again(file.seq, file.rev)
    for seq in bench.journal.take_doubtful():
        bench.watch.doubt(seq)
    bench.spin(10.0)
    assert list(bench.offered()) == ["acq/new.tif"]
    assert bench.accounts() == (3, 0, 2, 1)


def test_a_storm_of_files_loses_none(bench: Bench) -> None:
    names = [f"run{n % 7}/{n}.mrc" for n in range(1500)]
    for number, name in enumerate(names):
        bench.write(name, mrc())
        if number % 300 == 0:
            bench.spin(0.3)
    bench.spin(10.0)
    assert set(bench.offered()) == {f"acq/{name}" for name in names}
