"""What a mask is worth to the verdict, by how true it is: exact ones beside the classical cut's.

    EMCOPILOT_DATA=... python benchmarks/worth_of_masks.py [--frames 172] [--json FILE]

The verdict weighs outlines without truth. Here the truth is known: EMPS, masks drawn by hand. Of
the frames that the classical cut can cut some are drawn, as many as a job holds back, and what
masks are worth on them is given as a share of what the cut's own are worth: exact masks, exact
ones grown and shrunk by 2 px, exact ones of which a third of the particles is missing.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from emps import data_folder, read_emps
from machine import machine, write_json
from numpy.typing import NDArray
from scipy import ndimage

from models.classical_cut import Way, choose_way, cut, grown, shrunk
from models.datasets import read_pair
from models.preprocess import normalise
from models.segmentation_metrics import pixel_score
from models.verdict import (
    AS_GOOD,
    LEAST_OF_CUT,
    Frame,
    Looked,
    Mask,
    masks_looked_at,
    worth,
)

SEED = 0
HELD_BACK = 6
DRAWS = 4000


def without_a_third(mask: Mask) -> Mask:
    """Leave out a third of the components, drawn at random."""
    components, count = ndimage.label(mask)
    stays = np.random.default_rng(SEED).random(count + 1) >= 1 / 3
    stays[0] = False
    return stays[components]


CHANGES: dict[str, Callable[[Mask], Mask]] = {
    "exact": lambda mask: mask,
    "shrunk by 2 px": lambda mask: shrunk(mask, 2),
    "grown by 2 px": lambda mask: grown(mask, 2),
    "a third missing": without_a_third,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame: what the verdict sees of the classical cut and of each kind of mask."""

    by_cut: Looked
    by_kind: dict[str, Looked]
    cut_miou: float


def look(mask: Mask, frame: Frame) -> Looked:
    """Look at a mask that is the same however often it is asked for, turned over or not."""
    turns = iter((mask, mask[::-1, ::-1]))
    return masks_looked_at(lambda _: next(turns), [frame])[0]


def shares(samples: list[Sample], kind: str) -> NDArray[np.float64]:
    """Return the worth of masks of a kind over that of the cut's, draw by draw."""
    rng = np.random.default_rng(SEED)
    drawn = (rng.choice(len(samples), HELD_BACK, replace=False) for _ in range(DRAWS))
    groups = ([samples[n] for n in numbers] for numbers in drawn)
    return np.array(
        [
            worth([one.by_kind[kind] for one in group]).worth
            / worth([one.by_cut for one in group]).worth
            for group in groups
        ]
    )


def read_samples(most: int) -> tuple[list[Sample], int]:
    """Return the frames that the cut can cut, and how many were tried."""
    images = read_emps(data_folder())[:most]
    pairs = [read_pair(image.pair) for image in images]
    frames = [normalise(pixels).astype(np.float32) for pixels, _ in pairs]
    way = choose_way(frames)
    print(f"classical cut: {way}", flush=True)
    looked = [
        sample_of(frame, truth, way)
        for frame, (_, truth) in zip(frames, pairs, strict=True)
    ]
    return [one for one in looked if one], len(frames)


def sample_of(frame: Frame, truth: Mask, way: Way) -> Sample | None:
    """Look at one frame's masks; none where the cut finds nothing."""
    cuts: list[Mask] = []

    def cut_once_more(one: Frame) -> Mask:
        cuts.append(cut(one, way).mask)
        return cuts[-1]

    by_cut = masks_looked_at(cut_once_more, [frame])[0]
    found = cuts[0]
    if not found.any():
        return None
    kinds = {name: look(change(truth), frame) for name, change in CHANGES.items()}
    return Sample(by_cut, kinds, pixel_score(found, truth).miou)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=172)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine())
    samples, tried = read_samples(options.frames)
    mean = float(np.mean([one.cut_miou for one in samples]))
    print(
        f"the cut finds something in {len(samples)} of {tried} frames; its MIoU there: {mean:.3f}"
    )
    figures: dict[str, object] = {"machine": machine(), "n": len(samples), "miou": mean}
    for kind in CHANGES:
        of_cut = shares(samples, kind)
        low, middle, high = np.percentile(of_cut, (5, 50, 95))
        print(
            f"{kind:16} {middle:.2f} of the cut's worth (5 to 95 %: {low:.2f} to {high:.2f}; "
            f"{DRAWS} draws of {HELD_BACK}); from {AS_GOOD} on {np.mean(of_cut >= AS_GOOD):.1%}, "
            f"from {LEAST_OF_CUT} on {np.mean(of_cut >= LEAST_OF_CUT):.1%}",
            flush=True,
        )
        figures[kind] = {"p5": low, "p50": middle, "p95": high}
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
