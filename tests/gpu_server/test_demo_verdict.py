"""The demo's verdict passes on true masks, and fails for each thing it promises."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from emcopilot.simulate import Micrograph, demo_scene, render_micrograph
from emcopilot.truth import append_truth, frame_truth
from gpu_server.demo_verdict import judge


@dataclass
class Demo:
    """What a demo leaves: the server's rows, and what its microscope knows."""

    lab: object
    truth: Path
    shown: list[Micrograph]

    @property
    def database(self):
        return self.lab.store.database

    def process(self, number: int, wider_px: int = 0, name: str = "") -> None:
        """Let the server find the true mask of a frame, or a wider one."""
        mask = self.shown[number].labels > 0
        if wider_px:
            square = np.ones((2 * wider_px + 1, 2 * wider_px + 1), bool)
            mask = ndimage.binary_dilation(mask, square)
        counts = np.where(mask, 1000, 100).astype(np.uint16)
        counts[0, 0] = number  # no two files alike
        self.lab.deliver(counts, "acquisitions", name or f"frame_{number}.tif")
        self.lab.process(counts, self.shown[number].pixel_size_nm)


@pytest.fixture
def demo(lab, tmp_path: Path) -> Demo:
    scene = demo_scene("haadf", size=512)
    shown = [render_micrograph(scene, np.random.default_rng((2, n))) for n in range(2)]
    truth = tmp_path / "truth.jsonl"
    with truth.open("wb") as file:
        append_truth(
            file,
            [
                frame_truth(
                    one, file=f"frame_{n}.tif", page=0, frame=n, time_s=float(n)
                )
                for n, one in enumerate(shown)
            ],
        )
    return Demo(lab, truth, shown)


def test_true_masks_of_every_frame_pass(demo: Demo) -> None:
    for number in range(2):
        demo.process(number)
    verdict = judge(demo, 2)
    assert (verdict.stored, verdict.lost, verdict.duplicated) == (2, 0, 0)
    assert abs(verdict.mean_diameter_error_percent) < 1.0
    assert verdict.passed
    assert verdict.explain().lstrip().startswith("PASS")


def test_masks_two_pixels_too_large_all_round_fail(demo: Demo) -> None:
    for number in range(2):
        demo.process(number, wider_px=2)
    verdict = judge(demo, 2)
    assert verdict.stored == 2
    assert verdict.mean_diameter_error_percent > 3.0
    assert not verdict.passed


def test_a_lost_frame_fails(demo: Demo) -> None:
    demo.process(0)
    verdict = judge(demo, 2)
    assert (verdict.stored, verdict.lost) == (1, 1)
    assert not verdict.passed


def test_a_frame_that_is_stored_twice_fails(demo: Demo) -> None:
    demo.process(0)
    demo.process(1)
    demo.process(1, name="again/frame_1.tif")
    verdict = judge(demo, 2)
    assert (verdict.stored, verdict.duplicated) == (2, 1)
    assert not verdict.passed
