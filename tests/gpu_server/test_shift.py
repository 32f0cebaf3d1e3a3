"""The alarm of one session: what it takes, what it does not mind, what it says."""

import numpy as np
import pytest

from emcopilot.domain import Reading
from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, STATISTICS, FrameLook
from emcopilot.seen import Seen
from gpu_server.shift import MOST, WINDOW, Observation, SessionAlarm

SURE = Reading(20, 0.1, 30.0, 0.2)
DOUBTFUL = Reading(20, 3.0, 30.0, 0.2)
EMPTY = Reading(0, 0.0, None, 0.0)
FAR_AWAY = 12.0


def look(place: float = 0.0, number: int = 0, polarity: float = 0.4) -> FrameLook:
    rng = np.random.default_rng(number)
    vector = np.zeros(LOOK_WIDTH, np.float32)
    vector[:NETWORK_WIDTH] = 0.3 * rng.standard_normal(NETWORK_WIDTH)
    vector[0] += place
    vector[NETWORK_WIDTH + STATISTICS.index("polarity")] = polarity
    return FrameLook(vector)


SHOWN = np.stack([look(0, 900 + n).vector for n in range(50)])
SEEN = Seen("net", SHOWN, np.ones(50, np.float32), 3.0, 0.2)


def show(
    alarm: SessionAlarm,
    count: int,
    place: float = 0.0,
    reading: Reading = SURE,
    polarity: float = 0.4,
) -> int | None:
    """Show frames; return after how many the state changed, None if it did not."""
    for number in range(1, count + 1):
        frame = Observation(number, look(place, number, polarity), reading)
        if alarm.observe(frame):
            return number
    return None


@pytest.fixture
def alarm() -> SessionAlarm:
    return SessionAlarm("model", SEEN)


def test_it_takes_most_of_a_window_and_not_more_than_ten_frames(alarm) -> None:
    show(alarm, 20)
    assert show(alarm, 10, FAR_AWAY, polarity=-0.4) == MOST
    assert alarm.reason.startswith("contrast inverted")


def test_a_session_that_begins_strange_is_noticed_too(alarm) -> None:
    assert show(alarm, 10, FAR_AWAY, polarity=-0.4) == MOST
    assert "contrast inverted" in alarm.reason
    assert "dark on bright" in alarm.reason


def test_single_odd_frames_do_not_count(alarm) -> None:
    for _ in range(20):
        assert show(alarm, WINDOW - MOST + 2, FAR_AWAY) is None
        assert show(alarm, WINDOW) is None


def test_between_the_thresholds_nothing_changes_either_way(alarm) -> None:
    between = 1.45 * SEEN.scale  # beyond NEAR, not beyond FAR
    assert show(alarm, 50, between) is None
    show(alarm, 10, FAR_AWAY)
    assert alarm.state == "shifted"
    assert show(alarm, 50, between) is None
    assert show(alarm, WINDOW) is not None
    assert alarm.state == "ok"


def test_doubt_alone_raises_it(alarm) -> None:
    show(alarm, 10)
    assert show(alarm, 10, reading=DOUBTFUL) == MOST


def test_particles_that_are_found_no_more_raise_it(alarm) -> None:
    show(alarm, 10)
    assert show(alarm, 10, reading=EMPTY) == MOST


def test_an_empty_specimen_from_the_start_does_not(alarm) -> None:
    assert show(alarm, 50, reading=EMPTY) is None


def test_without_the_training_the_sessions_past_is_the_yardstick() -> None:
    alarm = SessionAlarm("model", None)
    assert alarm.distance(look()) is None
    for step in range(80):  # as slow as specimens change
        assert show(alarm, 1, 0.2 * step) is None
    assert show(alarm, 10, 16 + FAR_AWAY) == MOST


def test_the_first_frame_of_a_state_is_named(alarm) -> None:
    for number in range(40, 60):
        place = FAR_AWAY if number >= 50 else 0
        alarm.observe(Observation(number, look(place, number), SURE))
    assert alarm.since_frame_id in {49, 50}  # of a window of six, five agreed
