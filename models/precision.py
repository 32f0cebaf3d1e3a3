"""In which precision networks compute: 16 bits only where the processor has instructions for it.

Others emulate bfloat16: PyTorch and oneDNN run it and call it supported on any processor with
AVX-512, where a training step then takes three times as long as in float32.
"""

from collections.abc import Mapping
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")
"""Instructions by PyTorch's names, of x86 and, last, of ARM."""


def is_mixed(device: torch.device, precision: Precision = "auto") -> bool:
    """Say whether networks compute in bfloat16; "auto" does where the hardware knows it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older releases of PyTorch do not list them, and float32 is never wrong.
    listed = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and knows_bfloat16(listed)


def knows_bfloat16(capabilities: Mapping[str, object]) -> bool:
    """Say whether a processor of these capabilities, by PyTorch's names, computes in bfloat16."""
    return any(capabilities.get(name) for name in _BFLOAT16)
