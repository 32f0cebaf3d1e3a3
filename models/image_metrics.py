"""How like real frames generated ones are: Frechet distance, kernel MMD, IS, SSIM, PSNR.

The first three compare what a network sees in small tiles, so they mean nothing without that
network's name: it stands in every result. Tiles of one frame resemble each other: a surer figure
takes more frames, not more tiles.
"""

import hashlib
import math
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.models import inception_v3

from emcopilot.config import Settings
from emcopilot.errors import AdaptationError, ConfigError
from models import checkpoint
from models.npssegnet import parted

Frame = NDArray[np.float32]

FRAME_RANGE = 6.18
"""What `normalise` makes of a frame's robust range: the data range of SSIM and PSNR."""
SSIM_WINDOW_PX = 11
"""Side of the Gaussian window; Wang et al., IEEE Trans. Image Process. 13 (2004) 600."""
_STAGES = slice(2, 5)
"""Of a ResNet's maps: a quarter, an eighth and a sixteenth of the frame's side. Coarser ones see
little of a tile but its rim, finer ones only grain."""
_INCEPTION_PX = 299


@dataclass(frozen=True, slots=True)
class Features:
    """A named network that turns tiles into numbers."""

    name: str
    network: nn.Module
    """Normalised tiles, float32 (N, 1, h, w), to features (N, D)."""
    width: int
    """D."""
    classify: nn.Module | None = None
    """Features (N, D) to Inception's logits (N, 1000); None where the Inception score is not to be
    had."""

    @property
    def least_tiles(self) -> int:
        """Tiles that a set must give: with fewer, the covariance of D features is singular."""
        return self.width + 1


