"""The demo's programs: the server and the agent as processes, in one folder of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import sqlalchemy as sa

from emcopilot.errors import ConfigError, EMcopilotError
from gpu_server.accounts import queue_account
from gpu_server.database import Database
from gpu_server.enrol_desk import enrol_locally
from gpu_server.store import Store
from gpu_server.tables import LEASED, PROCESSED, QUARANTINED, QUEUED
from gpu_server.tables import files as files_table
from gpu_server.tokens import Tokens

START_TIMEOUT_S = 300.0
FRAME_TIMEOUT_S = 120.0
DISK_RESERVE_BYTES = 2**27
"""The server leaves so much of the disk free; on site it is more, but the demo has few frames."""
DISK_NEEDED_BYTES = DISK_RESERVE_BYTES + 2**26
_LOOK_S = 0.05


class DemoPrograms:
    """Starts both programs on entry, ends them on exit; everything lies in `folder`.

    Parameters
    ----------
    folder : Path
    port : int
        Of REST and page; 0 takes any that is free.
    server : sequence of str
        What Python runs as the server.
    settings : str
        TOML tables that are added to the server's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        server: Sequence[str] = ("-m", "gpu_server"),
        settings: str = "",
    ) -> None:
        self.folder = folder
        self._server, self._settings = server, settings
        self.watched = folder / "acquisitions"
        self.truth = folder / "truth.jsonl"
        self.data_dir = folder / "server"
        self._port = port
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Self:
        """Start server and agent, and wait until frames can flow.

        Raises
        ------
        ConfigError
            If the disk has no room for frames, or a program ends instead of starting; the message
            holds its last words.
        """
        self._require_space()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.database.close()
        self._stop()

    @property
    def url(self) -> str:
        """Where REST and page are served."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def server_pid(self) -> int:
        """Process id of the server."""
        return self._running[0][0].pid

    def login_url(self) -> str:
        """Return an address that opens the page once, without typing a token."""
        code = Tokens(self.database).new_login_code("admin", name="demo")
        return f"{self.url}/login?code={code}"

    def done(self) -> tuple[int, int]:
        """Return how many frames are processed and how many are quarantined."""
        with self.database.read() as connection:
            states = queue_account(connection).states
        return states[PROCESSED], states[QUARANTINED]

    def wait_until_done(self, frames: int) -> None:
        """Wait until `frames` frames have ended one way or the other.

        Raises
        ------
        EMcopilotError
            If nothing moves for two minutes, or a program has ended.
        """
        moved, before = time.monotonic(), -1
        while (now := sum(self.done())) < frames:
            self._check_alive()
            if now != before:
                moved, before = time.monotonic(), now
            if time.monotonic() - moved > FRAME_TIMEOUT_S:
                raise EMcopilotError(
                    f"no frame was finished for {FRAME_TIMEOUT_S:.0f} s: {now} of {frames} are "
                    f"done; see server.log and agent.log in {self.folder}, which end with\n"
                    + "\n".join(_last_words(log) for _, log in self._running)
                )
            time.sleep(
                _LOOK_S
            )  # the programs are other processes: only their rows tell

    def wait_until_stored(self, files: int) -> None:
        """Wait until the server holds `files` files and every frame of them has ended.

        Raises
        ------
        EMcopilotError
            As `wait_until_done`.
        """
        while True:
            with self.database.read() as connection:
                stored = connection.execute(
                    sa.select(sa.func.count()).select_from(files_table)
                )
                arrived = stored.scalar_one() >= files
                states = queue_account(connection).states
            done = states[PROCESSED] + states[QUARANTINED]
            waiting = states[QUEUED] + states[LEASED]
            if arrived and not waiting:
                return
            self.wait_until_done(done + 1)

    def _require_space(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < DISK_NEEDED_BYTES:
            raise ConfigError(
                f"{self.folder} has {free >> 20} MiB free, {DISK_NEEDED_BYTES >> 20} MiB are "
                "needed: free some, or choose a folder on another disk"
            )

    def _start(self) -> None:
        self.watched.mkdir(parents=True, exist_ok=True)
        self._port = _free_port(self._port)
        ingest, enrol = _free_port(0), _free_port(0)
        identity = self.folder / "identity.json"
        with Store(self.data_dir) as store:
            enrol_locally(
                store,
                identity,
                server_url=f"tcp://127.0.0.1:{ingest}",
                name="virtual microscope",
            )
        config = self.folder / "server.toml"
        config.write_text(
            _server_toml(self.data_dir, self._port, ingest, enrol) + self._settings,
            encoding="utf-8",
        )
        self._launch("server", *self._server, "--config", str(config))
        self.database = Database(self.data_dir, must_exist=True)
        self._wait_for_server()
        agent = [
            "--watch",
            str(self.watched),
            "--journal",
            str(self.folder / "journal.db"),
        ]
        self._launch(
            "agent", "-m", "acquisition_agent", *agent, "--identity", str(identity)
        )

    def _launch(self, name: str, *arguments: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            # The parent's Ctrl-C must not reach them first: they are stopped in order.
            start_new_session=os.name == "posix",
        )
        self._running.append((process, log))

    def _wait_for_server(self) -> None:
        """Wait for the port: it answers once the network is loaded and warm."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            self._check_alive()
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the server is not ready after {START_TIMEOUT_S:.0f} s"
                )
            time.sleep(0.2)

    def _answers(self) -> bool:
        request = (
            f"GET /api/v1/healthz HTTP/1.0\r\nHost: 127.0.0.1:{self._port}\r\n\r\n"
        )
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1.0) as connection:
                connection.sendall(request.encode())
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def _check_alive(self) -> None:
        for process, log in self._running:
            if process.poll() is not None:
                raise ConfigError(
                    f"{Path(log.name).stem} ended ({process.returncode}):\n{_last_words(log)}"
                )

    def _stop(self) -> None:
        for process, _ in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process, log in reversed(self._running):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            log.close()


def _last_words(log: IO[bytes]) -> str:
    """Return a program's last log lines."""
    words = Path(log.name).read_text(encoding="utf-8", errors="replace")
    return "\n".join(words.splitlines()[-8:])


def _free_port(wanted: int) -> int:
    """Return `wanted` if it is free, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError("no free TCP port on 127.0.0.1")


def _server_toml(data_dir: Path, port: int, ingest: int, enrol: int) -> str:
    return f"""\
data_dir = '{data_dir}'

[http]
port = {port}

[ingest]
bind = "tcp://127.0.0.1:{ingest}"
enrol_bind = "tcp://127.0.0.1:{enrol}"
disk_reserve_bytes = {DISK_RESERVE_BYTES}
"""
