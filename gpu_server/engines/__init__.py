"""Engines: the one place that knows how a network is run on a device.

An engine turns normalised tiles into probabilities. Compiled engines bake the weights in: other
weights mean another engine, built beside the old one.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A network ready to run on one device."""

    device: str
    """What runs, for people: "cpu (OpenVINO bf16)", "cuda (NVIDIA H200, fp16)"."""
    batch: int
    """Tiles of one shape worth giving at once."""

    def run(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (B, 1, H, W) normalised tiles to (B, H, W) probability, 0..1."""
        ...