class MetricSettings(Settings):
    """How frames are cut and compared; figures compare only where these are alike."""

    tile_px: int = Field(default=64, ge=32, multiple_of=32)
    step_px: int = Field(default=16, ge=1)
    """From one tile to the next; neighbours overlap, or a few frames would not give enough."""
    most_tiles: int | None = Field(default=None, ge=2)
    """Of a set, picked evenly; by default twice the least. Both distances lean on the count."""
    subsets: int = Field(default=50, ge=2)
    subset_tiles: int = Field(default=200, ge=2)
    """Drawn from each set for one value of the kernel MMD."""
    batch: int = Field(default=32, ge=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """How like a set of real frames a set of generated ones is."""

    features: str
    """The network in whose features the distances are taken."""
    frechet: float
    """0 for equal sets; no upper end. FID only where `features` is Inception."""
    mmd: float
    """Kernel MMD squared, unbiased: around 0, also below, for sets of one origin."""
    mmd_std: float
    """Spread over random subsets; the mean is surer."""
    inception_score: float | None
    """1 to 1000; None is "not computed": no Inception weights were given."""
    ssim: float | None
    """-1 to 1, mean over pairs; None where frames are not paired."""
    psnr_db: float | None
    """Mean over pairs; None where frames are not paired."""
    generated_frames: int
    real_frames: int
    generated_tiles: int
    real_tiles: int

    @property
    def frechet_name(self) -> str:
        """Say what the Frechet distance is one of."""
        return f"Frechet distance in the features of {self.features}"

    def as_json(self) -> dict[str, str | float | None]:
        """Return plain values, for a report."""
        return asdict(self) | {"frechet_name": self.frechet_name}


def encoder_features(model: str | Path) -> Features:
    """Take the encoder of a model, by shipped name or directory, as the feature network.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    network, card = checkpoint.load(model)
    return features_of(network, card.model_id)


def features_of(network: nn.Module, model_id: str) -> Features:
    """Take an NPsSegNet's encoder: its inner stages, averaged over each tile."""
    pooled = _PooledStages(network).eval()
    return Features(model_id, pooled, pooled.width)


def inception_features(weights: Path) -> Features:
    """Take Inception v3 with weights from a file, a state dict of torchvision's network.

    Values differ a little from those of the weights of Heusel et al., NeurIPS 2017: compare with
    published ones with care.

    Raises
    ------
    ConfigError
        If the file is not there or holds something else.
    """
    try:
        content = weights.read_bytes()
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network = _inception(state)
    except OSError as error:
        raise ConfigError(
            f"cannot read Inception weights {weights}: {error.strerror}; give the path of a state "
            "dict of torchvision's inception_v3, or none: then the Inception score is not computed"
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise ConfigError(
            f"{weights} holds no state dict of torchvision's inception_v3: "
            f"{str(error).splitlines()[0]}; save one by torch.save(network.state_dict(), path)"
        ) from error
    classify = network.get_submodule("fc")
    network.add_module("fc", nn.Identity())
    digest = hashlib.sha256(content).hexdigest()[:8]
    body = _AsPicture(network).eval()
    return Features(f"Inception v3 {digest}", body, 2048, classify.eval())


def fine_enough(frames: Sequence[Frame], features: Features) -> MetricSettings:
    """Return settings by which even a few small frames give the tiles that a look needs.

    Tiles then overlap more: they tell less than their number says, but no less than there is.
    """
    chosen = MetricSettings()
    while chosen.step_px > 1 and _count(frames, chosen) < features.least_tiles:
        chosen = chosen.model_copy(update={"step_px": chosen.step_px // 2})
    return chosen


def _count(frames: Sequence[Frame], settings: MetricSettings) -> int:
    """Return how many tiles the frames would give."""
    room = [[side - settings.tile_px for side in frame.shape] for frame in frames]
    return sum(
        math.prod(left // settings.step_px + 1 for left in sides)
        for sides in room
        if min(sides) >= 0
    )


def compare_frames(
    generated: Sequence[Frame],
    real: Sequence[Frame],
    features: Features,
    settings: MetricSettings | None = None,
    *,
    is_paired: bool = False,
) -> ImageMetrics:
    """Compare a set of generated frames with a set of real ones.

    Parameters
    ----------
    generated, real : sequences of float32 arrays, shape (H, W)
        Normalised frames, of any size from `tile_px` up.
    features : Features
        The network that looks; it runs where its weights lie.
    settings : MetricSettings, optional
        How to cut and compare.
    is_paired : bool
        Whether the n-th generated frame was made to be the n-th real one: then SSIM and PSNR too.

    Raises
    ------
    AdaptationError
        If a set gives too few tiles for the Frechet distance, a frame is smaller than a tile, or
        pairs do not match.

    Notes
    -----
    Sources: Frechet distance, Heusel et al., NeurIPS 2017, eq. 6; kernel MMD, the unbiased
    estimate with the polynomial kernel (x.y/D + 1)^3 of Binkowski et al., ICLR 2018 (KID);
    Inception score, Salimans et al., NeurIPS 2016.
    """
    chosen = settings or MetricSettings()
    pairs = _pairs(generated, real) if is_paired else []
    ours = look(generated, features, chosen)
    theirs = look(real, features, chosen)
    mmd, mmd_std = kernel_mmd(ours, theirs, chosen)
    return ImageMetrics(
        features=features.name,
        frechet=frechet_distance(ours, theirs),
        mmd=mmd,
        mmd_std=mmd_std,
        inception_score=_score(ours, features, chosen.seed),
        ssim=_mean([ssim(a, b) for a, b in pairs]),
        psnr_db=_mean([psnr_db(a, b) for a, b in pairs]),
        generated_frames=len(generated),
        real_frames=len(real),
        generated_tiles=len(ours),
        real_tiles=len(theirs),
    )


def look(
    frames: Sequence[Frame], features: Features, settings: MetricSettings
) -> Tensor:
    """Return the features of a set's tiles, float64 tensor (N, D), on the CPU."""
    wanted = settings.most_tiles or 2 * features.least_tiles
    tiles = list(_places(frames, settings, wanted))
    if len(tiles) < features.least_tiles:
        raise AdaptationError(
            f"{len(frames)} frames give {len(tiles)} tiles of {settings.tile_px} px; the "
            f"{features.width} features of {features.name} need {features.least_tiles} or more: "
            "give more or larger frames, a smaller step_px, or a larger most_tiles"
        )
    device = next(features.network.parameters()).device
    found: list[Tensor] = []
    for start in range(0, len(tiles), settings.batch):
        batch = np.stack(
            [frames[n][part] for n, part in tiles[start:][: settings.batch]]
        )
        with torch.inference_mode():
            seen = features.network(torch.from_numpy(batch)[:, None].to(device))
        found.append(seen.double().cpu())
    return torch.cat(found)


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the Frechet distance of two sets of features, float64 (N, D); not negative."""
    metric = FrechetInceptionDistance(feature=_Given(ours.shape[1]))
    metric.update(ours, real=False)
    metric.update(theirs, real=True)
    # Equal sets may come out a rounding below zero.
    return max(float(metric.compute()), 0.0)


def kernel_mmd(
    ours: Tensor, theirs: Tensor, settings: MetricSettings
) -> tuple[float, float]:
    """Return mean and spread, over random subsets, of the unbiased polynomial-kernel MMD.

    Both sets are float64 (N, D); a subset is never more than half of the smaller one.
    """
    size = max(2, min(settings.subset_tiles, len(ours) // 2, len(theirs) // 2))
    with _quiet(), _seeded(settings.seed):
        metric = KernelInceptionDistance(
            feature=_Given(ours.shape[1]), subsets=settings.subsets, subset_size=size
        )
        metric.update(ours, real=False)
        metric.update(theirs, real=True)
        mean, spread = metric.compute()
    return float(mean), float(spread)


def inception_score(logits: Tensor, seed: int = 0) -> float:
    """Return the Inception score of logits (N, classes), all in one split: sets are small."""
    with _quiet(), _seeded(seed):
        metric = InceptionScore(feature=_Given(logits.shape[1]), splits=1)
        metric.update(logits)
        return float(metric.compute()[0])


def ssim(one: Frame, other: Frame) -> float:
    """Return the structural similarity of two normalised frames of one shape (H, W)."""
    value = structural_similarity_index_measure(
        _layer(one),
        _layer(other),
        data_range=FRAME_RANGE,
        kernel_size=SSIM_WINDOW_PX,
    )
    return float(value) if isinstance(value, Tensor) else float(value[0])


def psnr_db(one: Frame, other: Frame) -> float:
    """Return the peak signal-to-noise ratio in dB of two frames (H, W); infinite if equal."""
    return float(
        peak_signal_noise_ratio(_layer(one), _layer(other), data_range=FRAME_RANGE)
    )


class _PooledStages(nn.Module):
    """Tiles (N, 1, h, w) to the means of an encoder's inner maps (N, D)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.first, rest = parted(network)
        self.encoder = rest.get_submodule("encoder")
        channels: list[int] = self.encoder.out_channels  # pyright: ignore[reportAssignmentType]
        self.width = sum(channels[_STAGES])

    def forward(self, tiles: Tensor) -> Tensor:
        maps = self.encoder(self.first(tiles))[_STAGES]
        return torch.cat([one.mean(dim=(2, 3)) for one in maps], dim=1)


class _AsPicture(nn.Module):
    """Show grey tiles (N, 1, h, w) to a network that knows colour pictures of 299 px."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: Tensor) -> Tensor:
        side = (_INCEPTION_PX, _INCEPTION_PX)
        large = functional.interpolate(tiles, side, mode="bilinear", antialias=True)
        grey = (large / (FRAME_RANGE / 2)).clamp(-1, 1)
        return self.network(grey.expand(-1, 3, -1, -1))


class _Given(nn.Module):
    """Hand torchmetrics features that are found already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def _inception(state: dict[str, Tensor]) -> nn.Module:
    has_aux = any(key.startswith("AuxLogits") for key in state)
    network = inception_v3(weights=None, init_weights=False, aux_logits=has_aux)
    network.load_state_dict(state)
    return network


def _places(
    frames: Sequence[Frame], settings: MetricSettings, most: int
) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Yield frame number and window of each tile, evenly picked from all there are."""
    side, step = settings.tile_px, settings.step_px
    places: list[tuple[int, int, int]] = []
    for number, frame in enumerate(frames):
        if min(frame.shape) < side:
            raise AdaptationError(
                f"frame {number} is {frame.shape} px, smaller than a tile of {side} px: leave it "
                "out or choose a smaller tile_px"
            )
        rows, columns = (_starts(length, side, step) for length in frame.shape)
        places += [(number, y, x) for y in rows for x in columns]
    picked = np.linspace(0, len(places) - 1, min(most, len(places)))
    for index in picked.round().astype(int).tolist():
        number, y, x = places[index]
        yield number, (slice(y, y + side), slice(x, x + side))


def _starts(length: int, side: int, step: int) -> list[int]:
    """Spread windows of `side` evenly over `length`, at most `step` apart."""
    count = -(-(length - side) // step) + 1
    return np.linspace(0, length - side, count).round().astype(int).tolist()


def _pairs(
    generated: Sequence[Frame], real: Sequence[Frame]
) -> list[tuple[Frame, Frame]]:
    if len(generated) != len(real):
        raise AdaptationError(
            f"{len(generated)} generated frames cannot be paired with {len(real)} real ones: give "
            "as many of each, in the same order, or compare them unpaired"
        )
    pairs = list(zip(generated, real, strict=True))
    for number, (one, other) in enumerate(pairs):
        if one.shape != other.shape:
            raise AdaptationError(
                f"pair {number}: the generated frame is {one.shape} px, the real one "
                f"{other.shape}; paired frames must have one size"
            )
    return pairs


def _score(found: Tensor, features: Features, seed: int) -> float | None:
    if features.classify is None:
        return None
    device = next(features.classify.parameters()).device
    with torch.inference_mode():
        logits = features.classify(found.float().to(device))
    return inception_score(logits.double().cpu(), seed)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _layer(frame: Frame) -> Tensor:
    return torch.from_numpy(frame)[None, None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torchmetrics from warning that it holds the features: we hold them, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torchmetrics' subsets, which come from torch's own numbers; these stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
