"""The same work on many frames: the same results, in their order, within memory."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from models.classical_cut import choose_way, cut
from models.side_by_side import MOST_THREADS, side_by_side
from models.verdict import worth_of


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def most_at_a_time(threads: int, largest_px: int) -> int:
    """Let 16 items wait for each other as long as others can still come."""
    torch.set_num_threads(threads)
    lock, at_work, most = threading.Lock(), 0, 0
    company = threading.Event()

    def work(_: int) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        company.wait(0.02)
        with lock:
            at_work -= 1

    side_by_side(work, range(16), largest_px=largest_px)
    return most


def test_results_come_in_the_order_of_the_items() -> None:
    torch.set_num_threads(4)
    assert side_by_side(lambda n: n * n, range(100)) == [n * n for n in range(100)]
    assert side_by_side(str, []) == []


def test_the_first_error_in_that_order_is_raised() -> None:
    torch.set_num_threads(4)
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda n: 1 // (n - 5), range(100))


def test_no_more_threads_than_the_job_was_given_cores() -> None:
    assert most_at_a_time(threads=1, largest_px=0) == 1
    assert 1 < most_at_a_time(threads=3, largest_px=0) <= 3
    assert most_at_a_time(threads=64, largest_px=0) <= MOST_THREADS


def test_of_large_frames_fewer_are_worked_on_at_a_time() -> None:
    assert most_at_a_time(threads=8, largest_px=2048**2) <= 4
    assert most_at_a_time(threads=8, largest_px=8192**2) == 1


def test_one_thread_and_many_judge_and_cut_alike() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    disc = (np.hypot(y - 48, x - 48) < 20) * 4.0
    frames = [
        (disc + rng.normal(0, 0.3, disc.shape)).astype(np.float32) for _ in range(6)
    ]
    seen = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        way = choose_way(frames)
        worth = worth_of(lambda frame, way=way: cut(frame, way).mask, frames)
        seen.append((way, worth))
    assert seen[0] == seen[1]
