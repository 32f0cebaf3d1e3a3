"""Results beside each other: what two models measured is read with one pixel size."""

from dataclasses import replace

from emcopilot.decode import Frame
from gpu_server.differences import differences
from gpu_server.measure import result_of
from gpu_server.saving import save_beside

SIZES_PX = (20.0, 30.0)


def keep_beside(lab, frame_id: int, pixel_size_nm: float) -> bool:
    frame = Frame(lab.discs(SIZES_PX), (pixel_size_nm, pixel_size_nm), "metadata")
    result = result_of(frame_id, replace(lab.measured(frame), model_id="other"))
    with lab.store.database.write() as connection:
        return save_beside(connection, result, at=3.0)


def change_of_mean(lab) -> float | None:
    with lab.store.read() as connection:
        found = differences(connection, ("threshold", "other"), 1)
    return found.mean_diameter_change


def test_measuring_anew_with_another_pixel_size_drops_what_others_measured(lab) -> None:
    frame_id = lab.add(SIZES_PX, 1.0)
    assert keep_beside(lab, frame_id, 1.0)
    assert change_of_mean(lab) == 0
    lab.store.reprocess_session(1, "ada")
    lab.process(lab.discs(SIZES_PX), 1.0)
    assert change_of_mean(lab) == 0  # the same size: it stays
    lab.store.reprocess_session(1, "ada")
    lab.process(lab.discs(SIZES_PX), 0.5)
    assert change_of_mean(lab) is None  # at twice the size it would be wrong
    assert keep_beside(lab, frame_id, 0.5)
    assert change_of_mean(lab) == 0


def test_a_result_that_was_overtaken_by_another_pixel_size_is_not_kept(lab) -> None:
    frame_id = lab.add(SIZES_PX, 0.5)
    assert not keep_beside(lab, frame_id, 1.0)
