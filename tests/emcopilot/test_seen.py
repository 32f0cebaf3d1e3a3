"""What a model was trained on, on disk and as a yardstick."""

import numpy as np
import pytest

from emcopilot.errors import ModelError
from emcopilot.frame_look import LOOK_WIDTH, FrameLook
from emcopilot.seen import SEEN_FILE, Seen, read_seen


@pytest.fixture
def seen() -> Seen:
    rng = np.random.default_rng(3)
    return Seen("net", rng.standard_normal((50, LOOK_WIDTH)).astype("f4"), 2.5, 0.3)


def test_it_survives_the_disk(seen, tmp_path) -> None:
    seen.write(tmp_path / SEEN_FILE)
    read = Seen.read(tmp_path / SEEN_FILE)
    assert np.array_equal(read.looks, seen.looks)
    assert (read.features, read.scale, read.doubt) == ("net", 2.5, 0.3)


def test_distance_is_in_units_of_what_was_trained_on(seen) -> None:
    look = FrameLook(seen.looks[0] + np.float32(100))
    assert seen.distance(look) == pytest.approx(
        2 * Seen("net", seen.looks, 5.0).distance(look)
    )


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
    "wrong",
    [
        Seen("net", np.full((3, LOOK_WIDTH), np.nan, np.float32), 1.0),
        Seen("net", np.zeros((3, 4), np.float32), 1.0),
        Seen("net", np.zeros((3, LOOK_WIDTH), np.float32), -1.0),
    ],
    ids=["not finite", "narrow", "negative"],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, wrong) -> None:
    wrong.write(tmp_path / SEEN_FILE)
    with pytest.raises(ModelError, match="make it anew"):
        read_seen(tmp_path / SEEN_FILE, "net")
