"""How many frames each model computed, without reading what it found in them."""

import pytest
from sqlalchemy import event

from gpu_server.counting import frames_by_model


@pytest.mark.parametrize("model_id", [None, "threshold"])
def test_frames_are_counted_from_the_index_alone(lab, model_id: str | None) -> None:
    for _ in range(3):
        lab.add([20], pixel_size_nm=0.5)
    asked: list[tuple[str, tuple[object, ...]]] = []
    with lab.store.read() as connection:

        @event.listens_for(connection, "before_cursor_execute")
        def keep(*told: object) -> None:
            asked.append((told[2], told[3]))  # type: ignore[arg-type]

        assert frames_by_model(connection, model_id) == {"threshold": 3}
        ((statement, given),) = tuple(asked)
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
        (step,) = (row.detail for row in rows)
    assert "COVERING INDEX ix_results_model_id" in step


def test_a_model_without_results_is_left_out(lab) -> None:
    with lab.store.read() as connection:
        assert frames_by_model(connection, "zebra") == {}
