"""`POST /segment`: a file in, labels or measurements out, and nothing is kept."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile

DRAWN = 0.03  # a disc drawn by pixel centres
MIB = 2**20


@pytest.fixture
def frame(lab) -> bytes:
    return lab.tiff_of(lab.discs([10, 20, 30]))


def kept(rest) -> list[str]:
    return [path.name for path in rest.services.scratch_dir.glob("*")]


def test_a_raw_body_is_segmented_and_nothing_is_kept(rest, frame) -> None:
    answer = rest.http.post(
        "/api/v1/segment?name=run/frame.tif&pixel_size_nm=0.5", content=frame
    )
    assert answer.status_code == 200
    found = answer.json()
    sizes = sorted(row["equivalent_diameter_nm"] for row in found["particles"])
    assert sizes == pytest.approx([5, 10, 15], rel=DRAWN)
    assert found["psd"]["mean_number"] == pytest.approx(10, rel=DRAWN)
    assert (found["name"], found["pixel_size_source"]) == ("frame.tif", "operator")
    assert found["confidence"] == pytest.approx(255 / 256)  # what 8 bits are sure of
    assert (found["doubtful"], found["doubtful_share"]) == (0, 0.0)
    assert kept(rest) == []
    assert rest.http.get("/api/v1/sessions").json() == []


def test_a_form_upload_gives_the_same_answer(rest, frame) -> None:
    form = rest.http.post("/api/v1/segment", files={"file": ("frame.tif", frame)})
    raw = rest.http.post("/api/v1/segment?name=frame.tif", content=frame)
    assert form.status_code == raw.status_code == 200
    assert form.json() == raw.json()
    assert form.json()["psd"]["unit"] == "px"
    assert kept(rest) == []


def test_labels_come_back_at_native_size(rest, frame) -> None:
    answer = rest.http.post(
        "/api/v1/segment?name=frame.tif",
        content=frame,
        headers={"accept": "image/tiff"},
    )
    assert answer.headers["content-type"] == "image/tiff"
    assert "frame.labels.tif" in answer.headers["content-disposition"]
    labels = tifffile.imread(io.BytesIO(answer.content))
    assert labels.shape == (256, 256)
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_the_type_can_come_from_the_content_type(rest, frame) -> None:
    answer = rest.http.post(
        "/api/v1/segment", content=frame, headers={"content-type": "image/tiff"}
    )
    assert answer.status_code == 200


def test_unequal_pixel_edges_are_given_as_y_and_x(rest, frame) -> None:
    answer = rest.http.post(
        "/api/v1/segment?name=f.tif&pixel_size_nm=0.5&pixel_size_nm=2", content=frame
    )
    assert answer.json()["pixel_size_nm"] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("notes.tif", b"These are my notes, not an image.\n", (415, 422)),
        ("half.tif", None, (415, 422)),
        ("empty.tif", b"", (422,)),
        ("evil.pkl", b"\x80\x04K\x01.", (415, 422)),
    ],
)
def test_bad_files_are_refused_with_the_reason(rest, frame, name, body, status) -> None:
    body = frame[: len(frame) // 2] if body is None else body
    answer = rest.http.post(f"/api/v1/segment?name={name}", content=body)
    assert answer.status_code in status
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]
    assert problem["do"]
    assert kept(rest) == []
    again = rest.http.post("/api/v1/segment?name=frame.tif", content=frame)
    assert again.status_code == 200  # the next one works


def test_a_page_that_is_not_there_is_refused(rest, frame) -> None:
    answer = rest.http.post("/api/v1/segment?name=f.tif&page=7", content=frame)
    assert answer.status_code == 422


@pytest.mark.parametrize("size", ["0", "-1", "inf", "nan"])
def test_impossible_pixel_sizes_are_refused(rest, frame, size) -> None:
    answer = rest.http.post(
        f"/api/v1/segment?name=f.tif&pixel_size_nm={size}", content=frame
    )
    assert answer.status_code == 422


def test_too_large_a_body_is_cut_off_as_it_arrives(rest) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):  # chunked: no Content-Length promises anything
            sent += MIB
            yield bytes(MIB)

    answer = rest.http.post("/api/v1/segment?name=f.tif", content=chunks())
    assert answer.status_code == 413
    assert "watched folder" in answer.json()["do"]
    assert kept(rest) == []


def test_a_form_without_a_file_is_refused(rest) -> None:
    answer = rest.http.post("/api/v1/segment", files={"note": (None, "no file")})
    assert answer.status_code == 422
    assert "multipart" in answer.json()["expected"]


def test_segmenting_needs_an_operators_token(rest, frame) -> None:
    answer = rest.http.post(
        "/api/v1/segment?name=f.tif",
        content=frame,
        headers={"authorization": f"Bearer {rest.viewer}"},
    )
    assert answer.status_code == 403
