"""The example script stops when the mean is known, and only then."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from emcopilot.client import Client

SCRIPT = Path(__file__).parents[2] / "deploy" / "scripts" / "acquire_until_known.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("acquire_until_known", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_source_is_python_3_8() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 8))


def test_it_stops_with_the_frame_that_decides(rest, script, capsys) -> None:
    taken: list[int] = []

    def acquire(number: int) -> None:
        taken.append(number)
        # Sizes spread by 8 %: 2 % of the mean needs about 60 particles, 24 come a frame.
        rest.add([18, 20, 22] * 8, pixel_size_nm=0.5, shape=(512, 512))

    answer = script.acquire_until_known(
        Client(rest.url, rest.viewer), "run1", acquire, max_frames=20, patience_s=0.2
    )
    assert answer["known"] is True
    assert answer["mean_diameter"] == pytest.approx(10.0, rel=0.02)
    assert 2 <= len(taken) <= 5
    assert answer["counted"] == 24 * len(
        taken
    )  # it stopped with the frame that decided
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(taken)
    assert "more needed" in said[0]
    assert "nm" in said[-1]


def test_it_gives_up_after_the_frames_it_may_take(rest, script, capsys) -> None:
    taken: list[int] = []

    def acquire(number: int) -> None:
        taken.append(number)
        rest.add([] if number == 1 else [10, 30])

    answer = script.acquire_until_known(
        Client(rest.url, rest.viewer), "run1", acquire, max_frames=3, patience_s=0.1
    )
    assert answer["known"] is False
    assert taken == [1, 2, 3]
    assert "no particle counted yet" in capsys.readouterr().out


def test_the_command_line_takes_frames_and_tells_why_it_stops(
    rest, script, tmp_path, monkeypatch, capsys
) -> None:
    rest.add([20] * 40, pixel_size_nm=1.0, shape=(512, 512))
    snap = tmp_path / "snap.py"
    snap.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).touch()")
    target = tmp_path / "frame_{number}.tif"
    arguments = ["--session", "run1", "--patience-s", "5", "--server"]
    command = ["--acquire", f"{sys.executable} {snap} {target}"]
    monkeypatch.setenv("EMCOPILOT_TOKEN", rest.viewer)
    assert script.main([*arguments, rest.url, *command]) == 0
    assert (tmp_path / "frame_1.tif").exists()
    assert not (tmp_path / "frame_2.tif").exists()
    assert script.main([*arguments, "http://127.0.0.1:9", *command]) == 1
    assert "no EMcopilot server" in capsys.readouterr().err
