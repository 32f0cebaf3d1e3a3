"""Who may judge the masks of the synthetic set."""

import numpy as np

from models.adapt_evaluate import _fidelity, _is_sound
from models.classical_cut import choose_way, cut
from models.datasets import LabelledFrame


def discs(number: int, shift_px: int = 0, contrast: float = 3.0) -> LabelledFrame:
    """Discs in grain; the mask lies beside them by `shift_px`."""
    rng = np.random.default_rng(number)
    y, x = np.ogrid[:160, :160]
    mask = np.zeros((160, 160), bool)
    for row in (30, 80, 130):
        for column in (30, 80, 130):
            cy, cx = np.array([row, column]) + rng.integers(-4, 5, 2)
            mask |= np.hypot(y - cy, x - cx) < 12
    pixels = contrast * mask + 0.5 * rng.standard_normal(mask.shape)
    shifted = np.roll(mask, shift_px, axis=0)
    return LabelledFrame(f"f{number}", pixels.astype(np.float16), shifted)


def judged(
    first: list[LabelledFrame], second: list[LabelledFrame]
) -> tuple[bool, float]:
    way = choose_way([frame.pixels.astype(np.float32) for frame in first])
    found = _fidelity(first, second, lambda frame: cut(frame, way).mask)
    return _is_sound(first, found, way), float(found.second.mean())


def test_a_clear_first_generation_lets_the_classical_cut_judge_the_second() -> None:
    first = [discs(n) for n in range(4)]
    is_sound, kept = judged(first, first)
    assert is_sound
    assert kept > 0.9
    moved = [discs(n, shift_px=6) for n in range(4)]
    is_sound, kept = judged(first, moved)
    assert is_sound  # it is of the first generation's particles
    assert kept < 0.7  # and sees that translation moved them


def test_it_does_not_judge_where_it_finds_no_particles_itself() -> None:
    faint = [discs(n, contrast=0.05) for n in range(4)]
    assert not judged(faint, faint)[0]
    elsewhere = [discs(n, shift_px=12) for n in range(4)]
    assert not judged(elsewhere, elsewhere)[0]
