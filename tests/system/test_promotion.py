"""A whole server with real networks: promoted over REST, killed, started again, rolled back."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcopilot.client import Client
from gpu_server.registry import Registry
from gpu_server.store import Store
from gpu_server.tokens import Tokens

START_S = 400.0
"""Imports, a network and a decode worker, on a machine that does other work as well."""

SETTINGS = """
[ingest]
bind = "tcp://127.0.0.1:*"
enrol_bind = "tcp://127.0.0.1:*"
disk_reserve_bytes = 1
[http]
port = 0
[segment]
model = "{model}"
device = "cpu"
engine = "torch"
warm_px = 64
"""


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start the server; yield its process and address."""
    log = folder / f"server-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "gpu_server", "--config", str(folder / "s.toml")]
    with log.open("wb") as target:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")],
            stdout=target,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"ready page=(\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process, found[1]
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_was_promoted_is_live_after_a_kill_and_is_rolled_back(
    two_models: dict[str, Path], tmp_path: Path
) -> None:
    first, second = two_models
    (tmp_path / "s.toml").write_text(SETTINGS.format(model=two_models[first]))
    with Store(tmp_path / "data") as store:
        token = Tokens(store.database).create("test", "admin", who="test")
        registry = Registry(store)
        registry.open()
        registry.add(two_models[second], "adapted", "job 1", verdict="promote")
    frame = tmp_path / "frame.tif"
    noise = np.random.default_rng(1).integers(0, 999, (96, 96), np.uint16)
    tifffile.imwrite(frame, noise)

    def says(client: Client) -> str:
        return client.segment(str(frame))["model_id"]

    with served(tmp_path) as (process, url):
        client = Client(url, token, timeout_s=120)
        assert says(client) == first
        assert client.promote(second, reason="test")["replaced"] == first
        assert says(client) == second
        process.kill()
    with served(tmp_path) as (_, url):
        client = Client(url, token, timeout_s=180)  # ten times that for a self-test
        assert client.promotions()["live"] == says(client) == second
        assert client.rollback()["model_id"] == says(client) == first
        file = tmp_path / "second.zip"
        client.export_model(second, str(file))
        client.delete_model(second)
        assert client.import_model(str(file)) == {"model_id": second}
        assert client.model(second)["tested_at"] is not None
