"""Which generator is kept: a GAN has no loss that converges, so real frames decide.

Frames that nothing learnt from are compared with what a generator makes, in the features of the
incumbent; a generator that moves particles about is fined.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.adapt_settings import AdaptSettings
from models.cyclegan import translate
from models.datasets import LabelledFrame
from models.domain import Domain
from models.gan_networks import Generator
from models.gan_training import Judge
from models.image_metrics import Features, fine_enough, kernel_mmd, look
from models.mask_statistics import MaskStatistics
from models.pix2pix import render
from models.random_mask import draw_mask
from models.synthesise import Frame, overlaps

LOOKED_AT = 6
"""Frames by which a GAN's judge compares: one look takes seconds on a CPU."""
UNTRUE = 10.0
"""What a generator that moves particles is fined, per overlap lost beyond what is allowed: far
more than any gain in realism."""


def judge_of_painting(
    job: AdaptSettings,
    domain: Domain,
    statistics: MaskStatistics,
    features: Features,
) -> Judge:
    """Judge pix2pix by how real frames look that it paints over masks it never saw."""
    side, seed = (job.side_px, job.side_px), job.seed + 1
    masks = [
        draw_mask(statistics, side, np.random.default_rng((seed, n))).mask
        for n in range(LOOKED_AT)
    ]
    return _realism(
        lambda generator: render(generator, masks, seed), domain.held_back, features
    )


def judge_of_translation(
    job: AdaptSettings,
    domain: Domain,
    first: Sequence[LabelledFrame],
    features: Features,
) -> Judge:
    """Judge CycleGAN by realism, and fine it where masks become untrue."""
    some = first[:LOOKED_AT]
    pixels = [frame.pixels.astype(np.float32) for frame in some]
    before = overlaps(some, domain.cut)
    realism = _realism(
        lambda generator: translate(generator, pixels), domain.held_back, features
    )

    def judge(generator: Generator) -> float:
        shown = [
            LabelledFrame(frame.name, made.astype(np.float16), frame.mask)
            for frame, made in zip(some, translate(generator, pixels), strict=True)
        ]
        lost = float((before - overlaps(shown, domain.cut)).mean())
        return realism(generator) + UNTRUE * max(0.0, lost - job.most_lost)

    return judge


def _realism(
    made_by: Callable[[Generator], list[Frame]],
    held_back: Sequence[Frame],
    features: Features,
) -> Judge:
    """Return the kernel MMD of what a generator makes to real frames that nothing learnt from."""
    looks = fine_enough(held_back, features)
    theirs = look(held_back, features, looks)

    def judge(generator: Generator) -> float:
        made = made_by(generator)
        ours = look(made, features, fine_enough(made, features))
        return kernel_mmd(ours, theirs, looks)[0]

    return judge
