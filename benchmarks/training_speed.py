"""How fast a device trains NPsSegNet, and what it spends its time on.

    python benchmarks/training_speed.py --device cuda --batch 16 --tile-px 384

The tiles lie in memory, so that nothing waits for them; the memory formats that a network's layers
may take and the precisions, emulated or not, are measured in turn, in the same run. `--profile`
lists the dearest operations of each.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Literal

import torch
from machine import machine, spread, write_json
from torch.profiler import ProfilerActivity, profile

from models.npssegnet import NPSSEGNET
from models.precision import Precision, is_mixed
from models.train_settings import TrainSettings
from models.training import Run, device_name, learn, named_device

Device = Literal["auto", "cpu", "cuda"]
FORMATS = {
    "channels last": torch.channels_last,
    "channels first": torch.contiguous_format,
}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def made_run(
    device: Device, memory_format: torch.memory_format, precision: Precision
) -> Run:
    settings = TrainSettings(architecture=NPSSEGNET, device=device, precision=precision)
    run = Run(settings)
    run.network.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    return run


def random_batch(batch: int, tile_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(batch, 1, tile_px, tile_px, generator=generator)
    return tiles, (tiles[:, 0] > 1).long()


def seconds_a_step(run: Run, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    started = time.perf_counter()
    learn(run, *batch)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def dearest(run: Run, batch: tuple[torch.Tensor, torch.Tensor]) -> str:
    on_gpu = run.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as seen:
        for _ in range(3):
            learn(run, *batch)
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = named_device(options.device)
    chosen = "bfloat16" if is_mixed(device) else "float32"
    print(f"NPsSegNet on {device_name(device)}; {machine()}; would train in {chosen}")
    batch = random_batch(options.batch, options.tile_px)
    runs = {
        f"{name}, {precision}": made_run(options.device, kind, precision)
        for name, kind in FORMATS.items()
        for precision in PRECISIONS
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(options.steps + 3):
        for name, run in runs.items():  # in turn: a noisy machine disturbs both alike
            took = seconds_a_step(run, batch)
            if step >= 3:
                seconds[name].append(took)
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"{name:24} {middle:.3f} s a step ({min(values):.3f} to {max(values):.3f}, "
            f"n={len(values)}), {options.batch / middle:.1f} tiles/s"
        )
    if options.profile:
        for name, run in runs.items():
            print(name, dearest(run, batch), sep="\n")
    figures = {name: spread(values) for name, values in seconds.items()}
    write_json(options.json, {"machine": machine(), "seconds_a_step": figures})


if __name__ == "__main__":
    main()
