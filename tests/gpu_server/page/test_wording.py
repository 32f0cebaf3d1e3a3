"""The page's sentences, without a browser."""

import math

import numpy as np
import pytest

from emcopilot.live_packet import LiveHeader
from emcopilot.messages import AgentAnswer, Convergence, SessionAnswer, Stats
from emcopilot.psd import measure_psd
from gpu_server.distribution import psd_answer
from gpu_server.page import wording

STATS = Stats(
    queued=0,
    leased=0,
    processed=40,
    quarantined=1,
    superseded=0,
    lag_s=0.0,
    latency_p50_s=1.2,
    latency_p95_s=2.0,
    viewers=1,
    skipped=3,
    discovered=41,
    stored=41,
    pending=0,
    vanished=0,
    rejected=0,
    balanced=True,
    last_event=50,
)
AGENT = AgentAnswer(
    id=1,
    name="titan",
    host="scope-pc",
    version="0.1.0",
    enrolled=True,
    last_seen_s=1.0,
    light="green",
    discovered=41,
    stored=41,
    pending=0,
    vanished=0,
    rejected=0,
    pending_bytes=0,
    oldest_unsent_s=None,
    problems=[],
)
KNOWN = Convergence(
    known=False,
    relative_half_width=0.041,
    mean_diameter=6.6,
    unit="nm",
    counted=250,
    target=0.02,
    needed_more=750,
    waited_s=0.0,
)
HEADER = LiveHeader(
    seq=1,
    frame_id=1,
    session_id=1,
    session="run1",
    name="frame_0001.tif",
    page=0,
    height=512,
    width=1024,
    shown_height=512,
    shown_width=1024,
    pixel_size_nm=(0.2, 0.2),
    pixel_size_source="metadata",
    model_id="base",
    particles=1234,
    counted=1200,
    excluded_border=34,
    doubtful=0,
    mean_diameter=6.6,
    median_diameter=6.3,
    unit="nm",
    infer_s=0.4,
    latency_s=1.0,
    time_s=None,
    jpeg_bytes=10,
    points=4,
)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (6.6312, 4, "6.631"),
        (66.312, 3, "66.3"),
        (12345.6, 3, "12,346"),  # never an exponent: all digits before the point
        (0.03174, 3, "0.0317"),
        (9.999, 3, "10.0"),
        (0.0, 3, "0"),
        (None, 3, "–"),
        (math.nan, 3, "–"),
        (math.inf, 3, "–"),
    ],
)
def test_numbers_keep_their_digits(value: float | None, digits: int, text: str) -> None:
    assert wording.number(value, digits) == text


def test_a_missing_figure_has_no_unit() -> None:
    assert wording.with_unit(None, "nm") == "–"
    assert wording.with_unit(6.6312, "nm") == "6.631 nm"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (12.4, "12 s ago"),
        (130, "2 min ago"),
        (7300, "2 h ago"),
        (260_000, "3 days ago"),
    ],
)
def test_ages_are_told_in_words(seconds: float, text: str) -> None:
    assert wording.ago(seconds) == text


def test_an_idle_queue_is_green() -> None:
    light = wording.queue_light(STATS, {})
    assert (light.colour, light.figure) == ("green", "0 waiting")
    assert "every frame is processed" in light.tip


def test_a_late_queue_is_yellow_and_says_how_late() -> None:
    late = STATS.model_copy(update={"queued": 7, "leased": 2, "lag_s": 31.4})
    light = wording.queue_light(late, {})
    assert (light.colour, light.figure) == ("yellow", "9 waiting, 31 s")


def test_accounts_that_do_not_balance_are_red() -> None:
    lost = STATS.model_copy(update={"balanced": False})
    assert wording.queue_light(lost, {}).colour == "red"


def test_a_full_disk_turns_the_queue_red_with_the_reason() -> None:
    light = wording.queue_light(STATS, {"agents": "12 MiB free on the data disk"})
    assert (light.colour, light.tip) == ("red", "12 MiB free on the data disk")


def test_no_agent_tells_how_to_enrol_one() -> None:
    light = wording.agents_light([])
    assert light.colour == "off"
    assert "emcopilot keys new" in light.tip


def test_the_worst_agent_decides() -> None:
    silent = AGENT.model_copy(update={"name": "F20", "light": "red", "last_seen_s": 90})
    light = wording.agents_light([AGENT, silent])
    assert (light.colour, light.figure) == ("red", "1 of 2 silent")
    assert "F20: 2 min ago" in light.tip
    assert wording.agents_light([silent]).figure == "silent"


