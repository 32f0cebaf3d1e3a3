"""kill -9 of agent and server while frames arrive: none lost, none twice, none torn.

Real programs, real disk, real sockets. Some kills come at random, the others at the
places where they hurt most: between the receipt of a file and its STORED, and between
STORED and its note in the journal. The same runs must fail on three planted bugs.
"""

import hashlib
import io
import queue
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from gpu_server.enrol_desk import enrol_locally
from gpu_server.store import Store

HERE = Path(__file__).parent
SERVER_POINTS = ("received", "synced", "committed, done")
"""All three lie between the receipt of a file and its STORED."""
AGENT_POINTS = ("sealed, done", "offered, done", "stored")
PATIENCE_S = 20.0


@dataclass
class Camera(threading.Thread):
    """Writes frames as camera software does, and keeps the truth to itself."""

    folder: Path
    seed: int
    ordered: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    """How many frames to take next; 0 ends the day."""
    truth: dict[str, str] = field(default_factory=dict)
    """sha256 by source key."""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        rng = random.Random(self.seed)
        slow: list[threading.Timer] = []
        for number in self._orders():
            name = f"run {number // 250}/frame_{number:04}.tif"
            content = _frame(rng)
            self.truth[f"acquisitions/{name}"] = hashlib.sha256(content).hexdigest()
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            way = rng.random()
            if way < 0.3:
                draft = path.with_suffix(".tmp")
                draft.write_bytes(content)
                draft.rename(path)
            elif way < 0.6:
                cut = rng.randrange(1, len(content))
                path.write_bytes(content[:cut])
                rest = threading.Timer(
                    rng.uniform(0.3, 2), _append, [path, content[cut:]]
                )
                rest.start()
                slow.append(rest)
            else:
                path.write_bytes(content)
                if way > 0.9:
                    path.touch()
            time.sleep(0.02)
        for rest in slow:
            rest.join()

    def _orders(self) -> Iterator[int]:
        number = 0
        while count := self.ordered.get():
            yield from range(number, number + count)
            number += count

    def __hash__(self) -> int:
        return id(self)


def _frame(rng: random.Random) -> bytes:
    pixels = np.frombuffer(rng.randbytes(64 * 64), np.uint8).reshape(64, 64)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels)
    return buffer.getvalue()


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


