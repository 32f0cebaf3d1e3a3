"""Sessions, frames, particles and distributions over a real socket."""

import csv
import io
import json
import math
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from emcopilot.confidence import ParticleConfidence
from emcopilot.messages import PARTICLE_COLUMNS
from gpu_server.tables import results

# A disc drawn by pixel centres: its area is within a few px of the circle's.
DRAWN = 0.03


def test_sessions_are_listed_with_how_their_frames_stand(rest) -> None:
    rest.add([12, 14], pixel_size_nm=0.5)
    rest.add([12], folder="acquisitions/run2")
    listed = rest.http.get("/api/v1/sessions").json()
    assert [session["name"] for session in listed] == ["run2", "run1"]
    one = rest.http.get(f"/api/v1/sessions/{listed[1]['id']}").json()
    assert one["folder"] == "acquisitions/run1"
    assert one["agent"] == "titan"
    assert (one["frames"], one["processed"], one["queued"]) == (1, 1, 0)


def test_frames_come_in_pages_newest_first(rest) -> None:
    ids = [rest.add([12]) for _ in range(5)]
    first = rest.http.get("/api/v1/sessions/1/frames?limit=2").json()
    second = rest.http.get(
        f"/api/v1/sessions/1/frames?limit=2&before={first['next_before']}"
    ).json()
    third = rest.http.get(
        f"/api/v1/sessions/1/frames?limit=2&before={second['next_before']}"
    ).json()
    found = [f["id"] for page in (first, second, third) for f in page["frames"]]
    assert found == sorted(ids, reverse=True)
    assert first["total"] == 5
    assert third["next_before"] is None


def test_a_frame_says_its_sizes_in_the_unit_it_can_vouch_for(rest) -> None:
    calibrated = rest.add([20, 20], pixel_size_nm=0.5)
    unknown = rest.add([20])
    nm = rest.http.get(f"/api/v1/frames/{calibrated}").json()
    px = rest.http.get(f"/api/v1/frames/{unknown}").json()
    assert nm["unit"] == "nm"
    assert nm["mean_diameter"] == pytest.approx(10.0, rel=DRAWN)
    assert nm["pixel_size_nm"] == [0.5, 0.5]
    assert (px["unit"], px["pixel_size_nm"]) == ("px", None)
    assert px["mean_diameter"] == pytest.approx(20.0, rel=DRAWN)
    assert px["time_s"] == pytest.approx(2.0)  # files were written 2 s apart


def test_particles_have_the_columns_of_the_contract_in_every_form(rest) -> None:
    frame = rest.add([10, 20, 30], pixel_size_nm=0.1)
    path = f"/api/v1/frames/{frame}/particles"
    rows = rest.http.get(path).json()["particles"]
    table = list(csv.reader(io.StringIO(rest.http.get(f"{path}?format=csv").text)))
    parquet = rest.http.get(path, headers={"accept": "application/vnd.apache.parquet"})
    columns = pq.read_table(io.BytesIO(parquet.content))
    for names in (list(rows[0]), table[0], columns.column_names):
        assert tuple(names) == PARTICLE_COLUMNS
    diameters = [row["equivalent_diameter_nm"] for row in rows]
    assert sorted(diameters) == pytest.approx([1.0, 2.0, 3.0], rel=DRAWN)
    column = PARTICLE_COLUMNS.index("equivalent_diameter_nm")
    assert [float(line[column]) for line in table[1:]] == diameters
    assert columns["equivalent_diameter_nm"].to_pylist() == diameters
    assert rows[0]["session"] == "acquisitions/run1"
    assert rows[0]["frame"] == frame


def test_confidence_is_the_models_chance_in_every_form_and_doubt_counts(rest) -> None:
    # Even at exp(3) = 20 px, as a model would have it to which specks are stains.
    rest.lab.confidence = ParticleConfidence(-6.0, 0.0, 2.0)
    frame = rest.add([10, 40], pixel_size_nm=0.1)
    path = f"/api/v1/frames/{frame}/particles"
    rows = rest.http.get(path).json()["particles"]
    lines = csv.DictReader(io.StringIO(rest.http.get(f"{path}?format=csv").text))
    small, large = sorted(row["confidence"] for row in rows)
    # A drawn disc's area is 3 % off at most: so is 2 ln d, by 0.03.
    assert small == pytest.approx(1 / (1 + math.exp(6 - 2 * math.log(10))), abs=0.01)
    assert large == pytest.approx(1 / (1 + math.exp(6 - 2 * math.log(40))), abs=0.01)
    assert sorted(float(line["confidence"]) for line in lines) == [small, large]
    said = rest.http.get(f"/api/v1/frames/{frame}").json()
    # By area: 1 against 16.
    assert said["confidence"] == pytest.approx((small + 16 * large) / 17, rel=0.01)
    assert said["doubtful_share"] == 0.0  # a threshold is never in doubt
    assert (said["doubtful"], said["counted"]) == (1, 2)
    operator = {"pixel_size_nm": 0.2}  # another pixel size is no other evidence
    rest.http.post("/api/v1/sessions/1/calibration", json=operator)
    again = rest.http.get(path).json()["particles"]
    assert sorted(row["confidence"] for row in again) == [small, large]


