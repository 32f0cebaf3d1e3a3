"""What several test folders share: one running installation, and the real micrographs."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gpu_server.demo_programs import DemoPrograms


def _beside(name: str) -> ModuleType:
    """Load a file of fixtures beside this one; test folders are no packages."""
    spec = importlib.util.spec_from_file_location(
        name, Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_paper_models = _beside("paper_models")
two_models, papers = _paper_models.two_models, _paper_models.papers
paper_children, judge = _paper_models.paper_children, _paper_models.judge
rest_host = _beside("rest_host").rest_host
model_site = _beside("model_site").model_site
_rest_lab = _beside("rest_lab")
empty_database, lab, rest = _rest_lab.empty_database, _rest_lab.lab, _rest_lab.rest


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
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights: for tests of the way there and back, not of the answer."""
    import torch  # not every test run needs it, and it takes seconds

    from models import checkpoint
    from models.npssegnet import NPSSEGNET, build

    torch.manual_seed(3)
    directory = tmp_path_factory.mktemp("model")
    checkpoint.save(
        directory,
        build(NPSSEGNET),
        name="test",
        architecture=NPSSEGNET,
        data={},
        training={},
    )
    return directory


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
