"""Step E: pix2pix, a conditional GAN that paints a micrograph over a mask.

Generator and discriminator are UNet++; the discriminator sees mask and image and judges every
pixel. Its loss is least squares (Mao et al. 2017), as in CycleGAN: what already passes for real
but lies off still has a gradient, and the term keeps its scale beside L1 and MSE.

L1 and MSE ask for the mean of all images that fit a mask, and their mean has no grain. So they
compare through a blur of a pixel or two (`match_px`), which leaves particles and background to
them, and grain to the discriminator. Measured on drawn particles whose grain spreads by 0.63:
after 120 steps it was painted with 0.65 so, with 0.34 where pixels were compared.

Source: Isola et al. 2017; terms, weights and optimisers: tGAN (doi 10.1038/s41524-025-01800-5).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from emcopilot.errors import AdaptationError
from models.datasets import LabelledFrame, data_hash
from models.gan_networks import (
    HALF_RANGE,
    Discriminator,
    Generator,
    as_layers,
    paint,
    smooth,
)
from models.gan_settings import GanSettings
from models.gan_training import (
    GanRun,
    Judge,
    Terms,
    after_step,
    draw_tiles,
    set_learning_rate,
    stop_if_cancelled,
    take_turn,
)
from models.watch import Watch

STAGE = "pix2pix"


def train_pix2pix(
    settings: GanSettings,
    pairs: Sequence[LabelledFrame],
    directory: Path,
    watch: Watch,
    judge: Judge | None = None,
) -> Generator:
    """Learn to paint micrographs over masks.

    Parameters
    ----------
    settings : GanSettings
    pairs : sequence of LabelledFrame
        Real frames and their rough masks.
    directory : Path
        Receives the state and `progress.jsonl`; a state found there is resumed, and a finished
        run returns at once.
    watch : Watch
    judge : callable, optional
        Decides which of the generators met on the way is kept; without one, the last.

    Returns
    -------
    Generator
        Ready for `render`.

    Raises
    ------
    AdaptationError
        If no mask shows a particle, the loss is no longer finite, or memory does not hold a tile.
    Cancelled
        If the watch said so.
    ConfigError
        If the directory holds another run.
    """
    if not any(pair.mask.any() for pair in pairs):
        raise AdaptationError(
            f"no particle in any of the {len(pairs)} rough masks: there is nothing to learn a "
            "particle's look from; give frames with particles, or another way to rough masks"
        )
    settings = settings.for_area(sum(pair.mask.size for pair in pairs))
    run = _begin(settings, data_hash(pairs))
    run.resume(directory)
    if run.step == settings.steps:
        return run.finished()
    while run.step < settings.steps:
        stop_if_cancelled(run, directory, watch)
        set_learning_rate(run)
        rng = run.rng()
        layers, tiles = _draw(run, pairs, rng)
        figures, (painted,) = take_turn(
            run,
            "generators",
            (layers, tiles),
            lambda *part: generator_terms(run, *part),
        )
        masks = layers[:, :1]
        shown = run.buffers["of_image"].exchange(torch.cat([masks, painted], 1), rng)
        told, _ = take_turn(
            run,
            "discriminators",
            (shown, torch.cat([masks, tiles], 1)),
            lambda *part: discriminator_terms(run, *part),
        )
        after_step(run, directory, watch, figures | told, judge)
    return run.finish(directory)


def _begin(settings: GanSettings, data: str) -> GanRun:
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        generator = Generator(settings)
        discriminator = Discriminator(settings, layers=2)
    return GanRun(
        STAGE,
        settings,
        {"image_from_mask": generator},
        {"of_image": discriminator},
        data,
    )


def _draw(
    run: GanRun, pairs: Sequence[LabelledFrame], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return masks with noise (B, 1 + N, H, W) and the true tiles (B, 1, H, W)."""
    tiles, masks = draw_tiles(pairs, run.settings, rng)
    layers = as_layers(masks, run.settings.noise_channels, rng)
    true = torch.from_numpy(tiles)[:, None]
    return torch.from_numpy(layers).to(run.device), true.to(run.device)


def generator_terms(run: GanRun, layers: Tensor, tiles: Tensor) -> Terms:
    """Judge what the generator paints: whether it passes for real, and how near the truth."""
    weights, blur_px = run.settings.weights, run.settings.match_px
    discriminator = run.networks["discriminators"]["of_image"]
    painted = run.generator(layers)  # (B, 1, H, W)
    is_real = discriminator(torch.cat([layers[:, :1], painted], dim=1))
    gan = (is_real - 1.0).square().mean()
    seen = smooth(painted, blur_px) / HALF_RANGE
    true = smooth(tiles, blur_px) / HALF_RANGE
    l1, mse = functional.l1_loss(seen, true), functional.mse_loss(seen, true)
    total = weights.gan * gan + weights.l1 * l1 + weights.mse * mse
    return Terms(total, {"gan": gan, "l1": l1, "mse": mse}, (painted.detach(),))


def discriminator_terms(run: GanRun, shown: Tensor, true: Tensor) -> Terms:
    """Judge how well painted tiles (B, 2, H, W) are told from true ones."""
    discriminator = run.networks["discriminators"]["of_image"]
    painted_is_real, true_is_real = discriminator(torch.cat([shown, true])).chunk(2)
    loss = (painted_is_real.square().mean() + (true_is_real - 1.0).square().mean()) / 2
    return Terms(loss.clamp_min(run.settings.rest_below), {"discriminator": loss})


def render(
    generator: Generator, masks: Sequence[NDArray[np.bool_]], seed: int
) -> list[NDArray[np.float32]]:
    """Paint a normalised frame over each mask.

    Parameters
    ----------
    generator : Generator
        From `train_pix2pix`.
    masks : sequence of bool array, each (H, W)
        Of any size.
    seed : int
        Decides the noise; the same mask under another seed comes out with other grain.

    Returns
    -------
    list of float32 array, each (H, W), within -10..10
        Not normalised anew: contrast and level are what the generator learnt.
    """
    return [
        paint(
            generator,
            as_layers(mask, generator.noise_channels, np.random.default_rng((seed, n))),
        )
        for n, mask in enumerate(masks)
    ]
