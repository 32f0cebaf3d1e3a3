"""What one network is taught, stage by stage of the recipe and beside it, and how it fared."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from grounds import Ground

from emcopilot.simulate import LAYERS
from models import checkpoint
from models.adapt import LETTERED, REHEARSED, parted, sources
from models.adapt_settings import AdaptSettings
from models.augmentation import Source
from models.classical_cut import choose_way, cut
from models.curves import read_record
from models.datasets import LabelledFrame, label
from models.domain import open_domain
from models.domain_frames import frame_files
from models.frame_sets import load_frames
from models.train_segmenter import train
from models.train_settings import Recipe

STAGES = (
    "rehearsal",
    "rough",
    "classical",
    "first",
    "second",
    "candidate",
    "plus-1",
    "plus-3",
    "plus-5",
    "manual",
)
SHOWN = {
    "rehearsal": "simulated rehearsal alone, no frame of the domain",
    "rough": "rough masks alone",
    "classical": "classical masks alone",
    "first": "1st generation",
    "second": "2nd generation alone",
    "candidate": "2nd generation and rough masks (the candidate)",
    "plus-1": "the candidate's labels and 1 mask drawn by hand",
    "plus-3": "the candidate's labels and 3 masks drawn by hand",
    "plus-5": "the candidate's labels and 5 masks drawn by hand",
    "manual": "masks drawn by hand",
}
ADDED = 0.25
"""Share of all tiles that show the few frames whose masks were drawn by hand: with less, one of
them among a hundred others is hardly seen in a short training."""
REHEARSAL: dict[str, object] = {
    "rehearsed": REHEARSED,
    "layers": LAYERS,
    "lettered": LETTERED,
}
"""What all stages share beside the job's settings: a training of another is not gone on with."""
ON_THE_WAY, LOOKS = 8, 8
"""Test frames on which a training is judged on its way, and how often."""

Curve = list[tuple[int, float, float]]
"""Step, pixel accuracy and MIoU of the frames that judge on the way."""


def labels_for(
    stage: str, job: AdaptSettings, ground: Ground
) -> Sequence[LabelledFrame]:
    """Return what the network is taught at a stage; from the job's own files but for the last."""
    round_folder = job.out / "round-1"
    if stage == "manual":
        return ground.labels()
    if stage == "rough":
        return load_frames(round_folder / "rough.npz")
    if stage == "classical":
        frames = load_frames(round_folder / "rough.npz")
        pixels = [frame.pixels.astype(np.float32) for frame in frames]
        way = choose_way(pixels)
        return [
            LabelledFrame(f.name, f.pixels, cut(p, way).mask)
            for f, p in zip(frames, pixels, strict=True)
        ]
    return load_frames(round_folder / f"{stage}.npz")


def taught_from(stage: str, job: AdaptSettings, ground: Ground) -> list[Source]:
    if stage == "rehearsal":
        return sources(job, [])
    if stage == "candidate":
        return candidate_sources(job)
    if stage.startswith("plus-"):
        drawn = drawn_by_hand(ground, int(stage.removeprefix("plus-")))
        by_hand = Source(drawn, share=ADDED, scale=(0.35, 1.4), invert=0.0)
        others = candidate_sources(job, without={frame.name for frame in drawn})
        return [*(replace(s, share=(1 - ADDED) * s.share) for s in others), by_hand]
    labels = labels_for(stage, job, ground)
    return sources(job, labels, has_true_edges=stage == "manual")


def drawn_by_hand(ground: Ground, count: int) -> list[LabelledFrame]:
    """Return some of the unlabelled frames with their true masks, evenly spread: one draw."""
    labels = ground.labels()
    return labels[:: len(labels) // count][:count]


def candidate_sources(
    job: AdaptSettings, without: Collection[str] = ()
) -> list[Source]:
    """Return what the job's candidate learnt from, but for the rough masks of some frames."""
    round_folder = job.out / "round-1"
    files = frame_files(job.frames, job.most_frames)
    domain = open_domain(job, files, job.model, round_folder)
    learnt, _ = parted(load_frames(round_folder / "second.npz"))
    shown = [f for f in domain.shown if f.name.removesuffix(".tif") not in without]
    return sources(job, learnt, shown)


def taught(stage: str, job: AdaptSettings, ground: Ground, out: Path) -> Path:
    """Train the job's network on a stage's labels, or find it trained."""
    folder = out / stage
    taught_by = taught_from(stage, job, ground)
    steps = job.train.for_frames(sum(len(s.frames) for s in taught_by)).steps
    settings = job.train.model_copy(
        update={
            "start": job.model,
            "architecture": checkpoint.load(job.model)[1].architecture,
            "judge_every": max(1, steps // LOOKS),
        }
    )
    if not _is_done(folder, steps):
        train(
            settings,
            taught_by,
            folder,
            recipe=Recipe(name=f"label-free-{stage}", data=REHEARSAL),
            held_out=judged_on_the_way(ground),
        )
    return folder


def judged_on_the_way(ground: Ground) -> list[LabelledFrame]:
    """Return a few of the test frames: all of them at every look would cost more than learning."""
    every = max(1, len(ground.test) // ON_THE_WAY)
    few = ground.test[::every][:ON_THE_WAY]
    return [label(f.name, f.pixels, f.mask) for f in few]


def _is_done(folder: Path, steps: int) -> bool:
    """Say whether a training is there, whole and of today's rehearsal."""
    if not (folder / checkpoint.CARD_FILE).exists():
        return False
    lines = read_record(folder)
    is_todays = checkpoint.load(folder)[1].data == REHEARSAL
    return is_todays and bool(lines) and lines[-1]["step"] >= steps


def curve(trained: Path) -> Curve:
    """Return how a training fared on its way, at native magnification."""
    return [
        (int(line["step"]), line["held_out_pa"], line["held_out_miou"])
        for line in read_record(trained)
        if "held_out_miou" in line
    ]
