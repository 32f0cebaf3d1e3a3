"""REST payloads are finite JSON with the keys of the contract."""

import json

import pytest

from emcopilot.messages import PARTICLE_COLUMNS, Convergence, Histogram


def test_not_a_number_becomes_null_in_json() -> None:
    answer = Convergence(
        known=False,
        relative_half_width=float("nan"),
        mean_diameter=float("inf"),
        unit="px",
        counted=1,
        target=0.02,
        needed_more=None,
        waited_s=0.0,
    )
    body = json.loads(answer.model_dump_json())
    assert body["relative_half_width"] is None
    assert body["mean_diameter"] is None


def test_particle_columns_are_the_contract() -> None:
    assert len(PARTICLE_COLUMNS) == 24
    assert PARTICLE_COLUMNS[:5] == ("session", "frame", "time_s", "particle", "label")
    assert PARTICLE_COLUMNS[-2:] == ("model_id", "calibration_source")


def test_payloads_cannot_be_changed() -> None:
    histogram = Histogram(edges=[0.0, 1.0], counts=[2])
    with pytest.raises(ValueError, match="frozen"):
        histogram.counts = [3]  # pyright: ignore[reportAttributeAccessIssue]
