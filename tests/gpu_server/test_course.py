"""A session as columns says what its frames say one by one."""

import numpy as np
import pytest

from gpu_server.course import read_course
from gpu_server.distribution import kept_frames, measured, of_course, timeline
from gpu_server.queries import counted_frames


def test_columns_and_frames_give_the_same_distribution(lab) -> None:
    first = lab.add([10, 12, 20], pixel_size_nm=0.5)
    lab.add([], pixel_size_nm=0.5)
    lab.add([30] * 4, pixel_size_nm=0.25)
    lab.store.reject_particles(first, [2], "test")
    with lab.store.read() as connection:
        course = read_course(connection, 1)
        frames = counted_frames(connection, 1)
    assert of_course(course, 7) == measured(frames, 7)
    assert course.particles.tolist() == [3, 0, 4]
    assert course.rejected.tolist() == [1, 0, 0]
    assert course.latency_s == pytest.approx([frame.latency_s for frame in frames])
    _, mean, _ = course.moments()
    expected = [
        np.nanmean(f.diameters("nm")) if f.result.diameters.size else np.nan
        for f in frames
    ]
    assert mean == pytest.approx(expected, nan_ok=True)


def test_one_uncalibrated_frame_makes_the_session_px_and_the_operator_mends_it(
    lab,
) -> None:
    lab.add([10, 12], pixel_size_nm=0.5)
    lab.add([10, 12])
    with lab.store.read() as connection:
        assert read_course(connection, 1).unit == "px"
    lab.store.calibrate_session(1, (2.0, 0.5), "test")
    with lab.store.read() as connection:
        course = read_course(connection, 1)
    assert (course.unit, course.uncalibrated) == ("nm", 0)
    assert course.edge_nm.tolist() == [1.0, 1.0]
    with lab.store.read() as connection:
        assert timeline(connection, 1).unit == "nm"


def test_an_empty_session_has_an_empty_course(lab) -> None:
    lab.deliver(lab.discs([10]))
    with lab.store.read() as connection:
        line = timeline(connection, 1, points=100)
        answer, _ = of_course(read_course(connection, 1), 0)
    assert (line.frame, line.frames, answer.counted) == ([], 0, 0)


def test_100_000_frames_come_down_to_the_points_asked_with_every_extreme() -> None:
    rng = np.random.default_rng(5)
    mean = rng.normal(10, 0.1, 100_000)
    latency = rng.normal(1, 0.1, 100_000)
    mean[44_444], latency[77_777] = 99.0, 9.0
    mean[5] = np.nan
    kept = kept_frames((mean, latency), 600)
    assert 300 < len(kept) <= 600
    assert {0, 44_444, 77_777, 99_999} <= set(kept.tolist())
    assert np.all(np.diff(kept) > 0)
    assert kept_frames((mean[:50],), 600).tolist() == list(range(50))