class Program:
    """One of the two programs: started, killed, started again."""

    def __init__(self, script: str, arguments: list[str], diary: Path) -> None:
        self._script = script
        self._arguments = [*arguments, "--diary", str(diary)]
        self._log = diary.with_suffix(".log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.plan = ""

    def start(self, plan: str = "") -> None:
        """Start, to die by itself at `plan` ("point:n"), or never."""
        self.plan = plan
        command = [sys.executable, str(HERE / self._script), *self._arguments]
        self.process = subprocess.Popen(
            [*command, "--die", plan], stdout=self._log, stderr=subprocess.STDOUT
        )

    def has_died(self) -> bool:
        assert self.process
        code = self.process.poll()
        assert code in (None, -signal.SIGKILL), (
            f"it ended by itself, see {self._log.name}"
        )
        return code is not None

    def kill(self) -> str:
        """End the process without a word; return how it really ended."""
        assert self.process
        if self.has_died():
            return self.plan.partition(":")[0]
        self.process.kill()
        self.process.wait()
        return "at random"

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


class Chaos:
    """A site under attack."""

    def __init__(self, home: Path, *, seed: int, plant: str = "") -> None:
        self.home = home
        self.rng = random.Random(seed)
        self.diary = home / "server.diary"
        self.agent_diary = home / "agent.diary"
        self.killed: Counter[str] = Counter()
        watched = home / "acquisitions"
        watched.mkdir()
        self.camera = Camera(watched, seed)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        with Store(home / "server") as store:
            enrol_locally(store, home / "identity.json", server_url=url)
        on_server = plant in ("stored_before_commit", "no_unique_key")
        planted = ["--plant", plant] if plant else []
        self.server = Program(
            "server_program.py",
            [str(home / "server"), "--bind", url, *(planted if on_server else [])],
            self.diary,
        )
        files = ("--watch", watched, "--journal", home / "journal.db")
        self.agent = Program(
            "agent_program.py",
            [
                *map(str, (*files, "--identity", home / "identity.json")),
                *([] if on_server else planted),
            ],
            self.agent_diary,
        )

    def __enter__(self) -> "Chaos":
        self.server.start()
        self.agent.start()
        self.camera.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.camera.ordered.put(0)
        self.agent.close()
        self.server.close()
        self.camera.join()

    def rage(self, kills: int, *, frames: int, aimed: float) -> None:
        """Take `frames` frames, and kill so often meanwhile.

        A share `aimed` of the kills comes at a crash point, all points in turn.
        """
        points = {"server": cycle(SERVER_POINTS), "agent": cycle(AGENT_POINTS)}
        programs = {"server": self.server, "agent": self.agent}
        for turn in range(kills):
            name = ("server", "agent")[turn % 2]
            self.camera.ordered.put(frames // kills)
            if programs[name].plan:
                self._wait_for_death(programs[name])
            else:
                time.sleep(self.rng.uniform(0.2, 1.5))
            self.killed[f"{name} {programs[name].kill()}"] += 1
            is_aimed = turn < kills - 2 and self.rng.random() < aimed
            programs[name].start(f"{next(points[name])}:1" if is_aimed else "")
        self.camera.ordered.put(frames - frames // kills * kills)

    def _wait_for_death(self, program: Program) -> None:
        """Wait until a program meets its plan; the other one must live for that."""
        other = self.agent if program is self.server else self.server
        end = time.monotonic() + PATIENCE_S
        while not program.has_died() and time.monotonic() < end:
            if other.has_died():
                name = "agent" if other is self.agent else "server"
                self.killed[f"{name} {other.kill()}"] += 1
                other.start()
            time.sleep(0.05)

    def between_receipt_and_stored(self) -> int:
        return sum(self.killed[f"server {point}"] for point in SERVER_POINTS)

    def settle(self, limit_s: float) -> None:
        """Let everything drain, undisturbed."""
        self.camera.ordered.put(0)
        self.camera.join()
        end = time.monotonic() + limit_s
        while self._waiting() and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(1.0)  # a file more would come within a second

    def _waiting(self) -> int:
        query = "SELECT count(*), coalesce(sum(state <> 'stored'), 0) FROM files"
        found = sum(1 for _ in self.camera.folder.rglob("*.tif"))
        try:
            ((known, waiting),) = self._ask("journal.db", query)
        except sqlite3.Error:
            return 1
        return waiting + abs(found - known)

    def faults(self) -> list[str]:
        """Compare what the server has with the truth; empty when the promise held."""
        rows = self._ask(
            "server/emcopilot.db",
            "SELECT source_key, sha256, rev FROM files WHERE superseded_by IS NULL",
        )
        truth = self.camera.truth
        stored = {key: sha256 for key, sha256, _ in rows}
        faults = [f"lost {key}" for key in truth.keys() - stored.keys()]
        faults += [f"invented {key}" for key in stored.keys() - truth.keys()]
        faults += [
            f"{count} times {key}"
            for key, count in Counter(key for key, _, _ in rows).items()
            if count > 1
        ]
        faults += [f"torn {k}" for k in truth.keys() & stored if truth[k] != stored[k]]
        # No frame was overwritten here: a second revision was sealed before its time.
        torn = self._ask(
            "server/emcopilot.db", "SELECT source_key FROM files WHERE rev > 1"
        )
        faults += [f"sealed too soon {key}" for (key,) in torn]
        for (sha256,) in self._ask("server/emcopilot.db", "SELECT sha256 FROM files"):
            blob = self.home / "server/blobs" / sha256[:2] / sha256[2:4] / sha256
            if not blob.exists():
                faults.append(f"no bytes for {sha256}")
            elif hashlib.sha256(blob.read_bytes()).hexdigest() != sha256:
                faults.append(f"damaged {sha256}")
        (counts,) = self._ask(
            "server/emcopilot.db",
            "SELECT count(*), count(DISTINCT file_id) FROM frames",
        )
        if counts != (len(truth), len(truth)):
            faults.append(f"{counts} frames and files of frames for {len(truth)}")
        return faults

    def _ask(self, database: str, query: str) -> list[tuple[object, ...]]:
        path = self.home / database
        with closing(
            sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        ) as db:
            return db.execute(query).fetchall()


def verify(home: Path) -> None:
    """Let the command that we give to users say PASS, too."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "emcopilot.cli",
            "verify",
            "--data-dir",
            home / "server",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(240)
def test_a_few_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    with Chaos(tmp_path, seed=1) as chaos:
        chaos.rage(6, frames=60, aimed=1.0)
        chaos.settle(60)
    print(dict(chaos.killed))
    assert chaos.faults() == []
    verify(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_fifty_kills_during_a_thousand_frames(tmp_path: Path) -> None:
    with Chaos(tmp_path, seed=2) as chaos:
        chaos.rage(50, frames=1000, aimed=0.6)
        chaos.settle(300)
    print(dict(chaos.killed))
    assert sum(chaos.killed.values()) >= 50
    assert chaos.between_receipt_and_stored() >= 10
    assert len(chaos.camera.truth) == 1000
    assert chaos.faults() == []
    verify(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("plant", "sign"),
    [
        ("stored_before_commit", "lost"),
        ("no_unique_key", "times"),
        ("no_completeness_check", "sealed too soon"),
    ],
)
def test_a_planted_bug_is_caught(tmp_path: Path, plant: str, sign: str) -> None:
    with Chaos(tmp_path, seed=3, plant=plant) as chaos:
        chaos.rage(12, frames=120, aimed=1.0)
        chaos.settle(60)
    faults = chaos.faults()
    print(dict(chaos.killed), len(faults), faults[:3])
    assert any(sign in fault for fault in faults)
