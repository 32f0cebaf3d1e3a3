"""Two models over a session: columns say what the frames say one by one, in bounded words."""

import numpy as np
import pytest
import sqlalchemy as sa

from gpu_server.differences import SHOWN, differences, ks_distance
from gpu_server.queries import counted_frames
from gpu_server.tables import frames, results

MODELS = ("threshold", "other")


def add_other(lab, frame_id: int, diameters, unit: str = "nm") -> int:
    """Keep a result of one more model beside the one that counts; return its id."""
    row = {
        "frame_id": frame_id,
        "session_id": 1,
        "model_id": "other",
        "counts": False,
        "saved_at": 1.0,
        "particle_count": len(diameters),
        "counted_count": len(diameters),
        "unit": unit,
        "summary": {},
        "timings": {},
        "diameters": np.asarray(diameters, "<f4").tobytes(),
    }
    with lab.store.database.write() as connection:
        made = results.insert().values(**row).returning(results.c.id)
        return connection.execute(made).scalar_one()


def told(lab, **more: int):
    with lab.store.read() as connection:
        return differences(connection, MODELS, 1, **more)


def test_what_is_told_in_columns_is_what_the_frames_say_one_by_one(lab) -> None:
    first = lab.add([10, 12, 20], pixel_size_nm=0.5)
    empty = lab.add([], pixel_size_nm=0.5)
    third = lab.add([30] * 4, pixel_size_nm=0.25)
    lab.add([16], pixel_size_nm=0.5)  # which the other has not computed
    lab.store.reject_particles(first, [2], "test")
    add_other(lab, first, [5.0, np.nan, 7.0])
    add_other(lab, empty, [])
    add_other(lab, third, [])
    with lab.store.read() as connection:
        one, _, three, _ = counted_frames(connection, 1)
    answer = told(lab)
    ours = one.diameters("nm")[[0, 2]], three.diameters("nm")
    assert (answer.unit, answer.common) == ("nm", 3)
    assert [frame.frame_id for frame in answer.frames] == [first, empty, third]
    assert [frame.counted for frame in answer.frames] == [[2, 2], [0, 0], [4, 0]]
    assert answer.frames[0].mean_diameter == pytest.approx([ours[0].mean(), 6.0])
    assert answer.frames[1].mean_diameter == [None, None]
    assert answer.frames[2].mean_diameter == [pytest.approx(ours[1].mean()), None]
    every = np.concatenate(ours)
    assert answer.models[0].counted == 6
    assert answer.models[0].mean_diameter == pytest.approx(every.mean())
    assert answer.models[0].median_diameter == pytest.approx(np.median(every))
    assert answer.models[0].dispersion == pytest.approx(
        every.std(ddof=1) / every.mean()
    )
    assert [side.counts for side in answer.models] == [True, False]
    assert answer.mean_diameter_change == pytest.approx(6.0 / every.mean() - 1)


def test_an_unknown_pixel_size_makes_it_px_and_the_operators_holds_for_both(
    lab,
) -> None:
    first = lab.add([20, 20], pixel_size_nm=0.5)
    second = lab.add([20, 20])
    add_other(lab, first, [10.0])
    add_other(lab, second, [20.0], unit="px")
    answer = told(lab)
    assert answer.unit == "px"
    assert [frame.mean_diameter[1] for frame in answer.frames] == [20.0, 20.0]
    lab.store.calibrate_session(1, (2.0, 0.5), "test")
    answer = told(lab)
    assert answer.unit == "nm"
    assert [frame.mean_diameter[1] for frame in answer.frames] == [20.0, 20.0]


def test_a_rejected_frame_is_not_compared(lab) -> None:
    for _ in range(2):
        add_other(lab, lab.add([20], pixel_size_nm=0.5), [10.0])
    lab.store.reject_frame(1, "test")
    assert [frame.frame_id for frame in told(lab).frames] == [2]


def test_of_a_long_session_the_frames_are_told_in_which_the_models_differ_most(
    lab,
) -> None:
    film = lab.add([20, 30], pixel_size_nm=0.5)
    with lab.store.database.write() as connection:
        frame = connection.execute(sa.select(frames).where(frames.c.id == film)).one()
        row = connection.execute(sa.select(results)).one()
        pages = range(1, 3 * SHOWN + 1)
        connection.execute(
            frames.insert(),
            [
                frame._asdict() | {"id": film + page, "page": page, "number": 1 + page}
                for page in pages
            ],
        )
        for model_id in MODELS:
            shown = pages if model_id == "threshold" else range(3 * SHOWN + 1)
            counts = model_id == "threshold"
            same = row._asdict() | {"model_id": model_id, "counts": counts}
            del same["id"]
            odd = same | {"diameters": np.array([99.0, 10.0, 10.0], "<f4").tobytes()}
            connection.execute(
                results.insert(),
                [
                    (odd if page == 4321 and not counts else same)
                    | {"frame_id": film + page}
                    for page in shown
                ],
            )
    answer = told(lab)
    assert answer.common == 3 * SHOWN + 1
    assert answer.models[1].counted == 2 * answer.common + 1
    assert len(answer.frames) <= SHOWN
    (spike,) = (
        frame for frame in answer.frames if frame.counted[0] != frame.counted[1]
    )
    assert spike.number == 4322
    assert len(told(lab, points=8).frames) <= 8
    assert len(told(lab, points=10_000).frames) == answer.common


def test_the_distance_of_two_distributions_is_the_largest_gap() -> None:
    assert ks_distance(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.0
    assert ks_distance(np.array([1.0, 2.0]), np.array([3.0])) == 1.0
    assert ks_distance(np.array([3.0]), np.array([1.0, 2.0])) == 1.0
    assert ks_distance(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0])) == 0.5
    assert ks_distance(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 2.0])) == (
        pytest.approx(1 / 3)
    )
    assert ks_distance(np.empty(0), np.array([1.0])) is None
