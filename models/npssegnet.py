"""NPsSegNet: UNet++ with a ResNet34 encoder, two classes, one grey channel; and its baselines.

Its modification: beside the pixels it is shown their local contrast. Faint particles of a few
pixels on thick, uneven supports are per mille of a frame's range; measured against what surrounds
them within some ten pixels they stand out as the eye, too, sees them.

Against over-fitting: dropout of whole feature maps before the last convolution, weight decay and
an average over the weights of the training run. All three cost nothing at inference and vanish
from converted engines. Squeeze-and-excitation in the decoder (scSE) was the alternative: measured
on 2 cores it makes a training step 1.6 times as long, and fused engines cannot fold it.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from emcopilot.config import Settings
from models.precision import is_mixed

SIDE_MULTIPLE = 32
"""The encoder halves five times: height and width must divide by this."""

LEAST_SPREAD = 0.02
"""Of a normalised frame's unit; keeps an even area, where all is noise or nothing, even."""

DECODERS: dict[str, type[nn.Module]] = {
    "unetplusplus": smp.UnetPlusPlus,
    "unet": smp.Unet,
    "deeplabv3plus": smp.DeepLabV3Plus,
}
"""NPsSegNet's first, then the paper's baselines."""


class Architecture(Settings):
    """Everything needed to build the network that a checkpoint's weights fit."""

    name: Literal["unetplusplus", "unet", "deeplabv3plus"] = "unetplusplus"
    encoder: str = "resnet34"
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Chance of dropping each feature map before the last convolution, in training."""
    local_contrast_px: int = Field(default=0, ge=0)
    """Half width of the surroundings that local contrast is measured against; 0 shows none."""


NPSSEGNET = Architecture(local_contrast_px=16)
"""The paper's network with our modification."""


class LocalContrast(nn.Module):
    """A fixed first layer: pixels (B, 1, H, W) -> pixels and their local contrast (B, 2, H, W).

    Local contrast is what is left after the mean of the surroundings is subtracted and their
    spread divided by. Boxes over boxes weigh near pixels more.
    """

    def __init__(self, reach_px: int) -> None:
        super().__init__()
        self.reach_px = reach_px

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Add the second channel."""
        # In float32: squares of small differences are lost in 16 bits.
        with torch.autocast(pixels.device.type, enabled=False):
            values = pixels.float()
            rest = values - self._mean(values)
            # Running sums may leave an even area a hair below zero.
            spread = self._mean(rest * rest).clamp_min(0).sqrt()
            contrast = rest / (spread + LEAST_SPREAD)
        return torch.cat([pixels, contrast.to(pixels.dtype)], dim=1)

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        for dim in (3, 2, 3, 2):
            values = box_mean(values, dim, self.reach_px)
        return values


def box_mean(values: torch.Tensor, dim: int, reach: int) -> torch.Tensor:
    """Return the mean of each value's neighbours along `dim`, `reach` either way, within bounds.

    From running sums: six times as fast on a CPU as average pooling with 33 px, at 1088 x 1088;
    values within +-10 keep five digits.
    """
    side = values.shape[dim]
    place = torch.arange(side, device=values.device)
    first, end = (place - reach).clamp(min=0), (place + reach + 1).clamp(max=side)
    zero = torch.zeros_like(values.narrow(dim, 0, 1))
    sums = torch.cat([zero, values.cumsum(dim)], dim)
    total = sums.index_select(dim, end) - sums.index_select(dim, first)
    count = (end - first).to(values.dtype)
    return total / count.reshape([-1 if d == dim else 1 for d in range(values.ndim)])


def build(architecture: Architecture | None = None) -> nn.Module:
    """Return NPsSegNet, or the baseline that is named, with random weights; never downloads.

    The network maps normalised frames, float (B, 1, H, W) with H and W divisible by 32, to logits
    (B, 2, H, W): background, particle.
    """
    settings = architecture or Architecture()
    network = DECODERS[settings.name](
        encoder_name=settings.encoder,
        encoder_weights=None,
        in_channels=2 if settings.local_contrast_px else 1,
        classes=2,
    )
    segmentation_head = network.get_submodule("segmentation_head")
    head = nn.Sequential(nn.Dropout2d(settings.dropout), segmentation_head)
    network.add_module("segmentation_head", head)
    if settings.local_contrast_px:
        return nn.Sequential(LocalContrast(settings.local_contrast_px), network)
    return network


def widened(
    weights: dict[str, torch.Tensor], network: nn.Module
) -> dict[str, torch.Tensor]:
    """Fit weights of a network without local contrast to one that is shown it.

    The new channel weighs nothing at first: the wider network answers as the other did.
    """
    wider = {f"1.{name}": tensor for name, tensor in weights.items()}
    first = "1.encoder.conv1.weight"
    both = torch.zeros_like(network.state_dict()[first])  # (64, 2, 7, 7)
    both[:, :1] = wider[first]
    return wider | {first: both}


def parted(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return what must run in float32, and the rest, which bears 16 bits.

    Local contrast subtracts nearly equal numbers: with the 8 bits of a bfloat16 mantissa a tenth
    of it is rounding. The first part does nothing where a network is shown none.
    """
    match network:
        case nn.Sequential() if isinstance(network[0], LocalContrast):
            return network[0], network[1]
        case _:
            return nn.Identity(), network


def last_convolution(network: nn.Module) -> nn.Conv2d:
    """Return the layer whose two outputs are the logits."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]


def particle_probability(logits: torch.Tensor) -> torch.Tensor:
    """Turn logits (B, 2, H, W) into the particle probability (B, H, W), 0..1."""
    return logits.float().softmax(dim=1)[:, 1]


def torch_run(
    network: nn.Module,
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Wrap a network as the function that tiling calls: tiles in, probability out."""
    device = next(network.parameters()).device

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        frames = torch.from_numpy(tiles).to(device, memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=is_mixed(device)),
        ):
            logits = network(frames)
        return particle_probability(logits).cpu().numpy()

    return run
