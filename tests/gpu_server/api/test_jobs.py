"""The button over REST."""

import json
import time

import pytest

from gpu_server import jobs
from gpu_server.tables import STAGES


@pytest.fixture
def site(rest, job_lab):
    """The REST server with a desk of jobs; rings are counted in `rung`."""
    rung: list[float] = []
    object.__setattr__(rest.services, "jobs", job_lab.desk)
    object.__setattr__(rest.services, "ring_jobs", lambda: rung.append(time.time()))
    rest.rung = rung
    return rest


def change(job_lab, what, job_id: int, *given, **named) -> None:
    with job_lab.store.database.write() as connection:
        what(connection, job_id, *given, at=time.time(), **named)


def test_the_button_queues_one_job_and_a_second_press_names_it(site, job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    answer = site.http.post(f"/api/v1/domains/{domain_id}/adapt", json={})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["preset"], job["model"], job["frames"]) == (
        "queued", "quick", "a", 8,
    )  # fmt: skip
    assert len(site.rung) == 1
    again = site.http.post(f"/api/v1/domains/{domain_id}/adapt", json={})
    assert again.status_code == 409
    assert f"job {job['id']} of domain" in again.json()["detail"]
    assert [one["id"] for one in site.http.get("/api/v1/jobs").json()] == [job["id"]]


def test_too_few_frames_are_422_with_how_many_there_are(site, job_lab) -> None:
    domain_id = job_lab.add_domain(5)
    for answer in (
        site.http.post(f"/api/v1/domains/{domain_id}/adapt", json={}),
        site.http.get(f"/api/v1/domains/{domain_id}/estimate"),
    ):
        assert answer.status_code == 422
        assert "has 5 frames to learn from" in answer.json()["detail"]
        assert "expected 7" in answer.json()["detail"]


def test_an_estimate_comes_by_stage(site, job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    answer = site.http.get(
        f"/api/v1/domains/{domain_id}/estimate",
        params={"preset": "standard", "frames": 8},
    ).json()
    assert list(answer["stages"]) == list(STAGES)
    assert answer["total_s"] == pytest.approx(sum(answer["stages"].values()))
    assert answer["preset"] == "standard"


def test_unknown_things_are_404_and_bad_requests_422(site, job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    adapt = f"/api/v1/domains/{domain_id}/adapt"
    assert site.http.post("/api/v1/domains/99/adapt", json={}).status_code == 404
    assert site.http.post(adapt, json={"model": "none"}).status_code == 404
    assert site.http.post(adapt, json={"preset": "best"}).status_code == 422
    assert site.http.post(adapt, json={"typo": 1}).status_code == 422
    for path in ("", "/pictures", "/pictures/x.png", "/report"):
        assert site.http.get(f"/api/v1/jobs/99{path}").status_code == 404
    for what in ("cancel", "resume", "reject", "discard"):
        assert site.http.post(f"/api/v1/jobs/99/{what}").status_code == 404


def test_a_job_shows_its_course_and_its_pictures(site, job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    out = job_lab.desk.folder(job.id) / "out"
    (out / "samples").mkdir(parents=True)
    (out / "round-1").mkdir()
    png = b"\x89PNG\r\n\x1a\n"
    (out / "samples" / "1-1-rough-masks.png").write_bytes(png)
    said = {
        "stage": "pix2pix",
        "step": 10,
        "steps": 500,
        "at": 1.0,
        "figures": {"l1": 0.5},
    }
    (out / "progress.jsonl").write_text(json.dumps(said) + "\n")
    url = f"/api/v1/jobs/{job.id}"
    one = site.http.get(url).json()
    assert one["curves"] == [
        {"stage": "pix2pix", "figure": "l1", "step": [10], "value": [0.5]}
    ]
    assert one["pictures"] == site.http.get(f"{url}/pictures").json()
    picture = site.http.get(f"{url}/pictures/1-1-rough-masks.png")
    assert (picture.content, picture.headers["content-type"]) == (png, "image/png")
    assert site.http.get(f"{url}/report").status_code == 404
    (out / "round-1" / "report.json").write_text('{"verdict": "reject"}')
    assert site.http.get(f"{url}/report").json() == {"verdict": "reject"}


def test_a_job_is_cancelled_resumed_and_its_candidate_turned_down(
    site, job_lab
) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    url = f"/api/v1/jobs/{job.id}"
    assert site.http.post(f"{url}/reject").status_code == 409
    assert site.http.post(f"{url}/cancel").json()["state"] == "cancelled"
    assert site.http.post(f"{url}/cancel").status_code == 409
    assert site.http.post(f"{url}/resume").json()["state"] == "queued"
    change(job_lab, jobs.begin, job.id)
    asked = site.http.post(f"{url}/cancel").json()
    assert (asked["state"], asked["is_cancelling"]) == ("rough_masks", True)
    change(job_lab, jobs.end, job.id, "awaiting_operator", candidate="b")
    assert site.http.post(f"{url}/reject").json()["state"] == "rejected"


def test_one_job_says_what_room_it_takes(site, job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    url = f"/api/v1/jobs/{job.id}"
    waiting = site.http.get(url).json()
    assert (waiting["folder"], waiting["bytes"]) == (f"jobs/{job.id}", 0)
    frames = job_lab.desk.folder(job.id) / "frames"
    frames.mkdir(parents=True)
    (frames / "one.tif").write_bytes(bytes(5000))
    site.http.post(f"{url}/cancel")
    assert site.http.get(url).json()["bytes"] == 5000
    assert "bytes" not in site.http.get("/api/v1/jobs").json()[0]
    site.http.post(f"{url}/discard")
    assert site.http.get(url).json()["bytes"] == 0


def test_a_stopped_job_is_discarded_and_cannot_go_on(site, job_lab) -> None:
    job = job_lab.desk.order(job_lab.add_domain(8), "ada", preset="quick")
    folder = job_lab.desk.folder(job.id)
    for name in ("frames/one.tif", "out/round-1/report.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text('{"verdict": "reject"}')
    url = f"/api/v1/jobs/{job.id}"
    refused = site.http.post(f"{url}/discard")
    assert refused.status_code == 409
    assert "is queued, so it cannot be discarded: cancel it" in refused.json()["detail"]
    site.http.post(f"{url}/cancel")
    viewer = {"authorization": f"Bearer {site.viewer}"}
    assert site.http.post(f"{url}/discard", headers=viewer).status_code == 403
    assert not site.http.get(url).json()["is_discarded"]
    rung = len(site.rung)
    for _ in range(2):  # whose answer was lost asks again
        answer = site.http.post(f"{url}/discard")
        assert answer.status_code == 200
        assert (answer.json()["state"], answer.json()["is_discarded"]) == (
            "cancelled", True,
        )  # fmt: skip
    assert len(site.rung) > rung
    assert not (folder / "frames").exists()
    assert site.http.get(f"{url}/report").json() == {"verdict": "reject"}
    resumed = site.http.post(f"{url}/resume")
    assert resumed.status_code == 409
    assert "was discarded by script" in resumed.json()["detail"]


def test_a_viewer_may_look_and_not_press(site, job_lab) -> None:
    domain_id = job_lab.add_domain(8)
    headers = {"authorization": f"Bearer {site.viewer}"}
    pressed = site.http.post(
        f"/api/v1/domains/{domain_id}/adapt", json={}, headers=headers
    )
    assert pressed.status_code == 403
    assert site.http.get("/api/v1/jobs", headers=headers).json() == []
