"""The whole loop over REST: frames make a domain, one press learns it, one promotes, one undoes.

Server, agent and trainer are the real programs; the model and the job are small.
"""

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from emcopilot.virtual_microscope import acquire
from gpu_server.demo_programs import DemoPrograms
from gpu_server.tables import STAGES
from gpu_server.tokens import Tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LONGEST_JOB_S = 1200.0
SPEC = importlib.util.spec_from_file_location(
    "tiny_job", Path(__file__).parents[1] / "tiny_job.py"
)
assert SPEC is not None
assert SPEC.loader is not None
tiny_job = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny_job)


def settings_of(model: Path) -> str:
    overrides = json.dumps(tiny_job.OVERRIDES).replace('":', '" =')
    return f"""
[segment]
model = '{model}'
device = "cpu"
warm_px = 0

[adaptation]
device = "cpu"
priority = "normal"
overrides = {overrides}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPrograms]:
    folder = tmp_path_factory.mktemp("site")
    tiny_job.save_small_model(folder / "model")
    settings = settings_of(folder / "model")
    with DemoPrograms(folder, port=0, settings=settings) as programs:
        yield programs


@pytest.fixture(scope="module")
def http(site: DemoPrograms) -> Iterator[httpx.Client]:
    token = Tokens(site.database).create("test", "operator", who="test")
    headers = {"authorization": f"Bearer {token}"}
    base = f"{site.url}/api/v1"
    with httpx.Client(base_url=base, headers=headers, timeout=120) as client:
        yield client


def add_frames(site: DemoPrograms, count: int, seed: int) -> None:
    """Let the virtual microscope take some more frames, and wait for their results."""
    before = sum(site.done())
    acquire(
        site.watched,
        mode="bf",
        frames=count,
        fps=1000.0,
        size=256,
        seed=seed,
        truth_path=site.truth,
    )
    site.wait_until_done(before + count)


def newest(http: httpx.Client) -> dict[str, object]:
    (session, *_) = http.get("/sessions").json()
    return http.get(f"/sessions/{session['id']}/frames").json()["frames"][0]


def until(what, seconds: float):
    """Wait until `what` returns something, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def domain(site: DemoPrograms, http: httpx.Client) -> int:
    add_frames(site, 10, seed=5)

    def ready() -> int | None:
        for one in http.get("/domains").json():
            if one["reservoir_count"] >= 7:
                return one["id"]
        return None

    return until(ready, 60)


@pytest.fixture(scope="module")
def job(http: httpx.Client, domain: int) -> dict[str, object]:
    """The job, when it is done; on the way it is pressed twice, cancelled and resumed."""
    estimate = http.get(f"/domains/{domain}/estimate").json()
    assert estimate["total_s"] > 0
    answer = http.post(f"/domains/{domain}/adapt", json={"seed": 3})
    assert answer.status_code == 202, answer.text
    number = answer.json()["id"]
    assert http.post(f"/domains/{domain}/adapt", json={}).status_code == 409

    def stage(*names: str):
        found = http.get(f"/jobs/{number}").json()
        assert found["state"] not in {"failed", "rejected"}, found["reason"]
        return found if found["state"] in names else None

    running = until(lambda: stage("pix2pix", "cyclegan"), LONGEST_JOB_S)
    assert running["eta_s"] > 0
    assert running["ahead"] == 0
    assert http.post(f"/jobs/{number}/cancel").status_code == 200
    until(lambda: stage("cancelled"), 120)
    assert http.post(f"/jobs/{number}/resume").status_code == 200
    return until(lambda: stage("awaiting_operator"), LONGEST_JOB_S)


def test_a_job_leaves_a_candidate_with_curves_pictures_and_a_report(
    http: httpx.Client, job: dict[str, object]
) -> None:
    number = job["id"]
    assert set(job["seconds"]) >= set(STAGES)
    figures = {(curve["stage"], curve["figure"]) for curve in job["curves"]}
    assert {("pix2pix", "l1"), ("cyclegan", "cycle"), ("train", "loss")} <= figures
    assert len(job["pictures"]) == 4
    for name in job["pictures"]:
        picture = http.get(f"/jobs/{number}/pictures/{name}.png")
        assert picture.content.startswith(b"\x89PNG")
    report = http.get(f"/jobs/{number}/report").json()
    assert report["verdict"] in {"promote", "doubtful", "reject"}
    assert report["replay"]
    known = http.get(f"/models/{job['candidate']}").json()
    assert known["verdict"] == report["verdict"]


def test_nothing_went_live_by_itself(
    http: httpx.Client, job: dict[str, object], site: DemoPrograms
) -> None:
    add_frames(site, 1, seed=6)
    assert newest(http)["model_id"] == job["model"]


def test_the_promoted_candidate_makes_the_next_result_and_a_roll_back_undoes_it(
    http: httpx.Client, job: dict[str, object], site: DemoPrograms
) -> None:
    wanted = {"override": True, "reason": "a test"}
    answer = http.post(f"/models/{job['candidate']}/promote", json=wanted)
    assert answer.status_code == 200, answer.text
    assert http.get(f"/jobs/{job['id']}").json()["state"] == "promoted"
    add_frames(site, 1, seed=7)
    assert newest(http)["model_id"] == job["candidate"]
    assert http.post("/models/rollback").status_code == 200
    add_frames(site, 1, seed=8)
    assert newest(http)["model_id"] == job["model"]
