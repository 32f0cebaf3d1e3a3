"""The operator's word changes the statistics, can be taken back, and leaves a trace."""

import pytest
import sqlalchemy as sa

from gpu_server.tables import audit

DRAWN = 0.03  # a disc drawn by pixel centres


def psd_of(rest) -> dict:
    return rest.http.get("/api/v1/sessions/1/psd").json()


def largest(rest, frame: int) -> int:
    rows = rest.http.get(f"/api/v1/frames/{frame}/particles").json()["particles"]
    return max(rows, key=lambda row: row["area_px"])["particle"]


def test_rejecting_a_particle_changes_every_statistic_and_restoring_undoes_it(
    rest,
) -> None:
    frame = rest.add([10, 10, 40], pixel_size_nm=1.0)
    before = psd_of(rest)
    path = f"/api/v1/frames/{frame}/particles/{largest(rest, frame)}"
    first = rest.http.post(f"{path}/reject")
    again = rest.http.post(f"{path}/reject")
    assert (first.status_code, again.status_code) == (200, 200)
    without = psd_of(rest)
    assert (without["counted"], without["rejected"]) == (2, 1)
    assert without["mean_number"] == pytest.approx(10.0, rel=DRAWN)
    assert rest.http.get(f"/api/v1/frames/{frame}").json()["counted"] == 2
    line = rest.http.get("/api/v1/sessions/1/timeline").json()
    assert line["counted"] == [2]
    assert line["mean_diameter"] == [pytest.approx(10.0, rel=DRAWN)]
    rows = rest.http.get(f"/api/v1/frames/{frame}/particles").json()["particles"]
    assert sum(row["rejected"] for row in rows) == 1
    assert rest.http.post(f"{path}/restore").status_code == 200
    restored = psd_of(rest)
    assert restored["mean_number"] == before["mean_number"]
    assert without["last_event"] > before["last_event"]


def test_a_rejected_frame_leaves_the_statistics_and_comes_back(rest) -> None:
    rest.add([10] * 3, pixel_size_nm=1.0)
    bad = rest.add([30] * 3, pixel_size_nm=1.0)
    rest.http.post(f"/api/v1/frames/{bad}/reject").raise_for_status()
    assert psd_of(rest)["mean_number"] == pytest.approx(10.0, rel=DRAWN)
    assert rest.http.get("/api/v1/sessions/1").json()["rejected"] == 1
    rows = rest.http.get(f"/api/v1/frames/{bad}/particles").json()["particles"]
    assert all(row["rejected"] for row in rows)
    rest.http.post(f"/api/v1/frames/{bad}/restore").raise_for_status()
    assert psd_of(rest)["counted"] == 6


def test_who_changed_what_is_in_the_audit(rest) -> None:
    frame = rest.add([10])
    rest.http.post(f"/api/v1/frames/{frame}/particles/1/reject").raise_for_status()
    with rest.lab.store.read() as connection:
        line = connection.execute(
            sa.select(audit).where(audit.c.subject == f"frame {frame}")
        ).one()
    assert (line.who, line.action) == ("script", "reject particles")


def test_a_viewer_may_look_but_not_touch(rest) -> None:
    frame = rest.add([10])
    viewer = {"authorization": f"Bearer {rest.viewer}"}
    path = f"/api/v1/frames/{frame}"
    assert rest.http.get(path, headers=viewer).status_code == 200
    for change in ("reject", "restore", "reprocess", "particles/1/reject"):
        refused = rest.http.post(f"{path}/{change}", headers=viewer)
        assert refused.status_code == 403
        assert "operator" in refused.json()["detail"]
    assert psd_of(rest)["counted"] == 1


def test_what_is_not_there_cannot_be_rejected(rest) -> None:
    frame = rest.add([10])
    for path in (f"frames/{frame}/particles/2", "frames/99/particles/1", "frames/99"):
        answer = rest.http.post(f"/api/v1/{path}/reject")
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("given", "edges"), [(0.5, (0.5, 0.5)), ([0.5, 0.6], (0.5, 0.6))]
)
def test_calibration_is_kept_for_the_session(rest, given, edges) -> None:
    rest.add([10])
    answer = rest.http.post(
        "/api/v1/sessions/1/calibration", json={"pixel_size_nm": given}
    )
    assert answer.status_code == 200
    assert rest.http.get("/api/v1/sessions/1").json()["pixel_size_nm"] == list(edges)


@pytest.mark.parametrize("given", [0, -1, "wide", [1], [1, 2, 3], [0.1, -0.1], 1e400])
def test_impossible_pixel_sizes_are_refused(rest, given) -> None:
    rest.add([10])
    body = b'{"pixel_size_nm": Infinity}' if given == 1e400 else None
    answer = rest.http.post(
        "/api/v1/sessions/1/calibration",
        **({"content": body} if body else {"json": {"pixel_size_nm": given}}),
    )
    assert answer.status_code == 422
    assert rest.http.get("/api/v1/sessions/1").json()["pixel_size_nm"] is None


def test_a_misspelt_key_is_refused(rest) -> None:
    rest.add([10])
    answer = rest.http.post("/api/v1/sessions/1/calibration", json={"pixelsize": 1})
    assert answer.status_code == 422
    assert "pixelsize" in answer.json()["detail"]


def test_a_session_is_not_processed_anew_for_a_misspelt_key(rest) -> None:
    frame = rest.add([10])
    answer = rest.http.post("/api/v1/sessions/1/reprocess", json={"model": "b"})
    assert answer.status_code == 422
    assert "body.model" in answer.json()["detail"]
    assert rest.http.get(f"/api/v1/frames/{frame}").json()["state"] == "processed"
