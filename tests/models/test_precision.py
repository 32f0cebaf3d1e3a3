"""Networks compute in 16 bits where that is fast, and nowhere else."""

import pytest
import torch

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


def test_a_torch_that_cannot_tell_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not is_mixed(CPU)
