"""The synthetic set: what is drawn beside what the rough masks say, and how it is handed on."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.datasets import LabelledFrame
from models.domain import Domain
from models.gan_networks import Generator
from models.gan_settings import CYCLEGAN, PIX2PIX
from models.mask_statistics import MaskStatistics
from models.rough_mask import NOTHING_FOUND
from models.synthesise import first_generation, second_generation

SIDE_PX = 96
SMALL = {"decoder_channels": (16, 8, 8), "discriminator_channels": (16, 8, 8)}


@pytest.fixture(scope="module")
def statistics() -> MaskStatistics:
    """A domain whose rough masks show discs of 12 px on a twelfth of each frame."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    masks: list[NDArray[np.bool_]] = []
    for shift in range(4):
        centres = [(20 + shift, 20), (24, 68 + shift), (48, 44), (70, 24), (74, 72)]
        masks.append(
            np.any([np.hypot(rows - y, columns - x) < 6 for y, x in centres], axis=0)
        )
    return MaskStatistics.of(masks)


@pytest.fixture(scope="module")
def painter() -> Generator:
    return Generator(PIX2PIX["quick"].model_copy(update=SMALL)).eval()


def test_crowded_frames_come_last_and_hold_more_than_the_domain(
    statistics: MaskStatistics, painter: Generator
) -> None:
    made = first_generation(
        painter, statistics, count=24, side_px=SIDE_PX, seed=0, crowded=12
    )
    plain = first_generation(painter, statistics, count=24, side_px=SIDE_PX, seed=0)
    covered = np.array([frame.mask.mean() for frame in made])
    assert len(made) == 24
    # Those before them are the very frames that are made without.
    assert all(
        (a.mask == b.mask).all() for a, b in zip(made[:12], plain[:12], strict=True)
    )
    assert covered[:12].max() < 0.25
    assert covered[12:].mean() > 2 * covered[:12].mean()
    assert covered[12:].max() > 0.4


def test_a_frame_that_is_mostly_particle_is_normalised_as_a_camera_would() -> None:
    mask = np.ones((SIDE_PX, SIDE_PX), np.bool_)
    mask[::8] = False
    grain = np.random.default_rng(0).normal(0, 0.1, mask.shape)
    pixels = (np.where(mask, -3.0, 0.0) + grain).astype(np.float16)
    first = [LabelledFrame(f"synthetic-{n}", pixels, mask) for n in range(4)]
    # Untrained, a generator that only says what changes changes nothing.
    still = Generator(CYCLEGAN["quick"].model_copy(update=SMALL), residual_limit=1.0)
    second = second_generation(still.eval(), first, lambda _: mask, most_lost=0.05)
    assert len(second) == 4
    for frame in second:
        assert (frame.mask == mask).all()
        assert np.median(frame.pixels) == pytest.approx(0.0, abs=0.01)
        assert frame.pixels[~mask].mean() > 4


def test_only_frames_in_which_nothing_was_found_speak_for_crowded_ones() -> None:
    empty = LabelledFrame("seen", np.zeros((8, 8), np.float16), np.zeros((8, 8), bool))
    domain = Domain(
        frames=[empty] * 6,
        painted=[],
        held_back=[],
        cut=lambda frame: frame > 0,
        how="classical",
        why="",
        left_out={
            "a": NOTHING_FOUND,
            "b": NOTHING_FOUND,
            "c": "blank",
            "d": "defocused",
        },
    )
    assert domain.missed == pytest.approx(0.2)
