"""The demo as a newcomer runs it, and the proof that its verdict can be FAIL."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emcopilot.errors import ConfigError, EMcopilotError
from emcopilot.virtual_microscope import acquire
from gpu_server import demo_programs
from gpu_server.demo import Pace
from gpu_server.demo_programs import DemoPrograms
from gpu_server.demo_verdict import judge

pytestmark = pytest.mark.timeout(400)

FRAMES = 4
SIZE = 512


@pytest.fixture(scope="module")
def demo() -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "emcopilot.cli",
        "demo",
        "--headless",
        "--port",
        "0",
    ]
    return subprocess.run(
        [*command, "--frames", str(FRAMES), "--size", str(SIZE)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_passes_and_ends_with_one_line_of_figures(
    demo: subprocess.CompletedProcess[str],
) -> None:
    assert demo.returncode == 0, demo.stderr
    figures = json.loads(demo.stdout.strip().splitlines()[-1])
    assert (figures["frames"], figures["stored"]) == (FRAMES, FRAMES)
    assert (figures["lost"], figures["duplicated"]) == (0, 0)
    assert abs(figures["mean_diameter_error_percent"]) <= 3.0
    assert figures["latency_p50_s"] > 0


def test_a_disk_without_room_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_programs, "DISK_NEEDED_BYTES", 2**60)
    with (
        pytest.raises(ConfigError, match=r"MiB free, \d+ MiB are needed: free some"),
        DemoPrograms(tmp_path, port=0),
    ):
        pass


def test_when_frames_do_not_come_the_programs_own_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_programs, "DISK_RESERVE_BYTES", 2**60)
    monkeypatch.setattr(demo_programs, "FRAME_TIMEOUT_S", 20.0)
    with DemoPrograms(tmp_path, port=0) as programs:
        acquire(programs.watched, frames=1, size=256, seed=1, truth_path=programs.truth)
        with pytest.raises(EMcopilotError, match="the server's disk is full"):
            programs.wait_until_done(1)


# What the verdict is made of fails in test_demo_verdict.py, without a network.
@pytest.mark.slow
def test_masks_two_pixels_too_large_fail_the_demo(tmp_path: Path) -> None:
    server = [str(Path(__file__).with_name("dilated_server.py"))]
    with DemoPrograms(tmp_path, port=0, server=server) as programs:
        acquire(
            programs.watched,
            frames=2,
            size=SIZE,
            seed=2026,
            truth_path=programs.truth,
            wait=Pace(programs),
        )
        verdict = judge(programs, 2)
    assert verdict.stored == 2
    assert verdict.mean_diameter_error_percent > 3.0
    assert not verdict.passed
