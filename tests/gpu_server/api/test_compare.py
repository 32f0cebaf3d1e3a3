"""Two models on the same frames, and sessions computed once more."""

import time

import numpy as np
import pytest
import sqlalchemy as sa

from gpu_server.compare import mask_iou
from gpu_server.queries import frame as read_frame
from gpu_server.tables import audit, results

DIAMETERS = [12, 16, 20, 24]


@pytest.fixture
def filmed(lab, model_site):
    """Five frames of discs, counted by a threshold that is no model here."""
    for _ in range(5):
        lab.add(DIAMETERS, pixel_size_nm=0.5)
    return model_site


def rows(site, model_id: str) -> list[sa.Row]:
    chosen = sa.select(results).where(results.c.model_id == model_id)
    with site.registry.database.read() as connection:
        return list(connection.execute(chosen))


def finished(site, model_id: str) -> dict:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        told = site.ask("GET", "/sessions/1/reprocess", "viewer").json()
        (one,) = [row for row in told if row["model_id"] == model_id]
        if one["state"] in {"done", "stopped"}:
            return one
        time.sleep(0.02)
    raise AssertionError(told)


def test_both_outlines_on_the_same_frames_computed_once_and_not_counted(filmed) -> None:
    asked = {"other": "a", "frames": 3}
    answer = filmed.ask("POST", "/models/b/compare", json=asked).json()
    assert (answer["models"], answer["missing"]) == (["a", "b"], 0)
    assert len(answer["frames"]) == 3
    for frame in answer["frames"]:
        looks = frame["looks"]
        assert [look["model_id"] for look in looks] == ["a", "b"]
        assert all(look["counted"] == 4 for look in looks)
        assert all(len(look["outlines"]["offsets"]) == 5 for look in looks)
        assert looks[0]["mean_diameter"] == pytest.approx(
            9.0, rel=0.03
        )  # of 0.5 nm a px
        assert frame["iou"] == pytest.approx(1.0)
        assert frame["unit"] == "nm"
    kept = rows(filmed, "b")
    assert [row.counts for row in kept] == [False] * 3
    # Stored now: looking again computes nothing, and needs no operator.
    again = filmed.ask(
        "GET", "/compare", "viewer", params={"models": "a,b", "frames": 3}
    )
    assert again.json()["frames"] == answer["frames"]
    assert [row.saved_at for row in rows(filmed, "b")] == [row.saved_at for row in kept]
    more = filmed.ask("GET", "/compare", params={"models": "a,b", "frames": 5}).json()
    assert more["missing"] == 2


def test_the_newest_frames_come_first_and_the_live_model_is_the_rival(filmed) -> None:
    answer = filmed.ask("POST", "/models/b/compare", json={"frames": 2}).json()
    assert answer["models"] == ["a", "b"]
    assert [frame["number"] for frame in answer["frames"]] == [5, 4]
    assert filmed.ask("POST", "/models/a/compare").status_code == 422
    assert filmed.ask("POST", "/models/zebra/compare").status_code == 404
    assert filmed.ask("POST", "/models/b/compare", "viewer").status_code == 403
    assert filmed.ask("GET", "/compare", params={"models": "a"}).status_code == 422


def test_a_session_by_another_model_stands_beside_what_counts(filmed) -> None:
    before = filmed.ask("GET", "/sessions/1/psd").json()
    sent = filmed.ask("POST", "/sessions/1/reprocess", json={"model_id": "b"})
    assert sent.json()["event"] > 0
    done = finished(filmed, "b")
    assert (done["total"], done["done"], done["failed"]) == (5, 5, 0)
    after = filmed.ask("GET", "/sessions/1/psd").json()
    assert {**after, "last_event": 0} == {**before, "last_event": 0}
    assert filmed.ask("GET", "/sessions/1").json()["processed"] == 5
    with filmed.registry.database.read() as connection:
        (line,) = connection.execute(
            sa.select(audit).where(audit.c.action == "recompute session")
        ).all()
    assert line.detail == {"model_id": "b"}


