import os
import sqlite3
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from acquisition_agent.files import Place
from acquisition_agent.journal import Journal
from acquisition_agent.settle import Look
from emcopilot.errors import ConfigError, StoreError


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "agent" / "journal.db") as opened:
        opened.set_roots({"acq": tmp_path / "acq"})
        yield opened


def look(number: int = 1, size: int = 10, mtime_ns: int = 5) -> Look:
    return Look(size, mtime_ns, f"1:{number}")


def discover(journal: Journal, *names: str) -> list[int]:
    places = [Place("acq", name) for name in names]
    return journal.discover([(p, look(hash(p.relative))) for p in places])


def sealed(journal: Journal, *names: str) -> list[int]:
    seqs = discover(journal, *names)
    journal.seal([(seq, look(seq), f"{seq:064d}") for seq in seqs])
    return seqs


def accounts(journal: Journal) -> tuple[int, int, int, int, int]:
    c = journal.counts()
    assert c.discovered == c.stored + c.pending + c.vanished + c.rejected
    return c.discovered, c.stored, c.pending, c.vanished, c.rejected


def test_a_sealed_file_is_offered_with_all_that_the_wire_needs(
    journal: Journal, tmp_path: Path
) -> None:
    (seq,) = sealed(journal, "2026-11-22_PtC/frame_0001.tif")
    (file,) = journal.next_to_offer(10)
    assert (file.seq, file.rev) == (seq, 1)
    assert file.source_key == "acq/2026-11-22_PtC/frame_0001.tif"
    assert file.path == tmp_path / "acq" / "2026-11-22_PtC" / "frame_0001.tif"
    assert (file.size, file.mtime_ns, file.sha256) == (10, 5, f"{seq:064d}")


def test_a_file_that_is_only_seen_is_counted_and_not_offered(journal: Journal) -> None:
    discover(journal, "a.tif")
    assert journal.next_to_offer(10) == []
    assert accounts(journal) == (1, 0, 1, 0, 0)


def test_what_is_in_flight_is_not_offered_again_until_the_connection_is_new(
    journal: Journal,
) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_offered([(seq, 1)])
    assert journal.next_to_offer(10) == []
    journal.reset_offered()
    assert [file.seq for file in journal.next_to_offer(10)] == [seq]


def test_the_newest_go_first_and_every_fifth_is_the_oldest(journal: Journal) -> None:
    seqs = sealed(journal, *(f"{i}.tif" for i in range(20)))
    offered = [file.seq for file in journal.next_to_offer(10)]
    newest_first = seqs[::-1]
    assert offered == [*newest_first[:4], seqs[0], *newest_first[4:8], seqs[1]]


def test_one_slot_at_a_time_still_drains_the_oldest(journal: Journal) -> None:
    seqs = sealed(journal, *(f"{i}.tif" for i in range(10)))
    order: list[int] = []
    for _ in range(5):
        (file,) = journal.next_to_offer(1)
        journal.mark_offered([(file.seq, file.rev)])
        order.append(file.seq)
    assert seqs[0] in order


