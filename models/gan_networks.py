"""The generators and discriminators of tGAN: UNet++ each, from images to images.

Batch normalisation is replaced by group normalisation in generators. With a few tiles in a batch
its statistics are those of the batch, so that a generator would paint another contrast in training
than in use, and a batch that memory forces apart would learn another thing. Instance normalisation
has neither fault but takes the mean out of every channel by itself: on a tile without a particle
nothing but noise is left. A group keeps the differences between its channels. It costs a CPU about
four tenths more time.

A discriminator that normalised all its channels could not see a tile's contrast, which is what
tells most domains apart: its first convolution stays free, as in Isola et al. 2017. Spectral
normalisation of the weights, in the place of all other, is slower and steadier. Measured on drawn
particles: 120 steps of CycleGAN, from a contrast of 2.8 to one of 1.7, came to 2.1 with the first
layer free and nowhere with spectral norms; pix2pix, where real grain spreads by 0.63, painted 0.64
after 240 steps with spectral norms, and 1.2 after 180 with the first layer free.
"""

import math

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from models.gan_settings import GROUP, GanSettings
from models.precision import is_mixed
from models.tiling import MARGIN_PX, Tiling

OUTPUT_RANGE = 8.0
"""Of a generator that is not residual. All but a thousandth of a normalised frame at each end lies
within +-6.18, where tanh of a range of 8 still has two fifths of its slope."""
HALF_RANGE = 3.09
"""Weights of L1 and MSE are published for images within -1..1; the robust range of a normalised
frame is 6.18, and differences are measured in half of it, so that published weights hold."""
FRAME_RANGE = 10.0
"""What `preprocess.normalise` clips to; painted frames keep to it."""
SIDE_MULTIPLE = 32
_FEATURES = 16
"""Feature maps that the head of a generator turns into the image."""

WHOLE_FRAMES = Tiling(one_pass_px=1024, tile_px=512, overlap_px=128)
"""How frames are painted: larger ones in tiles, so that memory is bounded."""


class Generator(nn.Module):
    """Maps an image and white noise (B, 1 + N, H, W) to an image (B, 1, H, W), float32.

    The head sees the input again, beside the features: UNet++ begins by halving the image, and
    grain of single pixels would not come through. With a `residual_limit` the network only says
    what changes, by so much at most, and untrained it changes nothing; without, it paints anew,
    within `OUTPUT_RANGE`.
    """

    def __init__(self, settings: GanSettings, residual_limit: float = 0.0) -> None:
        super().__init__()
        self.noise_channels = settings.noise_channels
        self.residual_limit = residual_limit
        layers = 1 + settings.noise_channels
        self.body = _unetplusplus(
            settings.encoder, settings.decoder_channels, layers, _FEATURES
        )
        last = nn.Conv2d(_FEATURES, 1, kernel_size=3, padding=1)
        self.head = nn.Sequential(
            nn.Conv2d(_FEATURES + layers, _FEATURES, kernel_size=3, padding=1),
            nn.SiLU(),
            last,
        )
        if residual_limit:
            for values in last.parameters():
                nn.init.zeros_(values)

    def forward(self, layers: Tensor) -> Tensor:
        """Paint; the first layer is the image (a mask as -1 and 1), the others are noise."""
        features = self.body(layers)
        drawn = self.head(torch.cat([features, layers], dim=1)).float().tanh()
        if not self.residual_limit:
            return OUTPUT_RANGE * drawn
        return layers[:, :1] + self.residual_limit * drawn


class Discriminator(nn.Module):
    """Says of each pixel whether it is real: (B, C, H, W) -> (B, 1, H, W), 1 real, 0 made."""

    def __init__(self, settings: GanSettings, layers: int) -> None:
        super().__init__()
        self.body = _unetplusplus(
            settings.discriminator_encoder, settings.discriminator_channels, layers, 1
        )
        self.body.get_submodule("encoder").add_module("bn1", nn.Identity())
        if settings.spectral_norm:
            _bound_slopes(self.body)

    def forward(self, layers: Tensor) -> Tensor:
        """Judge each pixel, in float32 whatever the precision of the network."""
        return self.body(layers).float()


def _unetplusplus(
    encoder: str, channels: tuple[int, ...], layers: int, classes: int
) -> nn.Module:
    network = smp.UnetPlusPlus(
        encoder_name=encoder,
        encoder_depth=len(channels),
        encoder_weights=None,
        decoder_channels=channels,
        in_channels=layers,
        classes=classes,
    )
    for stage in range(len(channels), 5):  # built all the same, but never used
        network.get_submodule("encoder").add_module(f"layer{stage}", nn.Identity())
    _normalise_in_groups(network)
    return network


