"""What a model was trained on, on disk and as a yardstick."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from emcopilot.errors import ModelError
from emcopilot.frame_look import LOOK_WIDTH, FrameLook
from emcopilot.seen import SEEN_FILE, Seen, read_seen

THREE = np.ones(3, np.float32)


@pytest.fixture
def seen() -> Seen:
    rng = np.random.default_rng(3)
    looks = rng.standard_normal((50, LOOK_WIDTH)).astype(np.float32)
    return Seen("net", looks, np.ones(50, np.float32), 2.5, 0.3)


def test_it_survives_the_disk(seen, tmp_path) -> None:
    seen.write(tmp_path / SEEN_FILE)
    read = Seen.read(tmp_path / SEEN_FILE)
    assert np.array_equal(read.looks, seen.looks)
    assert np.array_equal(read.reach, seen.reach)
    assert (read.features, read.scale, read.doubt) == ("net", 2.5, 0.3)


def test_distance_is_in_units_of_what_was_trained_on(seen) -> None:
    look = FrameLook(seen.looks[0] + np.float32(100))
    for wider in (replace(seen, scale=5.0), replace(seen, reach=2 * seen.reach)):
        assert seen.distance(look) == pytest.approx(2 * wider.distance(look))


def test_where_training_was_sparse_a_step_counts_less(seen) -> None:
    looks = np.zeros((6, LOOK_WIDTH), np.float32)
    looks[:3, 0], looks[3:, 0] = -100, 100
    reach = np.repeat(np.float32([1, 5]), 3)
    both = Seen("net", looks, reach, 1.0)
    places = [np.eye(1, LOOK_WIDTH, dtype=np.float32)[0] * x for x in (-90, 90)]
    dense, sparse = (both.distance(FrameLook(place)) for place in places)
    assert dense == pytest.approx(5 * sparse)


def test_looks_of_another_network_are_not_compared(seen, tmp_path) -> None:
    seen.write(tmp_path / SEEN_FILE)
    assert read_seen(tmp_path / SEEN_FILE, "another") is None
    assert read_seen(tmp_path / SEEN_FILE, "net") is not None


def test_a_model_need_not_say_what_it_was_trained_on(tmp_path) -> None:
    assert read_seen(tmp_path / SEEN_FILE, "net") is None


@pytest.mark.parametrize(
    "content", [b"", b"rubbish" * 40, b"\xff" * 64], ids=["empty", "rubbish", "ones"]
)
def test_a_damaged_file_is_named(tmp_path, content) -> None:
    path = tmp_path / SEEN_FILE
    path.write_bytes(content)
    with pytest.raises(ModelError, match=SEEN_FILE):
        read_seen(path, "net")


@pytest.mark.parametrize(
    "note",
    ["[" * 100_000, '{"features": "net", "scale": 1' + "0" * 400 + ', "doubt": null}'],
    ids=["deeply nested", "a number beyond all"],
)
def test_a_note_that_somebody_forged_is_named(tmp_path, note: str) -> None:
    path = tmp_path / SEEN_FILE
    looks = np.zeros((3, LOOK_WIDTH), np.float32)
    path.write_bytes(save({"looks": looks, "reach": THREE}, {"note": note}))
    with pytest.raises(ModelError, match=f"cannot read .*{SEEN_FILE}"):
        read_seen(path, "net")


@pytest.mark.parametrize(
    "wrong",
    [
        Seen("net", np.full((3, LOOK_WIDTH), np.nan, np.float32), THREE, 1.0),
        Seen("net", np.zeros((3, 4), np.float32), THREE, 1.0),
        Seen("net", np.zeros((3, LOOK_WIDTH), np.float32), THREE, -1.0),
        Seen("net", np.zeros((3, LOOK_WIDTH), np.float32), -THREE, 1.0),
        Seen("net", np.zeros((4, LOOK_WIDTH), np.float32), THREE, 1.0),
    ],
    ids=["not finite", "narrow", "negative scale", "negative reach", "too few reaches"],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, wrong) -> None:
    wrong.write(tmp_path / SEEN_FILE)
    with pytest.raises(ModelError, match="make it anew"):
        read_seen(tmp_path / SEEN_FILE, "net")