def test_an_empty_field_has_no_confidence(rest) -> None:
    said = rest.http.get(f"/api/v1/frames/{rest.add([])}").json()
    assert (said["particles"], said["confidence"]) == (0, None)
    assert said["doubtful"] == 0


def test_results_of_before_there_was_a_confidence_are_still_told(rest) -> None:
    frame = rest.add([10])
    before = {"particles": 1, "counted": 1, "unit": "px", "infer_s": 0.1}
    with rest.lab.store.database.write() as connection:
        connection.execute(results.update().values(summary=before))
    said = rest.http.get(f"/api/v1/frames/{frame}").json()
    assert (said["confidence"], said["doubtful_share"]) == (None, None)
    assert said["doubtful"] is None
    assert (said["particles"], said["infer_s"]) == (1, 0.1)


def test_uncalibrated_nanometres_are_null_and_empty_never_numbers(rest) -> None:
    frame = rest.add([10, 20])
    rows = rest.http.get(f"/api/v1/frames/{frame}/particles").json()["particles"]
    text = rest.http.get(f"/api/v1/frames/{frame}/particles?format=csv").text
    assert {row["equivalent_diameter_nm"] for row in rows} == {None}
    assert {row["calibration_source"] for row in rows} == {None}
    line = next(csv.DictReader(io.StringIO(text)))
    assert line["area_nm2"] == ""
    assert line["rejected"] == "false"


def test_an_unknown_accept_header_is_refused(rest) -> None:
    frame = rest.add([10])
    answer = rest.http.get(
        f"/api/v1/frames/{frame}/particles", headers={"accept": "text/html"}
    )
    assert answer.status_code == 406
    assert "text/csv" in answer.json()["expected"]


def test_session_psd_counts_every_particle_once(rest) -> None:
    rest.add([10] * 10, pixel_size_nm=1.0)
    rest.add([20] * 10, pixel_size_nm=1.0)
    psd = rest.http.get("/api/v1/sessions/1/psd").json()
    assert (psd["frames"], psd["counted"], psd["unit"]) == (2, 20, "nm")
    assert psd["mean_number"] == pytest.approx(15.0, rel=DRAWN)
    assert psd["d10"] == pytest.approx(10.0, rel=DRAWN)
    assert sum(psd["histogram"]["counts"]) == 20


def test_one_uncalibrated_frame_turns_the_session_to_px_and_says_so(rest) -> None:
    rest.add([20] * 4, pixel_size_nm=0.25)
    rest.add([20] * 4)
    psd = rest.http.get("/api/v1/sessions/1/psd").json()
    assert psd["unit"] == "px"
    assert "1 of 2 frames" in psd["unit_reason"]
    assert psd["mean_number"] == pytest.approx(20.0, rel=DRAWN)


def test_empty_session_statistics_are_null_not_errors(rest) -> None:
    rest.add([])
    psd = rest.http.get("/api/v1/sessions/1/psd").json()
    assert (psd["counted"], psd["mean_number"], psd["lognormal"]) == (0, None, None)
    line = rest.http.get("/api/v1/sessions/1/timeline").json()
    assert (line["particles"], line["mean_diameter"]) == ([0], [None])


def test_last_seconds_leave_older_results_out(rest) -> None:
    rest.add([10])
    recent = rest.http.get("/api/v1/sessions/1/psd?last_s=60").json()
    none = rest.http.get("/api/v1/sessions/1/psd?last_s=1e-6").json()
    assert (recent["counted"], none["counted"]) == (1, 0)


