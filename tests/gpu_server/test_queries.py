"""Reads over a real store: the operator's word laid over committed rows."""

import time

import numpy as np
import pytest

from emcopilot.decode import Frame
from emcopilot.particles import measure_particles
from gpu_server.accounts import events_after, last_event, queue_account
from gpu_server.distribution import Distributions, common_unit, measured, timeline
from gpu_server.particle_rows import read_particles
from gpu_server.queries import counted_frames, frame, frame_page, session_list
from gpu_server.tables import sessions

DRAWN = 0.03  # a disc drawn by pixel centres


def set_operator_size(lab, y_nm: float | None, x_nm: float | None) -> None:
    """Calibrate without queueing frames again: what reads make of it by themselves."""
    with lab.store.database.write() as connection:
        connection.execute(
            sessions.update().values(pixel_size_y_nm=y_nm, pixel_size_x_nm=x_nm)
        )


def test_a_frame_carries_its_file_session_and_result(lab) -> None:
    frame_id = lab.add([10, 20], pixel_size_nm=0.5)
    with lab.store.read() as connection:
        found = frame(connection, frame_id)
        assert frame(connection, 99) is None
    assert found is not None
    assert found.source_key == "acquisitions/run1/frame_0001.tif"
    assert (found.session, found.number, found.page) == ("run1", 1, 0)
    assert found.result is not None
    assert found.result.model_id == "threshold"
    assert sorted(found.diameters("nm")) == pytest.approx([5, 10], rel=DRAWN)
    assert sorted(found.diameters("px")) == pytest.approx([10, 20], rel=DRAWN)


def test_latency_uses_our_clock_when_the_agents_runs_ahead(lab) -> None:
    frame_id = lab.add([10])
    with lab.store.read() as connection:
        found = frame(connection, frame_id)
    assert found is not None
    assert found.latency_s == pytest.approx(time.time() - found.sealed_at, abs=60)


def test_an_operators_pixel_size_goes_before_the_frames_own(lab) -> None:
    frame_id = lab.add([20], pixel_size_nm=0.5)
    set_operator_size(lab, 1.0, 1.0)
    with lab.store.read() as connection:
        found = frame(connection, frame_id)
        assert found is not None
        table = read_particles(connection, found)
    assert found.pixel_size_source == "operator"
    assert found.diameters("nm") == pytest.approx([20], rel=DRAWN)
    assert table.equivalent_diameter_nm == pytest.approx([20], rel=DRAWN)


def test_non_square_operator_pixels_are_measured_anew_not_scaled(lab) -> None:
    pixels = lab.discs([30])
    lab.deliver(pixels)
    leased, before = lab.process(pixels)
    set_operator_size(lab, 0.5, 2.0)
    with lab.store.read() as connection:
        found = frame(connection, leased.frame_id)
        assert found is not None
        table = read_particles(connection, found)
    truth = measure_particles(
        (pixels > 500).astype(np.int32), pixels, pixel_size_nm=(0.5, 2.0)
    )
    assert table.feret_diameter_max_nm == pytest.approx(truth.feret_diameter_max_nm)
    assert table.aspect_ratio == pytest.approx([4.0], rel=0.05)  # a disc stretched 1:4
    assert found.diameters("nm") == pytest.approx(truth.equivalent_diameter_nm)
    # What only the pixels can tell stays as it was measured on them.
    assert table.mean_intensity == pytest.approx(before.particles.mean_intensity)


def test_pages_follow_each_other_without_gap_or_overlap(lab) -> None:
    ids = [lab.add([10]) for _ in range(4)]
    with lab.store.read() as connection:
        first = frame_page(connection, 1, limit=3)
        second = frame_page(connection, 1, limit=3, before=first[-1].id)
        waiting = frame_page(connection, 1, state="queued")
    assert [found.id for found in first + second] == ids[::-1]
    assert waiting == []


def test_statistics_count_processed_frames_that_nobody_rejected(lab) -> None:
    kept, rejected = lab.add([10]), lab.add([10])
    lab.deliver(lab.discs([30]))
    lab.store.reject_frame(rejected, "test")
    with lab.store.read() as connection:
        assert [found.id for found in counted_frames(connection, 1)] == [kept]
        assert counted_frames(connection, 1, since=time.time() + 60) == []


