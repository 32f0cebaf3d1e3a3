"""Archives come from anywhere: only a whole model gets out of one."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emcopilot.errors import ModelError
from gpu_server import model_archive
from gpu_server.golden import SIDE_PX
from gpu_server.model_archive import unpack, write_archive
from gpu_server.model_files import UnfitModelError

MASKS = {name: np.eye(SIDE_PX, dtype=np.bool_) for name in ("haadf", "bf", "empty")}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = b"weights" * 1000
    card = {"model_id": "m-1", "sha256": hashlib.sha256(weights).hexdigest()}
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "report.json").write_text("{}")
    return folder


@pytest.fixture
def archive(model: Path, tmp_path: Path) -> Path:
    target = tmp_path / "m-1.zip"
    write_archive(target, model, MASKS)
    return target


def test_what_goes_in_comes_out(archive: Path, model: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged.part"
    masks = unpack(archive, staged)
    assert masks is not None
    np.testing.assert_array_equal(masks["bf"], MASKS["bf"])
    there = {path.name: path.read_bytes() for path in staged.iterdir()}
    assert there == {path.name: path.read_bytes() for path in model.iterdir()}
    assert all(
        entry.compress_type == zipfile.ZIP_STORED
        for entry in zipfile.ZipFile(archive).infolist()
    )


Change = Callable[[dict[str, bytes]], None]


def rewritten(
    archive: Path, change: Change, compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(archive) as source:
        files = {name: source.read(name) for name in source.namelist()}
    change(files)
    with zipfile.ZipFile(archive, "w", compression) as target:
        for name, data in files.items():
            target.writestr(name, data)


def manifested(files: dict[str, bytes]) -> None:
    """Make the manifest fit again, as a forger would."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name != "manifest.json"
    }
    files["manifest.json"] = json.dumps(manifest).encode()


def path_traversal(files: dict[str, bytes]) -> None:
    files["../../evil.txt"] = b"!"
    manifested(files)


def absolute(files: dict[str, bytes]) -> None:
    files["/etc/evil"] = b"!"
    manifested(files)


def foreign_file(files: dict[str, bytes]) -> None:
    files["model.pkl"] = b"!"
    manifested(files)


def flipped_bit(files: dict[str, bytes]) -> None:
    files["model.safetensors"] = b"W" + files["model.safetensors"][1:]


def forged_weights(files: dict[str, bytes]) -> None:
    flipped_bit(files)
    manifested(files)


def no_card(files: dict[str, bytes]) -> None:
    del files["card.json"]
    manifested(files)


def no_manifest(files: dict[str, bytes]) -> None:
    del files["manifest.json"]


def other_size(files: dict[str, bytes]) -> None:
    files["model.safetensors"] += b"more"


def unlisted(files: dict[str, bytes]) -> None:
    files["seen.npz"] = b"?"


def other_model(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps({**manifest, "model_id": "m-2"}).encode()


def odd_golden(files: dict[str, bytes]) -> None:
    files["golden.npz"] = b"PK"
    manifested(files)


def newer_format(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps({**manifest, "version": 2}).encode()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (path_traversal, "does not belong"),
        (absolute, "does not belong"),
        (foreign_file, "does not belong"),
        (flipped_bit, "damaged on its way"),
        (forged_weights, "its card expects"),
        (no_card, r"no card\.json"),
        (no_manifest, r"no manifest\.json"),
        (other_size, "the manifest says"),
        (unlisted, "the archive holds"),
        (other_model, "the manifest of m-2"),
        (odd_golden, "golden"),
        (newer_format, "version"),
    ],
)
def test_an_archive_that_is_not_whole_leaves_nothing(
    archive: Path, tmp_path: Path, change: Change, why: str
) -> None:
    rewritten(archive, change)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UnfitModelError, match=why):
        unpack(archive, tmp_path / "staged.part")
    assert set(tmp_path.rglob("*")) == before


def test_a_compressed_archive_is_refused_before_anything_is_read(
    archive: Path, tmp_path: Path
) -> None:
    def bomb(files: dict[str, bytes]) -> None:
        files["report.bin"] = bytes(50 * 2**20)
        manifested(files)

    rewritten(archive, bomb, zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 2**20
    with pytest.raises(UnfitModelError, match="compressed or encrypted"):
        unpack(archive, tmp_path / "staged.part")


def test_an_archive_that_is_too_large_is_refused_by_its_names_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_archive, "MAX_ARCHIVE_BYTES", 5000)
    with pytest.raises(UnfitModelError, match="expected at most 5000"):
        unpack(archive, tmp_path / "staged.part")


def test_a_list_of_contents_of_thousands_is_refused_before_it_is_read(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(archive, "a") as target:
        for number in range(2000):
            target.writestr(f"report.{number}", b"")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(UnfitModelError, match="list of contents"):
        unpack(archive, tmp_path / "staged.part")


def test_golden_masks_that_would_fill_the_memory_are_refused(
    archive: Path, tmp_path: Path
) -> None:
    def swell(files: dict[str, bytes]) -> None:
        files["golden.npz"] = bytes(5 * 2**20)
        manifested(files)

    rewritten(archive, swell)
    with pytest.raises(UnfitModelError, match="too many for what it is"):
        unpack(archive, tmp_path / "staged.part")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 nothing", b"GIF89a"])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "odd.zip").write_bytes(data)
    with pytest.raises(UnfitModelError, match="not a whole model archive"):
        unpack(tmp_path / "odd.zip", tmp_path / "staged.part")
    assert not (tmp_path / "staged.part").exists()


def test_a_truncated_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UnfitModelError):
        unpack(archive, tmp_path / "staged.part")


def test_a_disk_that_takes_nothing_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is the disk full"):
        write_archive(tmp_path / "nowhere" / "m.zip", model, MASKS)