def test_files_that_wait_on_the_microscope_are_counted() -> None:
    behind = AGENT.model_copy(update={"pending": 12})
    assert wording.agents_light([AGENT, behind]).figure == "12 waiting"
    assert wording.agents_light([AGENT]).figure == "connected"


def test_an_agent_that_never_called_says_so() -> None:
    fresh = AGENT.model_copy(update={"last_seen_s": None})
    assert wording.agent_account(fresh).startswith("never heard")


def test_inference_says_where_and_which_weights() -> None:
    light = wording.inference_light("cpu (OpenVINO bf16)", "base-1", {})
    assert (light.colour, light.figure) == ("green", "CPU")
    assert "base-1" in light.tip
    assert wording.inference_light("", "", {}).colour == "off"
    stopped = wording.inference_light("cpu", "base-1", {"pipeline": "it has ended"})
    assert (stopped.colour, stopped.tip) == ("red", "it has ended")


def test_enough_particles_is_answered_with_what_is_missing() -> None:
    assert wording.known_text(KNOWN) == "Mean known to 4.1 %, about 750 more for 2 %"
    assert wording.known_fraction(KNOWN) == 0.25
    enough = KNOWN.model_copy(
        update={"known": True, "needed_more": 0, "relative_half_width": 0.018}
    )
    assert wording.known_text(enough).startswith(
        "Enough particles: mean known to 1.8 %"
    )
    assert wording.known_fraction(enough) == 1.0


@pytest.mark.parametrize(
    "nothing", [None, KNOWN.model_copy(update={"relative_half_width": None})]
)
def test_too_few_particles_are_too_few_to_say(nothing: Convergence | None) -> None:
    assert wording.known_text(nothing) == "Enough particles? Too few to say."


def test_a_frame_tells_where_its_scale_comes_from() -> None:
    assert wording.frame_facts(HEADER) == (
        "1024 × 512 px  ·  0.2 nm/px from metadata  ·  1,234 particles"
    )


def test_doubtful_particles_are_told_beside_the_count() -> None:
    some = HEADER.model_copy(update={"doubtful": 17})
    assert wording.particle_count(some) == "1,234 particles, 17 doubtful"
    assert wording.frame_facts(some).endswith("1,234 particles, 17 doubtful")
    one = HEADER.model_copy(update={"particles": 1, "doubtful": 1})
    assert wording.particle_count(one) == "1 particle, 1 doubtful"


def test_pages_oblong_pixels_and_unknown_scales_are_said() -> None:
    page = HEADER.model_copy(update={"page": 3, "pixel_size_nm": (0.4, 0.2)})
    assert wording.frame_facts(page).startswith("page 3  ·  ")
    assert "0.2 × 0.4 nm/px" in wording.frame_facts(page)
    unknown = HEADER.model_copy(update={"pixel_size_nm": None, "particles": 1})
    assert wording.frame_facts(unknown).endswith("no pixel size  ·  1 particle")


def test_a_session_says_how_fresh_it_is() -> None:
    session = SessionAnswer(
        id=1,
        name="run1",
        folder="acquisitions/run1",
        agent_id=1,
        agent="titan",
        started_at=900.0,
        last_at=1000.0,
        frames=1,
        processed=1,
        queued=0,
        quarantined=0,
        rejected=0,
        pixel_size_nm=None,
    )
    assert wording.session_text(session, 1020.0) == "1 frame  ·  last 20 s ago"
    assert wording.session_text(None, 0.0) == "no session yet"


def test_the_interval_is_in_the_distributions_unit() -> None:
    def answer(diameters: np.ndarray):
        psd = measure_psd(diameters, unit="px")
        return psd_answer(
            psd, reason=None, frames=1, excluded_border=0, rejected=0, event=1
        )

    assert wording.interval(answer(np.empty(0))) == "too few for an interval"
    known = wording.interval(answer(np.linspace(8.0, 12.0, 200)))
    assert known.startswith("95 % in 9.8")
    assert known.endswith(" px")


def test_durations_and_clocks_are_said_as_people_do() -> None:
    assert wording.duration(5.4) == "5 s"
    assert wording.duration(75) == "1:15 min"
    assert wording.duration(3725) == "1:02:05 h"
    assert wording.clock_text(None) == wording.clock_text(0.4) == []
    (ahead,) = wording.clock_text(90.0)
    assert "1:30 min ahead" in ahead