def test_rejected_labels_leave_only_their_own_result(lab) -> None:
    first, second = lab.add([10, 10]), lab.add([10, 10])
    lab.store.reject_particles(first, [2], "test")
    with lab.store.read() as connection:
        both = {
            found.id: found.diameters("px") for found in counted_frames(connection, 1)
        }
    assert np.isnan(both[first]).tolist() == [False, True]
    assert np.isnan(both[second]).tolist() == [False, False]


def test_sessions_are_ordered_by_activity_and_count_their_frames(lab) -> None:
    lab.add([10], folder="a/one")
    lab.add([10], folder="a/two")
    lab.deliver(lab.discs([12]), folder="a/one")
    with lab.store.read() as connection:
        found = session_list(connection)
        single = session_list(connection, found[1].id)
    assert [session.name for session in found] == ["one", "two"]
    assert found[0].states == {"processed": 1, "queued": 1}
    assert single == [found[1]]


def test_a_distribution_is_measured_once_for_each_state_of_the_store(lab) -> None:
    frame_id = lab.add([10, 20])
    distributions = Distributions()
    with lab.store.read() as connection:
        first = distributions.of_session(connection, 1)
        assert distributions.of_session(connection, 1)[0] is first[0]
    lab.store.reject_particles(frame_id, [1], "test")
    with lab.store.read() as connection:
        changed = distributions.of_session(connection, 1)
    assert (first[0].counted, changed[0].counted) == (2, 1)


def test_mixed_sessions_fall_back_to_px_and_blank_frames_do_not_matter(lab) -> None:
    lab.add([20], pixel_size_nm=0.5)
    lab.add([])
    with lab.store.read() as connection:
        assert common_unit(counted_frames(connection, 1)) == ("nm", None)
    lab.add([20])
    with lab.store.read() as connection:
        found = counted_frames(connection, 1)
        unit, reason = common_unit(found)
        answer, _ = measured(found, event=0)
        line = timeline(connection, 1)
    assert unit == answer.unit == line.unit == "px"
    assert reason is not None
    assert answer.mean_number == pytest.approx(20, rel=DRAWN)


def test_border_and_rejected_particles_are_said_not_sized(lab) -> None:
    pixels = lab.discs([10, 10])
    pixels[100:120, :8] = 1000  # cut by the left border
    lab.deliver(pixels)
    leased, found = lab.process(pixels)
    whole = int(found.particles.label[~found.particles.touches_border][0])
    lab.store.reject_particles(leased.frame_id, [whole], "test")
    with lab.store.read() as connection:
        answer, _ = measured(counted_frames(connection, 1), event=0)
    assert (answer.counted, answer.excluded_border, answer.rejected) == (1, 1, 1)


def test_events_are_read_in_order_from_where_one_was(lab) -> None:
    lab.add([10])
    lab.add([12])
    with lab.store.read() as connection:
        every = events_after(connection, 0)
        later = events_after(connection, every[0].id)
        newest = last_event(connection)
        few = events_after(connection, 0, limit=2)
    assert [event.id for event in every] == sorted(event.id for event in every)
    assert later == every[1:]
    assert newest == every[-1].id
    assert few == every[:2]


def test_queue_account_names_every_state_and_the_oldest_wait(lab) -> None:
    with lab.store.read() as connection:
        empty = queue_account(connection)
    lab.deliver(lab.discs([10]))
    with lab.store.read() as connection:
        waiting = queue_account(connection)
    assert (empty.oldest_queued_at, empty.latencies_s) == (None, None)
    assert set(empty.states.values()) == {0}
    assert waiting.states["queued"] == 1
    assert waiting.oldest_queued_at == pytest.approx(time.time(), abs=60)


def test_two_thousand_frames_are_summed_within_a_second(lab) -> None:
    pixels = lab.discs([10] * 4)
    found = lab.measured(Frame(pixels, (0.5, 0.5), "metadata"))
    rows = np.tile(found.counted_diameters.astype("<f4"), 75).tobytes()  # 300 particles
    for _ in range(20):
        lab.add([10] * 4, pixel_size_nm=0.5)
    with lab.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE results SET diameters = ?", (rows,))
    with lab.store.read() as connection:
        frames = counted_frames(connection, 1)
        started = time.process_time()
        answer, _ = measured(frames * 100, event=0)
        took_s = time.process_time() - started
    assert answer.counted == 600_000
    assert took_s < 3.0  # about 0.4 s on an idle core
