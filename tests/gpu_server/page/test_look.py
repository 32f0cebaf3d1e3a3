"""What the page reads is what REST says, read once for all pages, and not too often."""

import pytest

from gpu_server.page import look
from gpu_server.page.look import StoreLooker
from gpu_server.page.view import Wanted


class Idle:
    """What the page asks of an inference backend."""

    device = "cpu"
    model_id = "threshold"


@pytest.fixture
def looker(rest) -> StoreLooker:
    return StoreLooker(lambda: rest.services, Idle)


def wanted(session_id=None, span="session", frame_id=None, bins=None) -> Wanted:
    return Wanted(session_id, span, frame_id, bins)


def test_nothing_stored_is_no_session_and_an_empty_distribution(looker) -> None:
    assert looker.view(wanted()).session is None
    found = looker.measured(wanted())
    assert (found.psd.counted, found.timeline, found.marks) == (0, None, [])


def test_the_session_asked_for_is_looked_at_and_else_the_last_one(rest, looker) -> None:
    rest.add([10] * 3, folder="old")
    rest.add([20] * 2, folder="new")
    seen = looker.view(wanted())
    assert seen.session is not None
    assert (seen.session.name, seen.last_number) == ("new", 1)
    assert looker.measured(wanted()).psd.counted == 2
    assert looker.measured(wanted(session_id=1)).psd.counted == 3


def test_spans_and_bins_choose_the_particles(rest, looker) -> None:
    frames = [rest.add([10] * 3, pixel_size_nm=1.0) for _ in range(2)]
    whole = looker.measured(wanted())
    assert whole.psd == rest_psd(rest)
    one = looker.measured(wanted(span="frame", frame_id=frames[0]))
    assert one.psd.counted == 3
    assert one.timeline.frames == 2  # the course is the session's, whatever the span
    minute = looker.measured(wanted(span="minute", frame_id=frames[1]))
    assert minute.psd.counted == 6  # files are written 2 s apart
    first = looker.measured(wanted(span="minute", frame_id=frames[0]))
    assert first.psd.counted == 3
    binned = looker.measured(wanted(bins=10))
    assert len(binned.psd.histogram.counts) == 10
    gone = looker.measured(wanted(span="frame", frame_id=999))
    assert gone.psd.counted == 6


def rest_psd(rest):
    with rest.lab.store.read() as connection:
        return rest.services.distributions.of_session(connection, 1)[0]


def test_what_takes_long_is_not_begun_again_at_once(rest, looker, monkeypatch) -> None:
    reads: list[int] = []
    read = look.read_course

    def counted(connection, session_id):
        reads.append(session_id)
        return read(connection, session_id)

    monkeypatch.setattr(look, "read_course", counted)
    monkeypatch.setattr(look, "_REST_SHARE", 1e6)
    rest.add([10])
    looker.measured(wanted())
    rest.add([10])
    assert looker.measured(wanted()).psd.counted == 1  # of a moment ago
    assert reads == [1]
    monkeypatch.setattr(look, "_REST_SHARE", 0.0)
    fresh = StoreLooker(lambda: rest.services, Idle)
    fresh.measured(wanted())
    fresh.measured(wanted())
    assert reads == [1, 1]  # nothing happened in between
    rest.add([10])
    assert fresh.measured(wanted()).psd.counted == 3
