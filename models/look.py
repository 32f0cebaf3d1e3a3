"""What a frame looks like to a fixed network: the part of a look that tells domains apart.

The encoder of the shipped base model looks, whatever model is live, so that a promotion moves no
domain. Its maps' means and deviations are projected to the few directions in which frames of
different domains differ more than frames of one (`benchmarks/frame_looks.py` fits them).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from torch import Tensor, nn
from torch.nn import functional

from emcopilot.errors import ModelError
from emcopilot.frame_look import (
    NETWORK_WIDTH,
    FrameLook,
    measure_statistics,
    ruined,
    window,
)
from models import checkpoint
from models.npssegnet import parted
from models.precision import is_mixed
from models.preprocess import normalise

BASE = "base"
"""The shipped model whose encoder looks."""
PROJECTION_FILE = "look.safetensors"
VIEW_PX = 192
"""Side of what the network sees: its time is 2 % of segmenting a 512 x 512 frame on a CPU."""
MOST_REDUCED = 4
"""Of a larger frame the middle is looked at: reduced further, particles would be gone."""


class PooledMaps(nn.Module):
    """Frames (B, 1, h, w) to means and deviations (B, D) of an encoder's first three stages."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.first, rest = parted(network)
        encoder = rest.get_submodule("encoder")
        stem = [encoder.get_submodule(n) for n in ("conv1", "bn1", "relu", "maxpool")]
        self.stem = nn.Sequential(*stem)
        stages = ("layer1", "layer2", "layer3")
        self.stages = nn.ModuleList([encoder.get_submodule(name) for name in stages])

    def forward(self, frames: Tensor) -> Tensor:
        """Look."""
        maps = self.stem(self.first(frames))
        seen: list[Tensor] = []
        for stage in self.stages:
            maps = stage(maps)
            seen += [maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))]
        return torch.cat(seen, dim=1)


@dataclass(frozen=True, slots=True)
class Projection:
    """From pooled maps and statistics to the network's part of a look."""

    mean: NDArray[np.float32]
    """Shape (D,)."""
    basis: NDArray[np.float32]
    """Shape (D, NETWORK_WIDTH)."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the projection beside the base model's weights.

        Raises
        ------
        ModelError
            If it is not there or damaged.
        """
        try:
            arrays = load_arrays(path.read_bytes())
            chosen = cls(arrays["mean"], arrays["basis"])
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(
                f"cannot read {path}: {error}; make it with benchmarks/frame_looks.py"
            ) from error
        if chosen.basis.shape != (chosen.mean.size, NETWORK_WIDTH):
            raise ModelError(
                f"{path} holds a basis of shape {chosen.basis.shape}, expected "
                f"({chosen.mean.size}, {NETWORK_WIDTH}); make it anew"
            )
        return chosen


class Looker:
    """Looks at frames; owns the fixed encoder."""

    def __init__(
        self, maps: PooledMaps, projection: Projection, features: str, device: str
    ) -> None:
        self._maps = maps.eval().to(device)
        self._projection = projection
        self._device = device
        self.features = features
        """Whose features they are: looks with another name do not compare."""

    @classmethod
    def load(cls, device: str = "cpu") -> Self:
        """Load the encoder and its projection.

        Raises
        ------
        ModelError
            If the base model or its projection is not there.
        """
        projection = Projection.read(checkpoint.find(BASE) / PROJECTION_FILE)
        network, card = checkpoint.load(BASE)
        digest = hashlib.sha256(projection.basis.tobytes()).hexdigest()[:8]
        features = f"{card.model_id}+{digest}"
        return cls(PooledMaps(network), projection, features, device)

    def __call__(self, pixels: NDArray[np.generic]) -> FrameLook:
        """Look at one frame of detector counts, shape (H, W).

        Raises
        ------
        ValueError
            If the frame is too small to have a look, or constant.
        """
        if reason := ruined(pixels):
            raise ValueError(f"the frame has no look: it is {reason}")
        pooled, statistics = raw_look(pixels, self._maps, self._device)
        both = np.concatenate([pooled, statistics])
        network = (both - self._projection.mean) @ self._projection.basis
        return FrameLook(np.concatenate([network, statistics]).astype(np.float32))


def raw_look(
    pixels: NDArray[np.generic], maps: nn.Module, device: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the pooled maps (D - S,) and the statistics (S,) of one frame."""
    middle = normalise(window(pixels, VIEW_PX * MOST_REDUCED))
    view = torch.from_numpy(_view(middle))[None, None].to(device)
    on = torch.device(device)
    is_gpu = on.type == "cuda"
    # Every GPU knows float16, not every one bfloat16; on a CPU float16 is slow.
    half = torch.float16 if is_gpu else torch.bfloat16
    with (
        torch.inference_mode(),
        torch.autocast(on.type, half, enabled=is_gpu or is_mixed(on)),
    ):
        pooled = maps(view)[0].float().cpu().numpy()
    statistics = measure_statistics(middle)
    return pooled, statistics


def _view(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce to at most `VIEW_PX` a side, sides that divide by 32."""
    factor = min(1.0, VIEW_PX / max(frame.shape))
    sides = [max(32, round(side * factor / 32) * 32) for side in frame.shape]
    if tuple(sides) == frame.shape:
        return frame
    layer = torch.from_numpy(frame)[None, None]
    reduced = functional.interpolate(
        layer, size=sides, mode="bilinear", antialias=factor < 1
    )
    return reduced[0, 0].numpy()
