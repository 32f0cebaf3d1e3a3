"""The 0.5 contour is put on the true edge by one number."""

import numpy as np
import pytest
import torch

from models.datasets import LabelledFrame
from models.edges import area_ratios, edge_offset, shift_decision
from models.npssegnet import build


class Ramp(torch.nn.Module):
    """A network whose particle logit leads by its input plus a constant: a known rim."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1))
            self.head.bias.copy_(torch.tensor([-lead / 2, lead / 2]))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(frames)


def cone(side: int = 96, radius: float = 25.0) -> LabelledFrame:
    y, x = np.ogrid[:side, :side]
    distance_px = radius - np.hypot(y - side / 2 + 0.5, x - side / 2 + 0.5)
    return LabelledFrame("cone", distance_px.astype(np.float16), distance_px > 0)


def test_a_rim_is_measured_and_taken_away() -> None:
    network = Ramp(lead=2.0).eval()
    offset = edge_offset(network, [cone(), cone(radius=15), cone(radius=35)])
    # bfloat16 logits near 2 have steps of 1/64; the search has steps of 0.05.
    assert offset == pytest.approx(2.0, abs=0.15)
    shift_decision(network, offset)
    assert edge_offset(network, [cone()]) == pytest.approx(0.0, abs=0.15)


def test_areas_fall_as_the_offset_grows() -> None:
    frame = cone()
    ratios = area_ratios(frame.pixels.astype(np.float32), frame.mask)
    assert (np.diff(ratios) <= 0).all()
    assert ratios.min() > 0


def test_frames_without_particles_decide_nothing() -> None:
    empty = LabelledFrame(
        "empty", np.zeros((32, 32), np.float16), np.zeros((32, 32), bool)
    )
    assert edge_offset(Ramp(lead=2.0).eval(), [empty]) == 0.0


def test_the_shift_moves_the_lead_and_nothing_else() -> None:
    network = build().eval()
    frame = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        before = network(frame)
    shift_decision(network, 0.8)
    with torch.inference_mode():
        after = network(frame)
    change = (after - before).mean(dim=(0, 2, 3))
    torch.testing.assert_close(change, torch.tensor([0.4, -0.4]), atol=1e-4, rtol=0)
