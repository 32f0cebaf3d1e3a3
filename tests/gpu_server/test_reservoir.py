"""Which frames stand for a domain, and which facts forbid one."""

from collections import namedtuple

import numpy as np
import pytest

from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, FrameLook
from gpu_server import reservoir
from gpu_server.reservoir import Facts, made_name

Row = namedtuple(
    "Row",
    ["instrument", "modality", "pixel_band", "detector", "sample"],
    defaults=[None, None],
)


def look(place: float, number: int = 0, polarity: float = 0.4) -> FrameLook:
    vector = np.zeros(LOOK_WIDTH, np.float32)
    rng = np.random.default_rng(number)
    vector[:NETWORK_WIDTH] = 0.3 * rng.standard_normal(NETWORK_WIDTH)
    vector[0] += place
    vector[NETWORK_WIDTH] = polarity
    vector[-1] = 4.0
    return FrameLook(vector)


def test_the_reservoir_leans_to_rare_looks() -> None:
    kept = np.stack([look(0, 5_000 + n).vector for n in range(30)])

    def ranks(place: float) -> list[float]:
        return [reservoir.drawn_rank(n, look(place, n), kept) for n in range(200)]

    usual, rare = np.median(ranks(0)), np.median(ranks(3))
    assert usual < 0.2
    assert rare > 0.5
    assert ranks(0) == ranks(0)  # no dice: a restart draws the same


@pytest.mark.parametrize(
    ("row", "is_allowed"),
    [
        (Row(None, None, None), True),
        (Row("Titan", "HAADF", -3), True),
        (Row("Titan", None, -3), True),
        (Row("Titan", "BF", -3), False),
        (Row("Talos", "HAADF", -3), False),
        (Row("Titan", "HAADF", -2), False),
    ],
)
def test_what_is_known_must_agree_and_what_is_not_forbids_nothing(
    row, is_allowed
) -> None:
    facts = Facts.of("Titan", "HAADF", (0.2, 0.2))
    assert facts.allows(row) is is_allowed


@pytest.mark.parametrize(
    ("told", "is_allowed"),
    [
        ({}, True),
        ({"detector": "DF4", "sample": "Pd on alumina"}, True),
        ({"detector": "HAADF", "sample": "Pd on alumina"}, False),
        ({"detector": "DF4", "sample": "Au on carbon"}, False),
        ({"sample": "Au on carbon"}, False),
    ],
)
def test_detector_and_sample_forbid_as_the_modality_does(told, is_allowed) -> None:
    facts = Facts.of(None, "STEM", None, detector="DF4", sample="Pd on alumina")
    assert facts.allows(Row(None, None, None)._replace(**told)) is is_allowed


def test_pixel_sizes_are_told_apart_by_octaves() -> None:
    bands = [Facts.of(None, None, (s, s)).pixel_band for s in (0.06, 0.12, 0.13, 0.24)]
    assert bands == [-5, -4, -3, -3]
    assert Facts.of(None, None, None).pixel_band is None


def test_a_name_says_what_is_known() -> None:
    assert made_name(look(0), Facts()) == "bright on dark, features of 16 px"
    assert made_name(look(0, polarity=-0.4), Facts()).startswith("dark on bright")
    told = made_name(look(0), Facts("Titan", "HAADF", -3))
    assert told == "HAADF, 0.12–0.25 nm/px, Titan"
    facts = Facts("Titan", "HAADF", -3, detector="HAADF", sample="Pd")
    assert made_name(look(0), facts) == "HAADF, 0.12–0.25 nm/px, Titan, Pd"
    assert made_name(look(0), Facts(None, "TEM", -3, "BM-Ceta")).endswith(", BM-Ceta")
