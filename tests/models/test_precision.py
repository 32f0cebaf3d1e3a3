"""Networks compute in 16 bits where that is fast, and nowhere else."""

import numpy as np
import pytest
import torch
from torch import nn

from models.look import raw_look
from models.npssegnet import torch_run
from models.precision import is_mixed, knows_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        # A Xeon of 2019: oneDNN calls bfloat16 supported, and emulates it.
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, False),
        ({"avx2": True, "fma3": True}, False),
        ({}, False),
    ],
)
def test_emulated_bfloat16_is_not_taken(
    capabilities: dict[str, bool], *, expected: bool
) -> None:
    assert knows_bfloat16(capabilities) is expected


def test_what_is_asked_for_outweighs_what_is_fast() -> None:
    assert is_mixed(CPU, "bfloat16")
    assert not is_mixed(CPU, "float32")


def test_the_processor_decides_where_nothing_is_asked_for() -> None:
    assert is_mixed(CPU) is knows_bfloat16(torch.cpu.get_capabilities())


class Probe(nn.Module):
    """Notes whether it is run in 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.was_mixed: bool | None = None

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        self.was_mixed = torch.is_autocast_enabled("cpu")
        return self.weight[None, :, None, None] * frames


def test_a_network_is_run_as_its_processor_computes() -> None:
    probe = Probe()
    torch_run(probe)(np.zeros((1, 1, 32, 32), np.float32))
    assert probe.was_mixed is is_mixed(CPU)


def test_frames_are_looked_at_as_their_processor_computes() -> None:
    probe = Probe()
    pixels = np.random.default_rng(0).poisson(30, (64, 64))
    raw_look(pixels.astype(np.uint16), probe, "cpu")
    assert probe.was_mixed is is_mixed(CPU)


def test_a_torch_that_cannot_tell_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not is_mixed(CPU)
