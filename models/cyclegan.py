"""Step F: CycleGAN, which gives rendered frames the look of real ones without any pairs.

Its trap: coming back unchanged does not stop a generator from moving, nibbling or inventing
particles, and then the masks lie. Four things hold it: each generator begins as the identity and
adds a bounded change to its input (`residual_limit`); it leaves alone what is of its target domain
already (identity term); edges must stay where the mask has them (`edges_moved`); and a frozen
segmenter, where one is given, must find particles as well after translation as before (`harm`).

Source: Zhu et al. 2017 (least-squares terms, cycle 10, identity 5, buffer of 50), for electron
micrographs tGAN (doi 10.1038/s41524-025-01800-5). Bound, edges and structure are ours.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
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
    weights_hash,
)
from models.losses import focal_and_jaccard
from models.watch import Watch

STAGE = "cyclegan"
EDGE_REACH_PX = 3
"""How far from a mask's edge the image is compared, and half the window it is compared in."""
EDGE_BLUR_PX = 1.0
"""Gaussian, one sigma: grain may change."""
LEAST_VARIANCE = 0.01
"""Of a window, in squared units of a normalised frame; a fainter edge weighs less."""


def train_cyclegan(
    settings: GanSettings,
    rendered: Sequence[LabelledFrame],
    real: Sequence[NDArray[np.floating]],
    directory: Path,
    watch: Watch,
    *,
    keeper: nn.Module | None = None,
    judge: Judge | None = None,
) -> Generator:
    """Learn to give rendered frames the look of real ones.

    Parameters
    ----------
    settings : GanSettings
    rendered : sequence of LabelledFrame
        The 1st generation and the masks that it was painted over.
    real : sequence of float16 or float32 array, each (H, W)
        Normalised frames; nothing is known of their particles.
    directory : Path
        Receives the state and `progress.jsonl`; a state found there is resumed, and a finished
        run returns at once.
    watch : Watch
    keeper : Module, optional
        A segmenter, (B, 1, H, W) to logits (B, 2, H, W), that keeps particles where they are. It
        is frozen, and put into its evaluating state.
    judge : callable, optional
        Decides which of the generators met on the way is kept; without one, the last.

    Returns
    -------
    Generator
        real_from_rendered, ready for `translate`.

    Raises
    ------
    AdaptationError
        If a set is empty, the loss is no longer finite, or memory does not hold a tile.
    Cancelled
        If the watch said so.
    ConfigError
        If the directory holds another run.
    """
    if not rendered or not real:
        raise AdaptationError(
            f"CycleGAN needs frames of both domains; got {len(rendered)} rendered and "
            f"{len(real)} real"
        )
    targets = [_unlabelled(n, pixels) for n, pixels in enumerate(real)]
    settings = settings.for_area(sum(target.mask.size for target in targets))
    keeper = keeper if settings.weights.structure else None
    data = "-".join([data_hash(rendered), data_hash(targets), weights_hash(keeper)])
    run = _begin(settings, data)
    run.resume(directory)
    if run.step == settings.steps:
        return run.finished()
    if keeper is not None:
        keeper = keeper.to(run.device).eval().requires_grad_(False)
    while run.step < settings.steps:
        stop_if_cancelled(run, directory, watch)
        set_learning_rate(run)
        rng = run.rng()
        batch = _draw(run, rendered, targets, rng)
        figures, (as_real, as_rendered) = take_turn(
            run, "generators", batch, lambda *part: generator_terms(run, keeper, *part)
        )
        shown = (
            run.buffers["of_real"].exchange(as_real, rng),
            run.buffers["of_rendered"].exchange(as_rendered, rng),
        )
        told, _ = take_turn(
            run,
            "discriminators",
            (*shown, batch[2][:, :1], batch[0][:, :1]),
            lambda *part: discriminator_terms(run, *part),
        )
        after_step(run, directory, watch, figures | told, judge)
    return run.finish(directory)


def _unlabelled(number: int, pixels: NDArray[np.floating]) -> LabelledFrame:
    empty = np.zeros(pixels.shape, np.bool_)
    return LabelledFrame(f"real{number}", pixels.astype(np.float16), empty)


def _begin(settings: GanSettings, data: str) -> GanRun:
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        generators = {
            name: Generator(settings, settings.residual_limit)
            for name in ("real_from_rendered", "rendered_from_real")
        }
        discriminators = {
            name: Discriminator(settings, layers=1)
            for name in ("of_real", "of_rendered")
        }
    return GanRun(STAGE, settings, generators, discriminators, data)


