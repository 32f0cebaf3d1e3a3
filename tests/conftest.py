"""What several test folders share: one running installation, and the real micrographs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_server.demo_programs import DemoPrograms


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real micrographs that EMCOPILOT_DATA names."""
    folder = os.environ.get("EMCOPILOT_DATA")
    if not folder:
        pytest.skip(
            "set EMCOPILOT_DATA to the folder of real micrographs to run this test"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPrograms]:
    """Server and agent as on site, watching a folder; started once for all tests that need it."""
    folder = tmp_path_factory.mktemp("installation")
    with DemoPrograms(folder, port=0) as programs:
        yield programs


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium; Playwright brings no browser of its own here."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip(
            "install Chromium (on Debian: apt-get install chromium) to run browser tests"
        )
    return path
