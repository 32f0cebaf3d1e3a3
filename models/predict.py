"""From one frame's pixels to its probability map, as live inference, judges and benchmarks see it.

Normalise, look natively, look again where `Scales` says so, mean the leads, and leave out what the
model does not believe itself.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from emcopilot.belief import believed
from emcopilot.confidence import IDENTITY, ParticleConfidence
from models.checkpoint import ModelCard
from models.leads import Lead, Window, probability_of
from models.npssegnet import torch_run
from models.preprocess import normalise
from models.scales import LIVE, Scales, leads_at
from models.tiling import Run, Tiling, to_uint8

Predictor = Callable[[NDArray[np.generic]], NDArray[np.uint8]]
"""One frame's pixels, (H, W), to its probability map, uint8 (H, W)."""


def predictor(network: nn.Module, card: ModelCard) -> Predictor:
    """Return a model's whole way from pixels to its probability map, where its weights lie."""
    run, confidence = torch_run(network), card.particle_confidence or IDENTITY
    return lambda pixels: predict(pixels, run, confidence=confidence)


def predict(
    pixels: NDArray[np.generic],
    run: Run,
    tiling: Tiling | None = None,
    scales: Scales = LIVE,
    confidence: ParticleConfidence = IDENTITY,
) -> NDArray[np.uint8]:
    """Return the particle probability of every pixel of one frame.

    Parameters
    ----------
    pixels : array, shape (H, W), any real dtype
        Detector counts. The whole frame is normalised before it is cut: tiles normalised one by
        one would disagree about the background where they meet.
    run : callable
        The engine: (B, 1, h, w) float32 -> (B, h, w) float32 probability.
    tiling : Tiling, optional
        How to cut large frames.
    scales : Scales, optional
        At which magnifications to look.
    confidence : ParticleConfidence, optional
        The model's own: what it gives hardly a chance is no particle. The identity drops nothing.

    Returns
    -------
    uint8 array, shape (H, W)
        Probability scaled to 0..255; 128 and above is particle.
    """
    return predict_together([pixels], run, tiling, scales, confidence)[0]


def predict_together(
    frames: Sequence[NDArray[np.generic]],
    run: Run,
    tiling: Tiling | None = None,
    scales: Scales = LIVE,
    confidence: ParticleConfidence = IDENTITY,
) -> list[NDArray[np.uint8]]:
    """Predict frames of one shape (H, W) in common passes, which a GPU gains from.

    Parameters are those of `predict`; what exceeds one pass is cut into tiles, frame by frame.
    """
    normalised = [normalise(pixels) for pixels in frames]
    leads = mean_leads(normalised, run, tiling, scales)
    return [believed(to_uint8(probability_of(lead)), confidence) for lead in leads]


def mean_leads(
    frames: Sequence[NDArray[np.float32]],
    run: Run,
    tiling: Tiling | None = None,
    scales: Scales = LIVE,
) -> list[Lead]:
    """Return the leads of normalised frames of one shape (H, W), meant over all looks."""
    cut = tiling or Tiling()
    looks = [{1.0: native} for native in leads_at(frames, 1.0, run, cut)]
    wanted = [
        scales.beside(native[1.0], partial(_glimpse, frame, run=run, tiling=cut))
        for frame, native in zip(frames, looks, strict=True)
    ]
    for magnification in sorted(set().union(*wanted)):
        those = [i for i, one in enumerate(wanted) if magnification in one]
        answers = leads_at([frames[i] for i in those], magnification, run, cut)
        for i, lead in zip(those, answers, strict=True):
            looks[i][magnification] = lead
    return [scales.meant(of_frame) for of_frame in looks]


def _glimpse(
    frame: NDArray[np.float32],
    window: Window,
    magnification: float,
    *,
    run: Run,
    tiling: Tiling,
) -> Lead:
    return leads_at([frame[window]], magnification, run, tiling)[0]
