"""Engines side by side in one run: speed, and whether they give the same masks.

The engines take turns frame by frame, so that a noisy machine disturbs all of them alike. Frames
are looked at once, at native magnification.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine, spread, write_json
from numpy.typing import NDArray

from emcopilot.simulate import demo_scene, render_micrograph
from gpu_server.engines import Engine
from gpu_server.engines.torch_engine import TorchCpuEngine, TorchCudaEngine
from models.checkpoint import load
from models.predict import predict
from models.scales import NATIVE
from models.tiling import Tiling

Pixels = NDArray[np.generic]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--model", default="base")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    net, card = load(options.model)
    engines = _engines(net)
    frames = simulated_frames(options.frames, options.size)
    print(f"{card.model_id} on {machine()}; {len(frames)} frames {options.size} px")
    figures = compare(engines, frames)
    figures["tiled_iou"] = tiled_agreement(engines["fast"])
    _report(engines, figures)
    write_json(options.json, {"machine": machine(), **figures})


def _engines(net: torch.nn.Module) -> dict[str, Engine]:
    """Return the reference and the fast engine; on a GPU, the CPU's reference beside them."""
    reference = TorchCpuEngine(copy.deepcopy(net))
    if torch.cuda.is_available():
        gpu = _CudaFp32(copy.deepcopy(net))
        return {"fp32": gpu, "fast": TorchCudaEngine(net), "cpu": reference}
    # A GPU server may leave OpenVINO out.
    from gpu_server.engines.openvino_engine import OpenVinoEngine

    return {"fp32": reference, "fast": OpenVinoEngine(net)}


class _CudaFp32:
    """The reference on a GPU: the same network in fp32, uncompiled."""

    batch = 1
    device = "cuda fp32"

    def __init__(self, net: torch.nn.Module) -> None:
        self._net = net.eval().float().cuda()

    def run(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self._net(torch.from_numpy(np.ascontiguousarray(tiles)).cuda())
            return logits.softmax(1)[:, 1].cpu().numpy()


def simulated_frames(count: int, size: int) -> list[Pixels]:
    """HAADF and BF in turn, from the scenes that no training saw."""
    return [
        render_micrograph(
            demo_scene("haadf" if i % 2 else "bf", size=size),
            np.random.default_rng(9000 + i),
        ).pixels
        for i in range(count)
    ]


def compare(engines: dict[str, Engine], frames: list[Pixels]) -> dict[str, object]:
    for engine in engines.values():  # compile and warm up outside the clock
        predict(frames[0], engine.run, scales=NATIVE)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    overlaps: dict[str, list[float]] = {name: [] for name in engines if name != "fast"}
    for pixels in frames:
        masks: dict[str, NDArray[np.bool_]] = {}
        for name, engine in engines.items():
            started = time.perf_counter()
            masks[name] = predict(pixels, engine.run, scales=NATIVE) >= 128
            seconds[name].append(time.perf_counter() - started)
        for name, values in overlaps.items():
            values.append(iou(masks[name], masks["fast"]))
    ratios = [a / b for a, b in zip(seconds["fp32"], seconds["fast"], strict=True)]
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "speed_up": spread(ratios),
        "mask_iou": {name: spread(values) for name, values in overlaps.items()},
    }


def tiled_agreement(engine: Engine) -> dict[str, float | int]:
    """IoU of tiled and one-pass masks on frames that fit in one pass."""
    overlaps = []
    for pixels in simulated_frames(2, 1536):
        whole = predict(pixels, engine.run, scales=NATIVE) >= 128
        tiled = predict(pixels, engine.run, Tiling(one_pass_px=1024), NATIVE) >= 128
        overlaps.append(iou(whole, tiled))
    return spread(overlaps)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _report(engines: dict[str, Engine], figures: dict[str, object]) -> None:
    for name, engine in engines.items():
        print(f"{engine.device:28} {_line(figures['seconds'][name])} s a frame")
    print(f"{'speed-up':28} {_line(figures['speed_up'])} x   (asked: >= 2 on a CPU)")
    for name, values in figures["mask_iou"].items():
        what = f"mask IoU with {engines[name].device}"
        print(f"{what:28} {_line(values)}   (asked: >= 0.995)")
    print(
        f"{'tiled / one pass IoU':28} {_line(figures['tiled_iou'])}   (asked: >= 0.99)"
    )


def _line(values: dict[str, float | int]) -> str:
    median, low, high = (f"{values[key]:.4g}" for key in ("p50", "min", "max"))
    return f"median {median}  min {low}  max {high}  n={values['n']}"


if __name__ == "__main__":
    main()
