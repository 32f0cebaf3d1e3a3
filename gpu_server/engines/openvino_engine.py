"""NPsSegNet through OpenVINO: the default on a CPU, bf16 where the processor has it."""

import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import nn

from models.npssegnet import parted

# Shapes kept compiled: a session has one frame shape, now and then two or three, each looked at
# at up to five magnifications; and glimpses have two.
_COMPILED_SHAPES = 17


class _Probability(nn.Module):
    """The network and its softmax in one graph, so that one class map crosses over."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.net(tiles).softmax(1)[:, 1]


class OpenVinoEngine:
    """One compiled graph per input shape; static shapes run faster than a dynamic one."""

    batch = 1

    def __init__(self, net: nn.Module, cache_dir: Path | None = None) -> None:
        self._core = ov.Core()
        if cache_dir:  # compiled graphs survive a restart
            self._core.set_property({"CACHE_DIR": str(cache_dir)})
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._precision = "bf16" if "BF16" in capabilities else "f32"
        self._front, rest = parted(net.eval().float())
        self._model = _convert(rest, channels=_channels(self._front))
        self._compiled: OrderedDict[tuple[int, ...], ov.CompiledModel] = OrderedDict()
        self.device = f"cpu (OpenVINO {self._precision})"

    def run(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (B, 1, H, W) normalised tiles to (B, H, W) probability, 0..1."""
        with torch.inference_mode():
            shown = self._front(torch.from_numpy(np.ascontiguousarray(tiles))).numpy()
        return self._for_shape(shown.shape)(shown)[0]

    def _for_shape(self, shape: tuple[int, ...]) -> ov.CompiledModel:
        compiled = self._compiled.get(shape)
        if compiled is None:
            model = self._model.clone()
            model.reshape(list(shape))
            hints = {
                "INFERENCE_PRECISION_HINT": self._precision,
                "PERFORMANCE_HINT": "LATENCY",
            }
            compiled = self._core.compile_model(model, "CPU", hints)
            self._compiled[shape] = compiled
            if len(self._compiled) > _COMPILED_SHAPES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return compiled


def _channels(front: nn.Module) -> int:
    """Return how many channels the network is shown."""
    with torch.inference_mode():
        return front(torch.zeros(1, 1, 64, 64)).shape[1]


def _convert(net: nn.Module, channels: int) -> ov.Model:
    """Trace the network for any batch and any side that divides by 32."""
    with torch.inference_mode(), warnings.catch_warnings():
        # OpenVINO's converter traces; PyTorch would rather have it exported.
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        return ov.convert_model(
            _Probability(net),
            example_input=torch.zeros(1, channels, 64, 64),
            input=[ov.PartialShape([-1, channels, -1, -1])],
        )