def test_differences_are_told_by_frame_and_in_total(filmed) -> None:
    for model_id in ("a", "b"):
        filmed.ask("POST", "/sessions/1/reprocess", json={"model_id": model_id})
    for model_id in ("a", "b"):
        finished(filmed, model_id)
    path = "/sessions/1/differences"
    told = filmed.ask("GET", path, "viewer", params={"models": "a,b"}).json()
    assert (told["common"], told["unit"], told["psd_distance"]) == (5, "nm", 0.0)
    assert [row["counted"] for row in told["frames"]] == [[4, 4]] * 5
    assert told["mean_diameter_change"] == pytest.approx(0.0)
    assert not told["models"][0]["counts"]
    few = filmed.ask("GET", path, params={"models": "a,b", "points": 8}).json()
    assert few == told
    none = filmed.ask("GET", path, params={"models": "a,b", "points": 7})
    assert none.status_code == 422
    odd = filmed.ask("GET", path, params={"models": "a,c"}).json()
    assert (odd["common"], odd["psd_distance"]) == (0, None)


def test_a_model_can_be_made_the_one_that_counts_and_back(filmed) -> None:
    path = "/sessions/1/count"
    early = filmed.ask("POST", path, json={"model_id": "b"})
    assert early.status_code == 404
    filmed.ask("POST", "/models/b/compare", json={"frames": 2}).raise_for_status()
    some = filmed.ask("POST", path, json={"model_id": "b"}).json()
    assert (some["frames"], some["without"]) == (2, 3)
    assert sum(row.counts for row in rows(filmed, "b")) == 2
    assert sum(row.counts for row in rows(filmed, "threshold")) == 3
    assert filmed.ask("GET", "/sessions/1/psd").json()["counted"] == 20
    back = filmed.ask("POST", path, json={"model_id": "threshold"}).json()
    assert (back["frames"], back["without"]) == (5, 0)


def test_frames_are_counted_by_model(filmed) -> None:
    filmed.ask("POST", "/models/b/compare", json={"frames": 2}).raise_for_status()
    listed = filmed.ask("GET", "/models", "viewer").json()
    assert {row["model_id"]: row["frames"] for row in listed}["b"] == 2
    assert filmed.ask("GET", "/models/b").json()["frames"] == 2
    assert filmed.ask("GET", "/models/c").json()["frames"] == 0


def test_a_frame_that_cannot_be_read_is_told_and_the_others_are_computed(
    filmed, lab
) -> None:
    lab.add([30, 40], pixel_size_nm=0.5)
    with lab.store.read() as connection:
        odd = read_frame(connection, 6)
    assert odd is not None
    lab.store.blob_path(odd.sha256).write_bytes(b"no longer a picture")
    filmed.ask("POST", "/sessions/1/reprocess", json={"model_id": "b"})
    done = finished(filmed, "b")
    assert (done["done"], done["failed"], done["state"]) == (5, 1, "stopped")
    assert done["reason"]
    lab.store.blob_path(odd.sha256).write_bytes(lab.tiff_of(lab.discs([30, 40])))
    filmed.ask("POST", "/sessions/1/reprocess", json={"model_id": "b"})
    assert finished(filmed, "b")["done"] == 6


def test_reprocessing_without_a_body_still_queues_everything(filmed) -> None:
    assert filmed.ask("POST", "/sessions/1/reprocess").status_code == 200
    assert filmed.ask("GET", "/sessions/1").json()["queued"] == 5
    assert filmed.ask("POST", "/sessions/1/reprocess", json={}).status_code == 200


def test_what_is_not_there_is_not_computed(filmed) -> None:
    for path, body, status in (
        ("/sessions/9/reprocess", {"model_id": "b"}, 404),
        ("/sessions/1/reprocess", {"model_id": "zebra"}, 404),
        ("/sessions/1/reprocess", {"model_id": "../b"}, 422),
        ("/sessions/9/count", {"model_id": "b"}, 404),
    ):
        assert filmed.ask("POST", path, json=body).status_code == status, path
    assert filmed.ask("GET", "/sessions/9/reprocess").status_code == 404


def test_the_overlap_of_two_empty_masks_is_whole() -> None:
    nothing, one = np.zeros((4, 4), np.int32), np.ones((4, 4), np.int32)
    assert mask_iou(nothing, nothing) == 1.0
    assert mask_iou(one, nothing) == 0.0
