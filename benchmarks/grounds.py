"""Where label-free learning is tried: frames without labels, and others whose truth judges it.

A ground's masks of its unlabelled frames are there too, for what is compared with it: the same
network trained on labels. No job is shown them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from emps import data_folder, read_emps, split
from numpy.typing import NDArray
from one_liner import one_liner_miou

from emcopilot.optics import Mode
from emcopilot.simulate import Scene, demo_scene, render_micrograph
from models import checkpoint
from models.datasets import LabelledFrame, label, read_pair
from models.predict import predictor
from models.segmentation_metrics import pixel_score
from models.training import named_device

Pixels = NDArray[np.generic]
Mask = NDArray[np.bool_]
SIDE_PX = 512
TEST_FRAMES = 8
UNLABELLED_SEED, TEST_SEED = 2_026_112_701, 2_026_112_702


@dataclass(frozen=True, slots=True)
class Labelled:
    """A frame as a camera stores it, with its truth; both (H, W)."""

    name: str
    pixels: Pixels
    mask: Mask


@dataclass(frozen=True, slots=True)
class Ground:
    """One domain."""

    name: str
    split: str
    """What sets the two apart."""
    unlabelled: list[Labelled]
    test: list[Labelled]

    def write_frames(self, folder: Path) -> Path:
        """Write the unlabelled frames, without their masks, as a camera would."""
        folder.mkdir(parents=True, exist_ok=True)
        for frame in self.unlabelled:
            tifffile.imwrite(folder / f"{frame.name}.tif", frame.pixels)
        return folder

    def labels(self) -> list[LabelledFrame]:
        """Return the unlabelled frames with their masks, for training on labels."""
        return [label(f.name, f.pixels, f.mask) for f in self.unlabelled]


def simulated(mode: Mode, frames: int, scene: Scene | None = None) -> Ground:
    """Return fields of view of one specimen under one microscope, the demo's by default."""
    scene = scene or demo_scene(mode, size=SIDE_PX)
    return Ground(
        f"simulated {mode}",
        f"seeds ({UNLABELLED_SEED}, n) and ({TEST_SEED}, n)",
        _fields(scene, UNLABELLED_SEED, frames),
        _fields(scene, TEST_SEED, TEST_FRAMES),
    )


def _fields(scene: Scene, seed: int, count: int) -> list[Labelled]:
    fields: list[Labelled] = []
    for number in range(count):
        frame = render_micrograph(scene, np.random.default_rng((seed, number)))
        fields.append(Labelled(f"field-{number:03d}", frame.pixels, frame.labels > 0))
    return fields


def emps(frames: int) -> Ground:
    """Return real micrographs of many papers, pooled as dark particles on film."""
    training, validation = split(read_emps(data_folder()))
    return Ground(
        "EMPS pooled",
        "by DOI, the split of the base model",
        _read(training[:: max(1, len(training) // frames)][:frames]),
        _read(validation),
    )


def _read(images: Sequence[object]) -> list[Labelled]:
    pairs = [image.pair for image in images]  # type: ignore[attr-defined]
    return [Labelled(pair.image.stem, *read_pair(pair)) for pair in pairs]


def miou_of(
    model: str | Path, frames: Sequence[Labelled], device: str = "auto"
) -> NDArray[np.float64]:
    """Return a model's MIoU on each frame, as the live path looks at it, shape (N,)."""
    network, card = checkpoint.load(model)
    show = predictor(network.to(named_device(device)), card)
    return np.array([pixel_score(show(f.pixels) >= 128, f.mask).miou for f in frames])


def otsu_of(frames: Sequence[Labelled]) -> NDArray[np.float64]:
    """Return the one-liner's MIoU at the one blur that suits these very frames best, (N,)."""
    scores = np.array([one_liner_miou(f.pixels, f.mask) for f in frames])
    return scores[:, scores.mean(0).argmax()]


def masks_miou(found: Sequence[Mask], truth: Sequence[Mask]) -> NDArray[np.float64]:
    """Return the MIoU of masks with the truth, shape (N,)."""
    return np.array(
        [pixel_score(one, true).miou for one, true in zip(found, truth, strict=True)]
    )
