"""A job that runs out of memory fails with a remedy; what else goes wrong keeps its traceback."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from emcopilot.errors import AdaptationError
from models import checkpoint
from models.adapt_command import memory_sufficing
from models.npssegnet import Architecture, build

SMALL = Architecture(encoder="mobilenet_v2")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 2.00 GiB"),
        MemoryError("Unable to allocate 2.00 GiB for an array"),
        RuntimeError("Caught in worker\n  File\nCPUAllocator: not 2.00 GiB\n"),
    ],
)
def test_memory_that_does_not_suffice_is_said_with_what_to_do(error: Exception) -> None:
    with (
        pytest.raises(
            AdaptationError, match=r"2\.00 GiB.*fewer or smaller frames.*preset.*free"
        ),
        memory_sufficing(),
    ):
        raise error


def test_memory_errors_without_a_word_have_a_remedy_too() -> None:
    with pytest.raises(AdaptationError, match="fewer or smaller"), memory_sufficing():
        raise MemoryError


def test_another_error_of_torch_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="sizes differ"), memory_sufficing():
        raise RuntimeError("sizes differ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_rough_masks_that_memory_does_not_hold_fail_the_job(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    (tmp_path / "frames").mkdir()
    for number in range(7):
        pixels = rng.normal(100, 5, (2048, 2048)).astype(np.float32)
        tifffile.imwrite(tmp_path / "frames" / f"frame{number}.tif", pixels)
    model = tmp_path / "model"
    checkpoint.save(
        model, build(SMALL), name="small", architecture=SMALL, data={}, training={}
    )
    (tmp_path / "job.toml").write_text(
        'frames = "frames"\nout = "out"\nmodel = "model"\npreset = "quick"\ndevice = "cpu"\n'
    )
    options = ["--background", "--priority", "normal", "--threads", "1"]
    bound = ["--memory-bytes", str(64 * 2**20)]
    run = subprocess.run(
        [sys.executable, "-m", "models.adapt", "job.toml", *options, *bound],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr[-2000:]
    answer = json.loads(run.stdout)
    assert answer["state"] == "failed"
    assert "out of memory" in answer["reason"]
    assert "fewer or smaller frames" in answer["reason"]