def _normalise_in_groups(network: nn.Module) -> None:
    """Put group in the place of batch normalisation, here and in all that lies below."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            count = child.num_features
            setattr(network, name, nn.GroupNorm(count // GROUP, count))
        else:
            _normalise_in_groups(child)


def _bound_slopes(network: nn.Module) -> None:
    """Put spectral normalisation of the weights in the place of all other, the head left free."""
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, nn.Identity())
        elif isinstance(child, nn.Conv2d):
            nn.utils.parametrizations.spectral_norm(child)
        elif name != "segmentation_head":
            _bound_slopes(child)


def as_layers(
    image: NDArray[np.generic], noise_channels: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Put white noise of unit spread beside an image (..., H, W); returns (..., 1 + N, H, W).

    A mask, bool, becomes -1 and 1.
    """
    is_mask = image.dtype == np.bool_
    values = np.where(image, 1.0, -1.0) if is_mask else image
    *count, height, width = image.shape
    noise = rng.standard_normal((*count, noise_channels, height, width), np.float32)
    return np.concatenate([values[..., None, :, :].astype(np.float32), noise], axis=-3)


def smooth(images: Tensor, sigma_px: float) -> Tensor:
    """Blur images (B, C, H, W) by a Gaussian, in float32; 0 leaves them."""
    if sigma_px == 0:
        return images
    side = 2 * math.ceil(3 * sigma_px) + 1
    # Blurring in 16 bits would add steps as large as the grain that is left.
    with torch.autocast(images.device.type, enabled=False):
        return gaussian_blur(images.float(), [side, side], [sigma_px, sigma_px])


def paint(
    generator: Generator, layers: NDArray[np.float32], tiling: Tiling = WHOLE_FRAMES
) -> NDArray[np.float32]:
    """Send a whole frame of any size through a generator.

    Parameters
    ----------
    generator : Generator
    layers : float32 array, shape (1 + N, H, W)
        The image and one field of noise for the whole frame: tiles that overlap see the same
        grain, and fading from one to the other does not weaken it.
    tiling : Tiling, optional
        Above which side a frame is cut, and how.

    Returns
    -------
    float32 array, shape (H, W), within -10..10
    """
    height, width = layers.shape[1:]
    is_small = max(height, width) <= tiling.one_pass_px
    tile = None if is_small else tiling.tile_px
    padded = _with_margin(layers, tile or 0)
    if tile is None:
        painted = _paint_tile(generator, padded)
    else:
        painted = _paint_in_tiles(generator, padded, tile, tiling.overlap_px)
    inside = painted[MARGIN_PX : MARGIN_PX + height, MARGIN_PX : MARGIN_PX + width]
    return np.clip(inside, -FRAME_RANGE, FRAME_RANGE)


def _with_margin(layers: NDArray[np.float32], least_px: int) -> NDArray[np.float32]:
    """Mirror a rim round a frame, up to sides that divide by 32 and are not below `least_px`."""
    pads = [(0, 0)]
    for side in layers.shape[1:]:
        wanted = max(least_px, side + 2 * MARGIN_PX)
        wanted = -(-wanted // SIDE_MULTIPLE) * SIDE_MULTIPLE
        pads.append((MARGIN_PX, wanted - side - MARGIN_PX))
    return np.pad(layers, pads, mode="symmetric")


def _paint_in_tiles(
    generator: Generator, layers: NDArray[np.float32], tile: int, overlap: int
) -> NDArray[np.float32]:
    """Paint tiles that overlap and fade each into the next."""
    total = np.zeros(layers.shape[1:], np.float32)
    weight = np.zeros_like(total)
    rim = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1.0
    ramp = np.sin(np.clip(rim / overlap, 0.0, 1.0) * np.pi / 2) ** 2
    fade = np.outer(ramp, ramp).astype(np.float32)
    for y in _starts(layers.shape[1], tile, overlap):
        for x in _starts(layers.shape[2], tile, overlap):
            window = np.s_[y : y + tile, x : x + tile]
            total[window] += _paint_tile(generator, layers[:, *window]) * fade
            weight[window] += fade
    return total / weight


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Spread equal tiles evenly over a side."""
    count = 1 + -(-(side - tile) // (tile - overlap))
    return [round(start) for start in np.linspace(0, side - tile, count)]


def _paint_tile(
    generator: Generator, layers: NDArray[np.float32]
) -> NDArray[np.float32]:
    device = next(generator.parameters()).device
    batch = torch.from_numpy(np.ascontiguousarray(layers))[None].to(device)
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=is_mixed(device)),
    ):
        return generator(batch)[0, 0].cpu().numpy()
