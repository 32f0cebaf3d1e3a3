"""What a mask is worth to the verdict, by how true it is: exact ones beside the classical cut's.

    EMCOPILOT_DATA=... python benchmarks/worth_of_masks.py [--frames 172] [--json FILE]

The verdict weighs outlines without truth. Here the truth is known: EMPS, masks drawn by hand. Of
the frames that the classical cut can cut some are drawn, as many as a job holds back, and what
masks are worth on them is given as a share of what the cut's own are worth: exact masks, exact
ones grown and shrunk by 2 px, exact ones of which a third of the particles is missing.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
    look_at_masks,
    weigh,
)

SEED = 0
HELD_BACK = 6
DRAWS = 4000


def without_a_third(mask: Mask, rng: np.random.Generator) -> Mask:
    """Leave out a third of the components, drawn at random; one alone stays."""
    components, count = ndimage.label(mask)
    gone = 1 + rng.choice(count, round(count / 3), replace=False)
    return mask & ~np.isin(components, gone)


CHANGES: dict[str, Callable[[Mask, np.random.Generator], Mask]] = {
    "exact": lambda mask, _: mask,
    "shrunk by 2 px": lambda mask, _: shrunk(mask, 2),
    "grown by 2 px": lambda mask, _: grown(mask, 2),
    "a third missing": without_a_third,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame: what the verdict sees of the classical cut and of each kind of mask."""

    by_cut: Looked
    by_kind: dict[str, Looked]
    cut_miou: float


@dataclass(frozen=True, slots=True)
class Row:
    """What masks of one kind are worth, as a share of the cut's, over the draws."""

    kind: str
    median: float
    low: float
    """5 % of the draws have less."""
    high: float
    reached: dict[str, float]
    """Share of the draws that reach a limit of the verdict, by limit."""

    def __str__(self) -> str:
        reached = ", ".join(
            f"{n:.1%} from {limit} on" for limit, n in self.reached.items()
        )
        return (
            f"{self.kind:16} {self.median:.2f} of the cut's worth (5 to 95 %: {self.low:.2f} to "
            f"{self.high:.2f}); {reached}"
        )


def look(mask: Mask, frame: Frame) -> Looked:
    """Look at a mask that is the same however often it is asked for, turned over or not."""
    turns = iter((mask, mask[::-1, ::-1]))
    return look_at_masks(lambda _: next(turns), [frame])[0]


def shares(samples: list[Sample], kind: str) -> NDArray[np.float64]:
    """Return the worth of masks of a kind over that of the cut's, draw by draw."""
    rng = np.random.default_rng(SEED)
    drawn = (rng.choice(len(samples), HELD_BACK, replace=False) for _ in range(DRAWS))
    groups = ([samples[n] for n in numbers] for numbers in drawn)
    return np.array(
        [
            weigh([one.by_kind[kind] for one in group]).worth
            / weigh([one.by_cut for one in group]).worth
            for group in groups
        ]
    )


def row_of(samples: list[Sample], kind: str) -> Row:
    """Summarise masks of one kind."""
    of_cut = shares(samples, kind)
    low, middle, high = (float(value) for value in np.percentile(of_cut, (5, 50, 95)))
    reached = {
        str(limit): float(np.mean(of_cut >= limit)) for limit in (LEAST_OF_CUT, AS_GOOD)
    }
    return Row(kind, middle, low, high, reached)


def read_samples(most: int) -> tuple[list[Sample], Way]:
    """Return the frames that the cut can cut, and how it cuts."""
    images = read_emps(data_folder())[:most]
    pairs = [read_pair(image.pair) for image in images]
    frames = [normalise(pixels).astype(np.float32) for pixels, _ in pairs]
    way = choose_way(frames)
    rng = np.random.default_rng(SEED)  # one for all: else each frame loses its first
    looked = [
        sample_of(frame, truth, way, rng)
        for frame, (_, truth) in zip(frames, pairs, strict=True)
    ]
    return [one for one in looked if one], way


def sample_of(
    frame: Frame, truth: Mask, way: Way, rng: np.random.Generator
) -> Sample | None:
    """Look at one frame's masks; none where the cut finds nothing."""
    cuts: list[Mask] = []

    def cut_once_more(one: Frame) -> Mask:
        cuts.append(cut(one, way).mask)
        return cuts[-1]

    by_cut = look_at_masks(cut_once_more, [frame])[0]
    found = cuts[0]
    if not found.any():
        return None
    kinds = {name: look(change(truth, rng), frame) for name, change in CHANGES.items()}
    return Sample(by_cut, kinds, pixel_score(found, truth).miou)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=172)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine())
    samples, way = read_samples(options.frames)
    mean = float(np.mean([one.cut_miou for one in samples]))
    print(
        f"{way}: finds something in {len(samples)} of {options.frames} frames, MIoU {mean:.3f}"
    )
    rows = [row_of(samples, kind) for kind in CHANGES]
    for row in rows:
        print(row)
    figures = {
        "machine": machine(),
        "cut": str(way),
        "frames": options.frames,
        "n": len(samples),
        "cut_miou": mean,
        "draws": DRAWS,
        "held_back": HELD_BACK,
        "seed": SEED,
        "rows": [asdict(row) for row in rows],
    }
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
