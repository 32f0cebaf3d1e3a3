"""kill -9 in a promotion: whole models, one that is live, and every frame names its own."""

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from gpu_server import promotion_rows
from gpu_server.live_start import LiveStart
from gpu_server.model_files import checked_card
from gpu_server.registry import Registry
from gpu_server.store import Store

PROGRAM = Path(__file__).with_name("promotion_program.py")


@dataclass
class Installation:
    data_dir: Path
    folders: tuple[Path, Path]
    diary: Path

    def start(self, die: str = "", turns: int = 3) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), str(self.data_dir)]
        command += [*map(str, self.folders), "--die", die, "--turns", str(turns)]
        return subprocess.Popen(
            [*command, "--diary", str(self.diary)], stdout=subprocess.PIPE, text=True
        )

    def require_whole(self) -> str:
        """Start as a server does after the kill; return what is live."""
        with Store(self.data_dir) as store:
            registry = Registry(store)
            registry.open()
            with store.read() as connection:
                says = registry.live(connection)
                rows = registry.list(connection)
            assert not list(registry.root.glob("*.part"))
            for row in rows:
                folder = registry.folder(row.model_id)
                assert checked_card(folder).model_id == row.model_id
            start = LiveStart(registry, str(self.folders[0]))
            choice = next(start.choices())
            start.settle(choice)
            with store.read() as connection:
                changes = promotion_rows.history(connection)
            assert says in {choice.model_id, None}, "the row decides"
            assert "server" not in {change.who for change in changes}, "a fall-back"
            for newer, older in pairwise(changes):
                assert newer.replaced == older.model_id
        return choice.model_id

    def require_named_frames(self) -> None:
        lines = self.diary.read_text().splitlines() if self.diary.exists() else []
        frames = [line.split() for line in lines if line.startswith("frame")]
        assert all(len(line) == 3 for line in frames[:-1])  # the last may be cut
        assert {line[1] for line in frames[:-1]} <= {"a", "b"}


@pytest.fixture
def site(papers, empty_database: Path, tmp_path: Path) -> Installation:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copyfile(empty_database, folder / "emcopilot.db")
    return Installation(folder, (papers["a"], papers["b"]), tmp_path / "diary")


@pytest.mark.parametrize(
    ("point", "live"),
    [
        ("copied:2", "a"),  # the first copy is the model that the settings name
        ("in place, done:2", "a"),
        ("child ready:1", "a"),
        ("half written:2", "a"),
        ("committed, done:1", "b"),
        ("switching:2", "b"),
        ("committed, done:2", "a"),  # a roll back
    ],
)
def test_a_server_killed_there_starts_with_the_model_that_the_row_names(
    site: Installation, point: str, live: str
) -> None:
    with site.start(die=point) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert point.partition(":")[0] in site.diary.read_text(), "it died elsewhere"
    assert site.require_whole() == live
    site.require_named_frames()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_kills_at_random_moments_everything_is_whole(site: Installation) -> None:
    draw = random.Random(5)
    for _ in range(20):
        with site.start(turns=10_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0, 0.5))
            process.kill()
            process.wait(10)
        site.require_whole()
    site.require_named_frames()
