"""The whole way: a file in the watched folder becomes outlines, rows and REST answers."""

import json
import shutil
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcopilot.virtual_microscope import acquire
from gpu_server.accounts import problem_files
from gpu_server.demo_programs import DemoPrograms
from gpu_server.demo_verdict import judge
from gpu_server.tokens import Tokens
from gpu_server.verify import verify

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def film(installation: DemoPrograms) -> int:
    """Three more frames of the virtual microscope, processed; returns how many are in all."""
    processed, quarantined = installation.done()
    acquire(
        installation.watched,
        frames=3,
        fps=4.0,
        size=512,
        seed=11,
        truth_path=installation.truth,
    )
    installation.wait_until_done(processed + quarantined + 3)
    return processed + 3  # the browser's tests may have used the installation before


def get(installation: DemoPrograms, path: str) -> bytes:
    token = Tokens(installation.database).create("test", "viewer", who="test")
    request = urllib.request.Request(
        f"{installation.url}/api/v1{path}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def newest(installation: DemoPrograms) -> dict[str, object]:
    (session, *_) = json.loads(get(installation, "/sessions"))
    page = json.loads(get(installation, f"/sessions/{session['id']}/frames"))
    return next(frame for frame in page["frames"] if frame["state"] == "processed")


def test_every_frame_is_stored_and_measured_once(
    installation: DemoPrograms, film: int
) -> None:
    verdict = judge(installation, film)
    assert (verdict.stored, verdict.lost, verdict.duplicated) == (film, 0, 0)
    assert verdict.mean_diameter_nm > 0
    assert set(verdict.as_line()) >= {
        "frames", "stored", "lost", "duplicated", "mean_diameter_nm", "true_mean_diameter_nm",
        "mean_diameter_error_percent", "latency_p50_s", "latency_p95_s", "device", "model_id",
    }  # fmt: skip


def test_the_books_balance_and_hashes_hold(
    installation: DemoPrograms, film: int
) -> None:
    verdict = verify(installation.database)
    assert verdict.passed, verdict


def test_the_frames_join_one_domain_and_raise_no_alarm(
    installation: DemoPrograms, film: int
) -> None:
    domains = json.loads(get(installation, "/domains"))
    named = [one for one in domains if one["pixel_size_nm"]]
    # A frame joins just after its result is shown.
    assert sum(one["frame_count"] for one in named) >= film - 1
    assert len(named) == 1
    assert all(one["state"] == "ok" for one in json.loads(get(installation, "/shift")))


def test_rest_tells_the_frame_with_its_calibration(
    installation: DemoPrograms, film: int
) -> None:
    frame = newest(installation)
    assert frame["pixel_size_source"] == "metadata"
    assert frame["pixel_size_nm"] == pytest.approx([0.2, 0.2], rel=1e-4)
    assert frame["unit"] == "nm"


def test_rest_gives_pictures_and_labels_of_native_size(
    installation: DemoPrograms, film: int, tmp_path: Path
) -> None:
    frame = newest(installation)["id"]
    labels = tmp_path / "labels.tif"
    labels.write_bytes(get(installation, f"/frames/{frame}/labels.tif"))
    assert tifffile.imread(labels).shape == (512, 512)
    assert get(installation, f"/frames/{frame}/overlay.png").startswith(b"\x89PNG")
    header = get(installation, f"/frames/{frame}/particles?format=csv").split(b"\r\n")[
        0
    ]
    assert header.startswith(b"session,frame,time_s,particle,label,")


def test_a_bad_file_is_named_with_its_reason_and_the_next_frame_works(
    installation: DemoPrograms, film: int
) -> None:
    processed, quarantined = installation.done()
    (installation.watched / "notes.tif").write_text("not an image at all\n" * 20)
    installation.wait_until_done(processed + quarantined + 1)
    acquire(
        installation.watched, frames=1, size=256, seed=12, truth_path=installation.truth
    )
    installation.wait_until_done(processed + quarantined + 2)
    assert installation.done() == (processed + 1, quarantined + 1)
    with installation.database.read() as connection:
        (problem, *_) = problem_files(connection)
    assert problem.name.endswith("notes.tif")
    assert problem.reason


def test_constant_nan_and_uncalibrated_frames_get_a_result_in_px(
    installation: DemoPrograms, film: int
) -> None:
    before = installation.done()[0]
    odd = installation.watched / "odd"
    odd.mkdir()
    with_nan = np.zeros((64, 64), np.float32)
    with_nan[8:16, 8:16] = np.nan
    for name, pixels in {
        "constant": np.full((64, 64), 7, np.uint8),
        "nan": with_nan,
    }.items():
        tifffile.imwrite(odd / f"{name}.tif", pixels)
    installation.wait_until_done(sum(installation.done()) + 2)
    deadline = time.monotonic() + 60
    while installation.done()[0] < before + 2:
        assert time.monotonic() < deadline, "odd frames were not processed"
        time.sleep(0.1)
    frame = newest(installation)
    assert frame["pixel_size_nm"] is None
    assert frame["unit"] == "px"


def test_real_micrographs_dropped_into_the_folder_get_a_result(
    installation: DemoPrograms, film: int, real_data: Path
) -> None:
    images = sorted((real_data / "emps_tem" / "images").glob("*.png"))[:2]
    images += sorted((real_data / "arda_stem" / "images").glob("Pd*.jpg"))[:1]
    before = installation.done()
    folder = installation.watched / "real"
    folder.mkdir()
    for image in images:
        shutil.copy(image, folder / image.name)
    installation.wait_until_done(sum(before) + len(images))
    assert installation.done() == (before[0] + len(images), before[1])
