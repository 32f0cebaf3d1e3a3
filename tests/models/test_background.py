"""A job in the background: bounded memory."""

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

BOUNDED = """
import torch
from models.background import bound_memory
from models.training import is_out_of_memory
bound_memory(256 * 2**20)
fits = torch.zeros(16 * 2**20)
try:
    torch.zeros(256 * 2**20)
except RuntimeError as error:
    print("cut" if is_out_of_memory(error) else error)
"""


@linux
def test_memory_beyond_the_bound_reads_as_out_of_memory_and_less_is_had() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "cut", run.stderr