def test_timeline_runs_in_the_order_of_acquisition(rest) -> None:
    for diameter in (10, 14, 18):
        rest.lab.deliver(_frame_of(diameter))
    for diameter in (18, 14, 10):  # the newest frame is processed first
        rest.lab.process(_frame_of(diameter), 1.0)
    line = rest.http.get("/api/v1/sessions/1/timeline").json()
    assert line["time_s"] == pytest.approx([0.0, 2.0, 4.0])
    assert line["mean_diameter"] == pytest.approx([10, 14, 18], rel=DRAWN)


def _frame_of(diameter: float) -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    return np.where(np.hypot(y - 64, x - 64) <= diameter / 2, 1000, 100).astype(
        np.uint16
    )


def test_convergence_answers_at_once_when_the_mean_is_known(rest) -> None:
    rest.add([20] * 40, pixel_size_nm=1.0, shape=(512, 512))
    answer = rest.http.get(
        "/api/v1/sessions/1/convergence?target=0.02&wait_s=30"
    ).json()
    assert answer["known"] is True
    assert answer["needed_more"] == 0
    assert answer["waited_s"] < 5
    assert answer["mean_diameter"] == pytest.approx(20.0, rel=DRAWN)


def test_convergence_wakes_up_for_the_frame_that_decides(rest) -> None:
    rest.add([19, 20, 21] * 4, pixel_size_nm=1.0, shape=(512, 512))
    answers: list[dict] = []

    def wait() -> None:
        path = "/api/v1/sessions/1/convergence?target=0.02&wait_s=20"
        answers.append(rest.http.get(path, timeout=30).json())

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)  # only to make it likely that the wait has begun; right either way
    rest.add([19, 20, 21] * 20, pixel_size_nm=1.0, shape=(512, 512))
    waiting.join(15)
    assert answers[0]["known"] is True
    assert answers[0]["counted"] == 72
    assert answers[0]["waited_s"] < 10  # the frame woke it, not the time limit


def test_convergence_says_how_many_more_when_time_is_up(rest) -> None:
    rest.add([10, 20, 30], pixel_size_nm=1.0)
    answer = rest.http.get(
        "/api/v1/sessions/1/convergence?target=0.01&wait_s=0.2"
    ).json()
    assert answer["known"] is False
    assert answer["needed_more"] > 100
    assert 0.2 <= answer["waited_s"] < 5


UNKNOWN = [
    "/api/v1/sessions/99",
    "/api/v1/sessions/99/psd",
    "/api/v1/sessions/99/frames",
    "/api/v1/sessions/99/timeline",
    "/api/v1/sessions/99/convergence",
    "/api/v1/frames/99",
    "/api/v1/frames/99/particles",
    "/api/v1/frames/99/psd",
    "/api/v1/frames/99/image.png",
    "/api/v1/frames/99/labels.tif",
    "/api/v1/nowhere",
]


def test_what_is_not_there_is_a_problem_document(rest) -> None:
    for path in UNKNOWN:
        answer = rest.http.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail"} <= set(answer.json())


IMPOSSIBLE = [
    "/api/v1/frames/no",
    "/api/v1/frames/0",
    "/api/v1/frames/99999999999999999999",
    "/api/v1/sessions/1/convergence?target=2",
    "/api/v1/sessions/1/convergence?target=nan",
    "/api/v1/sessions/1/frames?limit=0",
    "/api/v1/sessions/1/frames?state=lost",
]


def test_impossible_requests_are_refused_with_the_reason(rest) -> None:
    for path in IMPOSSIBLE:
        answer = rest.http.get(path)
        assert answer.status_code == 422, path
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["expected"]
        assert problem["do"]


def test_a_waiting_frame_has_no_particles_yet_and_says_so(rest) -> None:
    rest.lab.deliver(_frame_of(10))
    answer = rest.http.get("/api/v1/frames/1/particles")
    assert answer.status_code == 404
    assert "queued" in answer.json()["detail"]


def test_answers_match_the_published_schema(rest) -> None:
    schema = rest.http.get("/api/v1/openapi.json").json()
    frame = schema["components"]["schemas"]["FrameAnswer"]["properties"]
    found = rest.http.get(f"/api/v1/frames/{rest.add([10])}").json()
    assert set(found) == set(frame)
    assert "/api/v1/sessions/{session_id}/convergence" in schema["paths"]
    assert not any(
        isinstance(value, float) and not math.isfinite(value)
        for value in json.loads(json.dumps(found)).values()
    )


def test_nobody_without_a_token_is_answered(rest) -> None:
    answer = rest.http.get("/api/v1/sessions", headers={"authorization": "Bearer no"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
