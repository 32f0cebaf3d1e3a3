"""`emcopilot serve` as a process: it starts, says what is wrong, and stops when told."""

import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from emcopilot.errors import ConfigError
from gpu_server.__main__ import listen, main
from gpu_server.config import HttpSettings
from gpu_server.store import Store
from gpu_server.tokens import Tokens

SERVER = textwrap.dedent(
    """
    import sys
    import gpu_server.app
    from gpu_server.__main__ import main

    class NoNetwork:
        # Loading the real one takes longer than all that is tested here.
        model_id = device = "none"
        trouble = "there is no network"

        def __init__(self, _spec):
            pass

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_error):
            pass

    gpu_server.app.Segmenter = NoNetwork
    sys.exit(main(sys.argv[1:]))
    """
)
START_S = 90.0
"""Imports and a decode worker, on a machine that does other work as well."""


@dataclass
class Served:
    process: subprocess.Popen[bytes]
    port: int
    token: str
    data_dir: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=15)

    @property
    def credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    data_dir = tmp_path / "data"
    with Store(data_dir) as store:
        token = Tokens(store.database).create("test", "viewer", who="test")
    left_over = data_dir / "scratch" / "killed.part"
    left_over.parent.mkdir()
    left_over.touch()
    script, config = tmp_path / "server.py", tmp_path / "server.toml"
    script.write_text(SERVER)
    config.write_text(
        '[ingest]\nbind = "tcp://127.0.0.1:*"\nenrol_bind = "tcp://127.0.0.1:*"\n'
        "[http]\nport = 0\n"
    )
    log = tmp_path / "server.log"
    command = [sys.executable, str(script), "--config", str(config)]
    with log.open("wb") as target:
        process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)],
            stdout=target,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Served(process, _port(process, log), token, data_dir)
    finally:
        process.kill()
        process.wait(10)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_S
    while True:
        said = log.read_text(errors="replace")
        if found := re.search(r"ready page=http://127\.0\.0\.1:(\d+)", said):
            return int(found[1])
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


@pytest.mark.timeout(150)
def test_a_server_with_an_open_event_stream_stops_within_10_s(served: Served) -> None:
    known = served.credentials
    with served.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert client.get("/readyz", headers=wrong).status_code == 401
        ready = client.get("/readyz", headers=known)
        assert ready.status_code == 503
        assert "there is no network" in ready.text
        assert client.get("/metrics", headers=known).status_code == 200
        assert not list((served.data_dir / "scratch").iterdir())
        with client.stream("GET", "/api/v1/events", headers=known) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("id: ")
            asked = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            for _ in lines:  # it ends, instead of being cut
                pass
    served.process.wait(10)
    # uvicorn alone would wait 5 s for the stream, and then cut it.
    assert time.monotonic() - asked < 10
    assert served.process.returncode in (0, -signal.SIGTERM)


def test_a_taken_port_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        settings = HttpSettings(port=rival.getsockname()[1])
        with pytest.raises(ConfigError, match="choose another port with --port"):
            listen(settings)


def test_an_unknown_key_is_said_by_its_name(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("[http]\nprot = 1\n")
    with pytest.raises(ConfigError, match="prot"):
        main(["--config", str(config)])


def test_tokens_do_not_leave_this_machine_unencrypted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--insecure-http"):
        main(["--host", "0.0.0.0", "--data-dir", str(tmp_path)])
