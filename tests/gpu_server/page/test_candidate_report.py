"""The report as a table: what a report lacks or garbles is left out."""

import pytest

from gpu_server.page.candidate_report import reasons, remarks, rows

WHOLE = {
    "reasons": ["one", "two"],
    "fidelity_second": 0.948,
    "first": {"frechet": 2.03, "mmd": 0.062},
    "worths": {
        "candidate": {"worth": 2.6, "solidity": 0.990, "covered": 0.05},
        "incumbent": {"worth": 0.2, "solidity": 0.991, "covered": 0.01},
    },
    "synthetic_miou": {"candidate": 0.4, "incumbent": 0.9},
    "agreement": {
        "mean_iou": 0.5,
        "frames": [
            {
                "incumbent": {"particles": 1, "mean_diameter_px": 10.0},
                "candidate": {"particles": 3, "mean_diameter_px": 20.0},
            },
            {
                "incumbent": {"particles": 0, "mean_diameter_px": None},
                "candidate": {"particles": 1, "mean_diameter_px": 40.0},
            },
        ],
    },
    "replay": [{"domain": "HAADF", "incumbent": 0.95, "candidate": 0.95}],
}


def test_figures_stand_side_by_side_and_say_which_is_better() -> None:
    found = {row.name: row for row in rows(WHOLE)}
    assert found["Worth of the outlines"].better is True
    assert found["MIoU, synthetic frames"].better is False
    assert found["Solidity"].better is None  # the same within noise
    assert found["Kept: HAADF"].better is None
    assert found["Covered by particles"].candidate == "5.00 %"


def test_particles_are_summed_and_sizes_meant_over_particles() -> None:
    found = {row.name: row for row in rows(WHOLE)}
    counts = found["Particles, 2 real frames"]
    assert (counts.live, counts.candidate) == ("1", "4")
    sizes = found["Mean diameter (px)"]
    assert (sizes.live, sizes.candidate) == ("10.0", "25.0")


def test_reasons_and_remarks_are_sentences() -> None:
    assert reasons(WHOLE) == ["one", "two"]
    told = " ".join(remarks(WHOLE))
    assert "true to 0.948" in told
    assert "First generation: Fréchet distance 2.03" in told
    assert "overlap by 50 %" in told


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"reasons": "one", "worths": [], "agreement": 3, "replay": {}},
        {"worths": {"candidate": None}, "first": [], "agreement": {"frames": "no"}},
        {"worths": {"candidate": {"worth": "x"}, "incumbent": {"worth": True}}},
        {"agreement": {"frames": [None, 3]}, "replay": [None]},
    ],
)
def test_a_garbled_report_is_read_as_far_as_it_goes(report: dict) -> None:
    for row in rows(report):
        assert row.better is None
    assert all(isinstance(line, str) for line in reasons(report) + remarks(report))
