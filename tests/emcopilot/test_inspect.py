"""`emcopilot inspect`, as a script and as a person see it."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcopilot.inspect import main

KEYS = {
    "path", "frames", "shape", "dtype", "pixel_size_nm", "pixel_size_source", "modality",
    "refused",
}  # fmt: skip
PIXELS = np.zeros((48, 64), np.uint16)


def inspected(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict]:
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def write(path: Path, per_nm: tuple[float, float] | None = None) -> Path:
    if per_nm is None:
        tifffile.imwrite(path, PIXELS)
    else:
        tifffile.imwrite(
            path, PIXELS, imagej=True, resolution=per_nm, metadata={"unit": "nm"}
        )
    return path


def test_json_has_the_promised_keys_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = inspected(capsys, write(tmp_path / "a.tif", (4.0, 4.0)))
    assert found.keys() >= KEYS
    assert found["path"] == str(tmp_path / "a.tif")
    assert found["frames"] == 1
    assert found["shape"] == [48, 64]
    assert found["dtype"] == "uint16"
    assert found["pixel_size_nm"] == pytest.approx(0.25)
    assert found["pixel_size_source"] == "metadata"
    assert found["refused"] is None


def test_pixels_that_are_not_square_are_a_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = inspected(capsys, write(tmp_path / "a.tif", (4.0, 2.0)))
    assert found["pixel_size_nm"] == pytest.approx([0.5, 0.25])  # (y, x)


def test_unknown_is_null_and_a_sidecar_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.tif")
    (found,) = inspected(capsys, path)
    assert found["pixel_size_nm"] is None
    assert found["pixel_size_source"] is None
    (tmp_path / "a.json").write_text('{"pixel_size_nm": 0.3}')
    (found,) = inspected(capsys, path)
    assert (found["pixel_size_nm"], found["pixel_size_source"]) == (0.3, "sidecar")
    (tmp_path / "a.json").write_text('{"pixel_size_nm": -3}')
    (found,) = inspected(capsys, path)
    assert found["pixel_size_nm"] is None
    assert any("a.json" in note for note in found["notes"])


def test_a_bad_file_is_refused_and_the_next_one_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = tmp_path / "bad.tif", write(tmp_path / "good.tif")
    bad.write_text("not an image")
    first, second = inspected(capsys, bad, good)
    assert first["frames"] == 0
    assert "text" in first["refused"]
    assert second["frames"] == 1
    assert main([str(good)]) == 0
    assert main([str(bad), str(good)]) == 1


def test_a_folder_is_searched_for_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "b.TIF")
    write(tmp_path / "a.tif")
    (tmp_path / "notes.md").write_text("x")
    names = [Path(found["path"]).name for found in inspected(capsys, tmp_path)]
    assert names == ["a.tif", "b.TIF"]


def test_a_person_reads_sizes_and_their_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(write(tmp_path / "a.tif", (4.0, 2.0))), str(write(tmp_path / "b.tif"))])
    said = capsys.readouterr().out
    assert "1 frame of 48 x 64 px" in said
    assert "0.5 nm high, 0.25 nm wide (from metadata)" in said
    assert "unknown; sizes will be in px" in said


def test_without_a_path_it_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: emcopilot inspect" in capsys.readouterr().err
