"""A session's zip holds what REST says, one row a particle, and a report that needs nothing."""

import io
import json
import re
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from emcopilot.messages import PARTICLE_COLUMNS


def exported(rest) -> zipfile.ZipFile:
    answer = rest.http.get("/api/v1/sessions/1/export")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].endswith('.zip"')
    target = zipfile.ZipFile(io.BytesIO(answer.content))
    assert target.testzip() is None
    return target


def test_every_frame_and_particle_is_there_with_where_it_comes_from(rest) -> None:
    frame = rest.add([10, 20, 30], pixel_size_nm=0.5)
    rest.add([], pixel_size_nm=0.5)
    rest.add([15] * 4, pixel_size_nm=0.5)
    rest.http.post(f"/api/v1/frames/{frame}/particles/1/reject").raise_for_status()
    found = exported(rest)
    lines = found.read("particles.csv").decode().splitlines()
    assert lines[0] == ",".join(PARTICLE_COLUMNS)
    assert len(lines) == 1 + 7
    table = pq.read_table(io.BytesIO(found.read("particles.parquet"))).to_pydict()
    assert list(table) == list(PARTICLE_COLUMNS)
    assert sum(table["rejected"]) == 1
    assert set(table["model_id"]) == {"threshold"}
    rest_rows = rest.http.get(f"/api/v1/frames/{frame}/particles").json()["particles"]
    assert table["equivalent_diameter_nm"][:3] == pytest.approx(
        [row["equivalent_diameter_nm"] for row in rest_rows]
    )
    labels = tifffile.imread(io.BytesIO(found.read("labels/frame_000001.labels.tif")))
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    run = json.loads(found.read("run.json"))
    assert (run["frames"], run["particles"]) == (3, 7)
    assert run["models"] == {"threshold": 3}
    assert run["calibration_sources"] == {"metadata": 3}
    assert len(run["files_sha256"]) == 3
    counts = found.read("psd.csv").decode().splitlines()[1:]
    assert sum(int(line.rsplit(",", 1)[1]) for line in counts) == 6


def test_the_report_loads_nothing_and_escapes_names(rest) -> None:
    hostile = "<script>alert(1)</script>"
    rest.add([10, 20] * 6, folder=f"runs/{hostile}")
    report = exported(rest).read("report.html").decode()
    assert hostile not in report
    assert "&lt;script&gt;" in report
    assert "<svg" in report
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", report)


def test_a_session_without_results_still_has_a_report(rest) -> None:
    rest.lab.deliver(rest.lab.discs([10]))
    found = exported(rest)
    assert len(found.read("particles.csv").decode().splitlines()) == 1
    assert "No particle was counted" in found.read("report.html").decode()
    assert rest.http.get("/api/v1/sessions/9/export").status_code == 404
