"""The microscope PC has the agent and the client, and none of the server's packages.

A process in which those packages cannot be imported stands in for such an installation.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETTINGS = PYPROJECT["project"]
IMPORTED_AS = {
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "python-multipart": "multipart",
    "rosettasciio": "rsciio",
    "scikit-image": "skimage",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
}
"""Packages whose name to import is not the one to install."""
WITHOUT_SERVER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"no module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def installed_names(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[<>=~!; ]", line, maxsplit=1)[0] for line in requirements}
    return {IMPORTED_AS.get(name, name) for name in names}


SERVER_ONLY = installed_names(SETTINGS["optional-dependencies"]["server"])


def run_light(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as on the microscope PC."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_SERVER.format(absent=SERVER_ONLY) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def emcopilot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_light(
        f"import emcopilot.cli as c; sys.exit(c.main({list(arguments)!r}))"
    )


def test_the_base_asks_for_three_light_packages() -> None:
    base = installed_names(SETTINGS["dependencies"])
    assert base == {"pydantic", "pyzmq", "watchdog"}
    assert {"numpy", "torch", "fastapi", "sqlalchemy"} <= SERVER_ONLY


@pytest.mark.parametrize("package", ["gpu_server", "models"])
def test_what_is_no_python_is_installed_too(package: str) -> None:
    # An editable installation finds weights and page in the checkout; a real one has only
    # what the patterns name.
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"][package]
    named = {path for pattern in patterns for path in (ROOT / package).glob(pattern)}
    code_or_docs = {".py", ".pyc", ".md", ".png"}
    needed = {
        path
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in code_or_docs
    }
    assert needed
    assert needed <= named


def test_the_stand_in_really_lacks_what_it_should() -> None:
    result = run_light("import numpy")
    assert "no module named 'numpy'" in result.stderr


@pytest.mark.parametrize("command", ["agent", "enroll"])
def test_the_agents_commands_need_no_more(command: str) -> None:
    result = emcopilot(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"usage: emcopilot {command}" in result.stdout


def test_the_overview_and_the_client_need_no_more() -> None:
    assert "agent" in emcopilot("--help").stdout
    result = run_light("from emcopilot.client import Client; print(Client().url)")
    assert result.stdout.strip() == "http://127.0.0.1:8765", result.stderr


@pytest.mark.parametrize("command", ["serve", "segment", "inspect", "verify"])
def test_a_command_of_the_server_says_what_to_install(command: str) -> None:
    result = emcopilot(command, "--help")
    assert result.returncode == 1
    assert "pip install '.[server]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_agent_starts_up_to_asking_for_its_key(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    result = emcopilot(
        "agent",
        f"--watch={tmp_path / 'frames'}",
        f"--journal={tmp_path / 'journal.db'}",
        f"--identity={tmp_path / 'nobody.json'}",
    )
    # It came as far as asking for its key: everything it needs was imported.
    assert result.returncode == 1
    assert "emcopilot enroll" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