def _draw(
    run: GanRun,
    rendered: Sequence[LabelledFrame],
    real: Sequence[LabelledFrame],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rendered tiles (B, 1 + N, H, W), their masks (B, H, W), and real tiles."""
    noise_channels = run.settings.noise_channels
    tiles, masks = draw_tiles(rendered, run.settings, rng)
    rendered_layers = as_layers(tiles, noise_channels, rng)
    real_layers = as_layers(draw_tiles(real, run.settings, rng)[0], noise_channels, rng)
    return (
        torch.from_numpy(rendered_layers).to(run.device),
        torch.from_numpy(masks).to(run.device),
        torch.from_numpy(real_layers).to(run.device),
    )


def generator_terms(
    run: GanRun, keeper: nn.Module | None, rendered: Tensor, masks: Tensor, real: Tensor
) -> Terms:
    """Judge both translations: whether they pass, come back, spare their own, move nothing."""
    weights = run.settings.weights
    generators = run.networks["generators"]
    discriminators = run.networks["discriminators"]
    real_from_rendered = generators["real_from_rendered"]
    rendered_from_real = generators["rendered_from_real"]
    # A tile does not notice what shares its batch: two calls in one.
    as_real, real_same = real_from_rendered(torch.cat([rendered, real])).chunk(2)
    as_rendered, rendered_same = rendered_from_real(torch.cat([real, rendered])).chunk(
        2
    )
    rendered_again = rendered_from_real(_over(rendered, as_real))
    real_again = real_from_rendered(_over(real, as_rendered))
    rendered_pixels, real_pixels = rendered[:, :1], real[:, :1]
    terms = {
        "gan": (discriminators["of_real"](as_real) - 1.0).square().mean()
        + (discriminators["of_rendered"](as_rendered) - 1.0).square().mean(),
        "cycle": _difference(rendered_again, rendered_pixels)
        + _difference(real_again, real_pixels),
        "identity": _difference(real_same, real_pixels)
        + _difference(rendered_same, rendered_pixels),
        "edges": edges_moved(rendered_pixels, as_real, masks),
    }
    if keeper is not None:
        terms["structure"] = harm(keeper, rendered_pixels, as_real, masks)
    share = weights.model_dump()
    total = torch.stack([share[name] * term for name, term in terms.items()]).sum()
    return Terms(total, terms, (as_real.detach(), as_rendered.detach()))


def _over(layers: Tensor, image: Tensor) -> Tensor:
    """Put another image over the same noise."""
    return torch.cat([image, layers[:, 1:]], dim=1)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    return functional.l1_loss(one, other) / HALF_RANGE


def edges_moved(before: Tensor, after: Tensor, masks: Tensor) -> Tensor:
    """Say how far the edges of particles left their place: 0 not at all, 2 turned inside out.

    Parameters
    ----------
    before, after : float tensors, shape (B, 1, H, W)
    masks : bool tensor, shape (B, H, W)

    Notes
    -----
    One minus the correlation of both images within a window, averaged over the windows along the
    masks' edges: more or less contrast and another level cost nothing, a shifted flank does.
    """
    side = 2 * EDGE_REACH_PX + 1
    with torch.autocast(before.device.type, enabled=False):
        drawn = masks[:, None].float()
        band = _most(drawn, side) - 1.0 + _most(1.0 - drawn, side)  # 1 near an edge
        old, new = smooth(before, EDGE_BLUR_PX), smooth(after, EDGE_BLUR_PX)
        mean_old, mean_new = _mean(old, side), _mean(new, side)
        shared = _mean(old * new, side) - mean_old * mean_new
        spread = (_mean(old * old, side) - mean_old**2).clamp_min(0) + LEAST_VARIANCE
        spread_new = (_mean(new * new, side) - mean_new**2).clamp_min(0)
        spread_new = spread_new + LEAST_VARIANCE
        correlation = (shared + LEAST_VARIANCE) / (spread * spread_new).sqrt()
        return ((1.0 - correlation) * band).sum() / band.sum().clamp_min(1.0)


def _most(values: Tensor, side: int) -> Tensor:
    return functional.max_pool2d(values, side, stride=1, padding=side // 2)


def _mean(values: Tensor, side: int) -> Tensor:
    return functional.avg_pool2d(
        values, side, stride=1, padding=side // 2, count_include_pad=False
    )


def harm(keeper: nn.Module, before: Tensor, after: Tensor, masks: Tensor) -> Tensor:
    """Say how much worse the keeper finds the particles after translation than before.

    Only the excess counts: a keeper that does not know the domain would otherwise pull images
    towards what it knows, and a generator finds the shortest way to deceive it.
    """
    with torch.no_grad():
        was = focal_and_jaccard(keeper(before), masks).total
    return (focal_and_jaccard(keeper(after), masks).total - was).clamp_min(0)


def discriminator_terms(
    run: GanRun, shown: Tensor, shown_rendered: Tensor, real: Tensor, rendered: Tensor
) -> Terms:
    """Judge how well both discriminators tell what was made from what is of their domain."""
    losses: list[Tensor] = []
    pairs = {"of_real": (shown, real), "of_rendered": (shown_rendered, rendered)}
    for name, (made, own) in pairs.items():
        discriminator = run.networks["discriminators"][name]
        made_is_own, own_is_own = discriminator(torch.cat([made, own])).chunk(2)
        losses.append(made_is_own.square().mean() + (own_is_own - 1.0).square().mean())
    both = torch.stack(losses) / 2
    # Each by itself: one may have won while the other still has to learn.
    total = both.clamp_min(run.settings.rest_below).sum()
    return Terms(total, {"discriminator": both.sum() / 2})


def translate(
    generator: Generator, frames: Sequence[NDArray[np.floating]], seed: int = 0
) -> list[NDArray[np.float32]]:
    """Give rendered frames the look of real ones: the 2nd generation.

    Parameters
    ----------
    generator : Generator
        From `train_cyclegan`.
    frames : sequence of float array, each (H, W)
        Of any size, as `pix2pix.render` returns them.
    seed : int, optional
        Decides the noise, where the generator takes any.

    Returns
    -------
    list of float32 array, each (H, W), within -10..10
    """
    return [
        paint(
            generator,
            as_layers(
                frame, generator.noise_channels, np.random.default_rng((seed, n))
            ),
        )
        for n, frame in enumerate(frames)
    ]
