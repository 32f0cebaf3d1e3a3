import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from emcopilot.errors import DecodeError
from emcopilot.population import Population
from emcopilot.simulate import Micrograph, Scene, render_micrograph
from emcopilot.truth import (
    FrameTruth,
    append_truth,
    frame_truth,
    mean_diameter_nm,
    read_truth,
)


def micrograph(count: int = 9, seed: int = 1) -> Micrograph:
    scene = Scene((160, 160), "bf", Population(count, 25))
    return render_micrograph(scene, np.random.default_rng(seed))


def truth(frame: int, seed: int = 1, count: int = 9) -> FrameTruth:
    return frame_truth(
        micrograph(count, seed),
        file=f"frame_{frame}.tif",
        page=0,
        frame=frame,
        time_s=frame,
    )


def stored(path: Path, *truths: FrameTruth) -> Path:
    with path.open("ab") as file:
        append_truth(file, truths)
    return path


def test_truth_reads_back_as_written(tmp_path: Path) -> None:
    truths = [truth(0), truth(1, seed=2)]
    assert read_truth(stored(tmp_path / "truth.jsonl", *truths)) == truths


def test_a_line_names_its_file_and_its_particles() -> None:
    buffer = io.BytesIO()
    append_truth(buffer, [truth(3)])
    (line,) = buffer.getvalue().splitlines()
    found = json.loads(line)
    assert (found["file"], found["page"], found["frame"]) == ("frame_3.tif", 0, 3)
    assert found["pixel_size_nm"] == 0.2
    assert {"equivalent_diameter_nm", "touches_border", "area_px"} <= set(
        found["particles"][0]
    )


def test_the_mean_leaves_out_what_the_border_cuts() -> None:
    one = truth(0)
    whole = [p for p in one.particles if not p.touches_border]
    assert 0 < len(whole) < len(one.particles)
    mean_nm = np.mean([p.equivalent_diameter_nm for p in whole])
    assert one.counted == len(whole)
    assert one.mean_diameter_nm == pytest.approx(mean_nm)
    assert mean_diameter_nm([one]) == pytest.approx(mean_nm)


def test_the_mean_over_frames_weighs_particles_alike() -> None:
    one, two = truth(0), truth(1, seed=5, count=3)
    both = one.diameters_nm() + two.diameters_nm()
    assert mean_diameter_nm([one, two]) == pytest.approx(np.mean(both))


def test_an_empty_frame_has_no_mean(tmp_path: Path) -> None:
    path = stored(tmp_path / "truth.jsonl", truth(0, count=0))
    (empty,) = read_truth(path)
    assert empty.mean_diameter_nm is None
    assert math.isnan(mean_diameter_nm([empty]))


def test_a_later_line_about_the_same_page_wins(tmp_path: Path) -> None:
    path = stored(tmp_path / "truth.jsonl", truth(0), truth(1))
    again = truth(0, seed=9)
    assert read_truth(stored(path, again)) == [truth(1), again]


def test_a_line_that_is_no_truth_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path / "truth.jsonl", truth(0))
    with path.open("ab") as file:
        file.write(b'{"file": "x"}\n')
    with pytest.raises(DecodeError, match="line 2"):
        read_truth(path)
