"""Image files over REST become frames like an agent's, once each, or are refused in words."""

import hashlib

import pytest


def send(rest, data: bytes, name: str = "a.tif", session: str = "dropped", **options):
    asked = {"session": session, "name": name}
    return rest.http.post("/api/v1/uploads", params=asked, content=data, **options)


def test_a_file_becomes_a_queued_frame_whose_bytes_are_kept(rest) -> None:
    data = rest.lab.tiff_of(rest.lab.discs([10, 20]))
    answer = send(rest, data).json()
    assert answer["sha256"] == hashlib.sha256(data).hexdigest()
    assert rest.lab.store.blob_path(answer["sha256"]).read_bytes() == data
    (session,) = rest.http.get("/api/v1/sessions").json()
    assert (session["name"], session["queued"]) == ("dropped", 1)
    leased, _ = rest.lab.process(rest.lab.discs([10, 20]))
    assert leased.source_key == "dropped/a.tif"
    assert not list(rest.services.scratch_dir.iterdir())


def test_a_file_sent_twice_is_meant_twice_and_its_bytes_are_kept_once(rest) -> None:
    data = rest.lab.tiff_of(rest.lab.discs([10]))
    first, second = (send(rest, data).json() for _ in range(2))
    assert first["file_id"] != second["file_id"]
    assert first["sha256"] == second["sha256"]
    (session,) = rest.http.get("/api/v1/sessions").json()
    assert session["frames"] == 2


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "C:\\temp\\a.tif", "/abs/a.tif", "<img src=x>.tif"]
)
def test_names_from_outside_are_never_paths(rest, name: str) -> None:
    answer = send(rest, b"bytes", name=name).json()
    assert "/" not in answer["name"]
    assert "\\" not in answer["name"]


@pytest.mark.parametrize("name", ["..", ".", "/", "a\nb.tif", "x" * 256])
def test_what_is_no_name_is_refused(rest, name: str) -> None:
    answer = send(rest, b"bytes", name=name)
    assert answer.status_code == 422
    assert rest.http.get("/api/v1/sessions").json() == []


def test_empty_and_huge_files_leave_nothing_behind(rest) -> None:
    assert send(rest, b"").status_code == 422
    assert send(rest, b"x" * (4 * 2**20 + 1)).status_code == 413
    assert not list(rest.services.scratch_dir.iterdir())
    assert rest.http.get("/api/v1/sessions").json() == []


def test_a_viewer_may_not_send_files(rest) -> None:
    viewer = {"authorization": f"Bearer {rest.viewer}"}
    assert send(rest, b"bytes", headers=viewer).status_code == 403
