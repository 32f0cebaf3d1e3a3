"""A job in the background: bounded memory."""

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

BOUNDED = """
import sys
import torch
from models.background import bound_memory
from models.training import is_out_of_memory
if "beside" in sys.argv:
    torch.cuda.is_available = lambda: True
    torch.cuda.set_per_process_memory_fraction = lambda share: None
bound_memory(256 * 2**20, device=torch.device("cpu"))
fits = torch.zeros(16 * 2**20)
try:
    torch.zeros(256 * 2**20)
except RuntimeError as error:
    print("cut" if is_out_of_memory(error) else error)
"""


@linux
@pytest.mark.parametrize("place", ["without a GPU", "beside a GPU"])
def test_memory_beyond_the_bound_reads_as_out_of_memory_and_less_is_had(
    place: str,
) -> None:
    command = [sys.executable, "-c", BOUNDED, *place.split()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "cut", run.stderr