def test_stored_is_final_and_counted(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_stored([(seq, 1)])
    journal.mark_stored([(seq, 1)])
    assert accounts(journal) == (1, 1, 0, 0, 0)
    journal.mark_gone(seq, 1, "vanished")
    assert accounts(journal) == (1, 1, 0, 0, 0)
    assert journal.gone_to_tell(10) == []


def test_new_bytes_are_a_new_revision_and_one_file(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_stored([(seq, 1)])
    journal.reopen([seq])
    assert accounts(journal) == (1, 0, 1, 0, 0)
    journal.seal([(seq, look(1, size=20), "b" * 64)])
    (file,) = journal.next_to_offer(10)
    assert (file.seq, file.rev, file.size) == (seq, 2, 20)
    assert journal.gone_to_tell(10) == []  # revision 1 is on the server


def test_a_touched_file_is_no_revision(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_stored([(seq, 1)])
    journal.reopen([seq])
    journal.seal([(seq, look(1, mtime_ns=6), f"{seq:064d}")])
    assert journal.next_to_offer(10) == []
    assert accounts(journal) == (1, 1, 0, 0, 0)


def test_a_revision_overwritten_before_it_was_stored_is_told_as_changed(
    journal: Journal,
) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_offered([(seq, 1)])
    journal.reopen([seq])
    journal.seal([(seq, look(1), "b" * 64)])
    (gone,) = journal.gone_to_tell(10)
    assert (gone.seq, gone.rev, gone.reason) == (seq, 1, "changed")
    assert [(f.seq, f.rev) for f in journal.next_to_offer(10)] == [(seq, 2)]
    journal.mark_told([(seq, 1)])
    assert journal.gone_to_tell(10) == []


def test_the_stored_answer_for_an_older_revision_leaves_the_newer_pending(
    journal: Journal,
) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.reopen([seq])
    journal.seal([(seq, look(1), "b" * 64)])
    journal.mark_stored([(seq, 1)])
    assert accounts(journal) == (1, 0, 1, 0, 0)
    assert journal.gone_to_tell(10) == []  # it arrived after all
    journal.mark_stored([(seq, 2)])
    assert accounts(journal) == (1, 1, 0, 0, 0)


def test_a_file_that_vanished_unsealed_is_listed_by_name(journal: Journal) -> None:
    (seq,) = discover(journal, "a.tif")
    journal.lose([seq])
    assert accounts(journal) == (1, 0, 0, 1, 0)
    (gone,) = journal.gone_to_tell(10)
    assert (gone.source_key, gone.rev, gone.reason) == ("acq/a.tif", 1, "vanished")
    (problem,) = journal.problems()
    assert (problem.source_key, problem.text) == ("acq/a.tif", "vanished")


def test_stored_wins_over_vanished(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.lose([seq])
    journal.mark_stored([(seq, 1)])  # its bytes had arrived before it vanished
    assert accounts(journal) == (1, 1, 0, 0, 0)
    assert journal.gone_to_tell(10) == []


def test_a_file_that_came_back_is_a_new_revision_of_the_one_given_up(
    journal: Journal,
) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.lose([seq])
    journal.reopen([seq])
    journal.seal([(seq, look(1), f"{seq:064d}")])
    assert [(f.seq, f.rev) for f in journal.next_to_offer(10)] == [(seq, 2)]
    assert accounts(journal) == (1, 0, 1, 0, 0)


def test_a_rejected_file_is_accounted_and_not_looked_at_again(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_gone(seq, 1, "rejected")
    assert accounts(journal) == (1, 0, 0, 0, 1)
    assert journal.take_doubtful() == []


def test_a_doubtful_file_is_held_back_until_it_is_sealed_anew(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_offered([(seq, 1)])
    journal.look_again(seq, 1)
    assert journal.next_to_offer(10) == []
    assert journal.take_doubtful() == [seq]
    assert journal.take_doubtful() == []
    assert journal.next_to_offer(10) == []
    journal.seal([(seq, look(1), f"{seq:064d}")])  # it was only locked
    assert [(f.seq, f.rev) for f in journal.next_to_offer(10)] == [(seq, 1)]


def test_a_renamed_file_keeps_its_number(journal: Journal) -> None:
    (seq,) = sealed(journal, "tmp.tif")
    journal.rename(seq, Place("acq", "run/final.tif"))
    (file,) = journal.next_to_offer(10)
    assert (file.seq, file.source_key) == (seq, "acq/run/final.tif")
    assert journal.known(Place("acq", "tmp.tif")) is None


def test_a_stored_file_keeps_the_name_that_the_server_knows(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_stored([(seq, 1)])
    journal.rename(seq, Place("acq", "b.tif"))
    journal.reopen([seq])
    journal.seal([(seq, look(1), "b" * 64)])
    (file,) = journal.next_to_offer(10)
    assert file.source_key == "acq/a.tif"
    assert file.path.name == "b.tif"


def test_same_file_needs_id_size_and_time(journal: Journal) -> None:
    (seq,) = sealed(journal, "a.tif")
    assert journal.same_file(look(seq)) == seq
    assert journal.same_file(look(seq, size=11)) is None
    assert journal.same_file(look(seq)._replace(file_id=None)) is None


def test_names_that_differ_only_by_composition_of_an_accent_stay_two(
    journal: Journal,
) -> None:
    composed = "gefüllt.tif"
    seqs = discover(journal, composed, unicodedata.normalize("NFD", composed))
    journal.seal([(seq, look(seq), "a" * 64) for seq in seqs])
    keys = {file.source_key for file in journal.next_to_offer(10)}
    assert keys == {f"acq/{composed}", f"acq/{composed}~2"}


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_text_is_kept_byte_for_byte(journal: Journal) -> None:
    name = os.fsdecode(b"caf\xe9.tif")
    sealed(journal, name)
    (file,) = journal.next_to_offer(10)
    assert os.fsencode(file.path).endswith(b"caf\xe9.tif")
    assert file.source_key == "acq/caf\\xe9.tif"


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.set_roots({"acq": tmp_path})
        sealed(journal, "a.tif", "b.tif")
        journal.mark_stored([(1, 1)])
        journal.mark_offered([(2, 1)])
        journal_id = journal.journal_id
    with Journal(path) as journal:
        assert journal.journal_id == journal_id
        assert accounts(journal) == (2, 1, 1, 0, 0)
        assert [file.seq for file in journal.next_to_offer(10)] == [2]


def test_a_renewed_journal_offers_what_is_not_stored_and_tells_losses_again(
    tmp_path: Path,
) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        journal.set_roots({"acq": tmp_path})
        stored, waiting, lost = sealed(journal, "stored.tif", "waiting.tif", "lost.tif")
        journal.mark_stored([(stored, 1)])
        journal.mark_gone(lost, 1, "unreadable")
        journal.mark_told([(lost, 1)])
        before, counts = journal.journal_id, accounts(journal)
        renewed = journal.renew()
        assert renewed == journal.journal_id != before
        assert accounts(journal) == counts
    with Journal(tmp_path / "journal.db") as journal:
        assert journal.journal_id == renewed
        assert [file.seq for file in journal.next_to_offer(9)] == [waiting]
        assert [file.seq for file in journal.gone_to_tell(9)] == [lost]


def test_numbers_are_never_used_twice(journal: Journal) -> None:
    sealed(journal, "a.tif")
    (seq,) = discover(journal, "b.tif")
    assert discover(journal, "c.tif") == [seq + 1]


def test_two_agents_never_share_a_journal(journal: Journal) -> None:
    with pytest.raises(ConfigError, match="another agent is using"):
        Journal(journal.path)


def test_status_can_be_read_beside_a_running_agent(journal: Journal) -> None:
    sealed(journal, "a.tif")
    with Journal(journal.path, read_only=True) as reader:
        assert accounts(reader) == (1, 0, 1, 0, 0)
        with pytest.raises(StoreError):
            reader.mark_gone(1, 1, "vanished")


def test_a_damaged_journal_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="journal"):
        Journal(path)


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError, match="version 99"):
        Journal(path)


def limit_pages(journal: Journal, spare: int) -> None:
    """Let the database grow by so many pages only: SQLite's own "disk full"."""
    database = journal._db
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    database.execute(f"PRAGMA max_page_count = {pages + spare}")


def test_a_full_disk_refuses_the_whole_step_and_recovers(journal: Journal) -> None:
    sealed(journal, "a.tif")
    limit_pages(journal, 0)
    names = [f"{'long' * 40}{i}.tif" for i in range(200)]
    with pytest.raises(StoreError, match="journal"):
        discover(journal, *names)
    assert accounts(journal) == (1, 0, 1, 0, 0)
    limit_pages(journal, 10_000)
    discover(journal, *names)
    assert accounts(journal) == (201, 0, 201, 0, 0)


def test_stored_is_not_forgotten_while_the_disk_is_full(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    (seq,) = sealed(journal, "a.tif")
    journal.mark_offered([(seq, 1)])
    journal._db.execute("PRAGMA query_only = 1")  # refuses writes as a full disk does
    journal.mark_stored([(seq, 1)])
    assert "postponed" in caplog.text
    assert journal.next_to_offer(5) == []
    journal._db.execute("PRAGMA query_only = 0")
    assert journal.next_to_offer(5) == []
    assert accounts(journal) == (1, 1, 0, 0, 0)


def test_kills_at_any_moment_leave_a_journal_that_adds_up(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import itertools, sys
        from pathlib import Path
        from acquisition_agent.files import Place
        from acquisition_agent.journal import Journal
        from acquisition_agent.settle import Look
        with Journal(Path(sys.argv[1])) as journal:
            journal.set_roots({"acq": Path("/acq")})
            start = journal.counts().discovered
            for i in itertools.count(start):
                look = Look(1, i, f"1:{i}")
                (seq,) = journal.discover([(Place("acq", f"{i}.tif"), look)])
                journal.seal([(seq, look, f"{i:064d}")])
                journal.mark_stored([(seq, 1)])
                print(seq, flush=True)
        """
    )
    path = tmp_path / "journal.db"
    told = 0
    for round_ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        for _ in range(3 + 5 * round_):
            assert process.stdout.readline()
            told += 1
        process.kill()
        process.communicate(timeout=30)
        with Journal(path) as journal:
            assert accounts(journal)[1] >= told  # what it said was stored is stored
            known = journal.folder("acq", "")
            assert all(k.state in ("seen", "sealed", "stored") for k in known.values())
