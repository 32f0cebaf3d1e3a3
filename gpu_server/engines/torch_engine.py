"""NPsSegNet in PyTorch: fp32 on a CPU, fp16 with CUDA graphs on an NVIDIA GPU."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emcopilot.errors import ConfigError
from models.npssegnet import parted

_Graph = Callable[[torch.Tensor], torch.Tensor]
_GRAPHS = 32
"""Kept at most: each holds its own memory, and a batch of any part of eight frames has one."""


class TorchCpuEngine:
    """Plain fp32 on the CPU: the reference the other engines are compared with."""

    batch = 1

    def __init__(self, net: nn.Module) -> None:
        self._net = net.eval().float().to(memory_format=torch.channels_last)
        self.device = "cpu (PyTorch fp32)"

    def run(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (B, 1, H, W) normalised tiles to (B, H, W) probability, 0..1."""
        with torch.inference_mode():
            logits = self._net(torch.from_numpy(np.ascontiguousarray(tiles)))
            return logits.softmax(1)[:, 1].numpy()  # (B, H, W)


class TorchCudaEngine:
    """fp16, channels_last, one captured CUDA graph for each tile shape.

    A graph replays several hundred kernels with a single launch; at 512 x 512 the launches would
    otherwise cost more than the arithmetic.
    """

    batch = 8

    def __init__(self, net: nn.Module) -> None:
        if not torch.cuda.is_available():
            raise ConfigError(
                "device = cuda, but PyTorch sees no NVIDIA GPU on this machine; "
                "check `nvidia-smi`, or use device = auto or cpu"
            )
        front, rest = parted(net.eval())
        self._front = front.float().cuda()
        self._net = rest.half().cuda().to(memory_format=torch.channels_last)
        self._graphs: OrderedDict[tuple[int, ...], _Graph] = OrderedDict()
        self.device = f"cuda ({torch.cuda.get_device_name()}, fp16)"

    def run(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (B, 1, H, W) normalised tiles to (B, H, W) probability, 0..1."""
        pixels = torch.from_numpy(np.ascontiguousarray(tiles)).cuda()
        with torch.inference_mode():
            batch = self._front(pixels).half()
            replay = self._graphs.get(tuple(batch.shape)) or self._recorded(batch)
            self._graphs.move_to_end(tuple(batch.shape))
            return replay(batch).cpu().numpy()

    def _recorded(self, example: torch.Tensor) -> _Graph:
        """Record the network for an input shape, where memory is short in place of all others."""
        try:
            return self._capture(example)
        except torch.OutOfMemoryError:
            self._graphs.clear()
        return self._capture(example)

    def _capture(self, example: torch.Tensor) -> _Graph:
        """Record the network for this input shape."""
        while len(self._graphs) >= _GRAPHS:
            self._graphs.popitem(last=False)
        static = example.clone(memory_format=torch.channels_last)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            side
        ):  # warm-up: cuDNN picks its algorithms before capture
            for _ in range(3):
                self._probability(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._probability(static)

        def replay(batch: torch.Tensor) -> torch.Tensor:
            static.copy_(batch)
            graph.replay()
            return out

        self._graphs[tuple(example.shape)] = replay
        return replay

    def _probability(self, tiles: torch.Tensor) -> torch.Tensor:
        # In 16 bits, 1 - p is cut off far before p is, and leads would lean to the particle.
        return self._net(tiles).float().softmax(1)[:, 1]
