"""What decides a GAN run beside its data, and the presets that people start from."""

import math
from typing import Literal, Self

from pydantic import Field, field_validator

from emcopilot.config import Settings
from models.precision import Precision

Encoder = Literal["resnet18", "resnet34", "resnet50"]
GROUP = 8
"""Channels that are normalised together: decoder channels must divide by it."""


class TermWeights(Settings):
    """How much each term of a generator's loss counts."""

    gan: float = Field(default=1.0, ge=0)
    """Of passing for real, pixel by pixel."""
    l1: float = Field(default=10.0, ge=0)
    """pix2pix: of the absolute difference to the true image."""
    mse: float = Field(default=10.0, ge=0)
    """pix2pix: of the squared difference to the true image."""
    cycle: float = Field(default=10.0, ge=0)
    """CycleGAN: of coming back unchanged from the other domain."""
    identity: float = Field(default=5.0, ge=0)
    """CycleGAN: of leaving alone what is of the target domain already."""
    structure: float = Field(default=1.0, ge=0)
    """CycleGAN: of what a frozen segmenter finds worse after translation than before."""
    edges: float = Field(default=1.0, ge=0)
    """CycleGAN: of particle edges that no longer lie where they lay."""


class GanSettings(Settings):
    """Everything that decides the training of pix2pix or CycleGAN, beside its data."""

    encoder: Encoder = "resnet34"
    """Of the generators."""
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    """Of the generators, deepest first; as many as the encoder has halvings."""
    discriminator_encoder: Encoder = "resnet34"
    discriminator_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    spectral_norm: bool = False
    """Whether the discriminators' weights are normalised, in the place of their channels
    (Miyato et al. 2018)."""
    rest_below: float = Field(default=0.1, ge=0)
    """A discriminator rests while its loss is below this; at chance it is 0.25. One that has won
    teaches nothing any more. 0 lets it go on, as in the paper."""
    noise_channels: int = Field(default=2, ge=0)
    """White noise beside a generator's input: grain and texture that no mask foretells."""
    residual_limit: float = Field(default=1.5, ge=0, le=10)
    """CycleGAN: most that a generator may change a pixel, in units of a normalised frame; 0 takes
    the bound off, as in the paper."""
    match_px: float = Field(default=1.5, ge=0)
    """pix2pix: Gaussian blur, one sigma, through which L1 and MSE compare; 0 compares pixels, as
    in the paper."""
    weights: TermWeights = TermWeights()
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes over the area of the frames; leaves `steps` out of account."""
    steps: int = Field(default=4000, ge=1)
    decay_from: float = Field(default=2 / 3, ge=0, lt=1)
    """Part of the steps after which the learning rate falls linearly to zero."""
    batch: int = Field(default=4, ge=1)
    """Tiles of each domain in a step."""
    tile_px: int = Field(default=256, ge=32, multiple_of=32)
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's."""
    buffer: int = Field(default=50, ge=0)
    """Made tiles that are kept and shown to a discriminator again (Shrivastava et al. 2017)."""
    precision: Precision = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=0, ge=0)
    report_every: int = Field(default=10, ge=1)
    judge_every: int = Field(default=100, ge=1)
    """Steps between two looks of the judge, who picks the generator that is kept."""
    save_every_s: float = Field(default=120.0, gt=0)
    """The state is written this often, when cancelled, and at the end."""

    @field_validator("decoder_channels", "discriminator_channels")
    @classmethod
    def _channels_form_groups(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if not 3 <= len(channels) <= 5 or any(c < GROUP or c % GROUP for c in channels):
            raise ValueError(f"expected 3 to 5 multiples of {GROUP}")
        return channels

    def for_area(self, area_px: int) -> Self:
        """Turn a budget in passes over so many pixels into steps."""
        if self.epochs is None:
            return self
        steps = math.ceil(self.epochs * area_px / (self.batch * self.tile_px**2))
        return self.model_copy(update={"steps": max(1, steps), "epochs": None})

    def lasting(self) -> dict[str, object]:
        """Return what must not change when a run is resumed: all but habits."""
        habits = {"device", "report_every", "judge_every", "save_every_s"}
        return self.model_dump(exclude=habits)


_PAPER = GanSettings(
    epochs=150,
    tile_px=512,
    rest_below=0.0,
    noise_channels=0,
    residual_limit=0.0,
    match_px=0.0,
    weights=TermWeights(structure=0.0, edges=0.0),
)
_STANDARD = GanSettings(encoder="resnet18", discriminator_encoder="resnet18")
_LOOSE = TermWeights(cycle=1.0, identity=0.2, structure=10.0)
"""For generators that begin as the identity: at the published weights each first step away costs
more than it gains, and on drawn discs none was taken in 80 steps. What the cycle then does not
hold, others must: the masks' IoU fell to 0.80 on the way with no other term, to 0.93 with
edges and structure at 1, and to 0.98 with structure at 10."""
_QUICK = GanSettings(
    encoder="resnet18",
    decoder_channels=(64, 32, 16),
    discriminator_encoder="resnet18",
    discriminator_channels=(64, 32, 16),
    tile_px=160,
)

PIX2PIX = {
    "paper": _PAPER,
    "standard": _STANDARD.model_copy(update={"steps": 2000, "spectral_norm": True}),
    "quick": _QUICK.model_copy(
        update={"steps": 500, "judge_every": 100, "spectral_norm": True}
    ),
}
CYCLEGAN = {
    "paper": _PAPER,
    "standard": _STANDARD.model_copy(
        update={"steps": 1200, "noise_channels": 0, "weights": _LOOSE}
    ),
    "quick": _QUICK.model_copy(
        update={
            "steps": 270,
            "batch": 2,
            "tile_px": 128,
            "noise_channels": 0,
            "judge_every": 90,
            "weights": _LOOSE,
        }
    ),
}
"""`paper` follows the paper: 100 epochs and 50 of decay, no noise, no bound, plain terms. The
others are ours: `standard` for one GPU, `quick` for two CPU cores."""
