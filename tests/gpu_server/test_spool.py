"""Parts and blobs on a real disk; the disk's refusals are the only thing substituted."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emcopilot.errors import ConfigError, StoreError
from gpu_server.spool import Spool
from gpu_server.store import blob_path

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as spool:
        yield spool


def test_a_part_that_is_kept_becomes_a_blob_under_its_hash(
    spool: Spool, tmp_path: Path
) -> None:
    assert spool.append("a", memoryview(CONTENT[:5000])) == 5000
    assert not spool.holds(SHA256, len(CONTENT))
    assert spool.append("a", memoryview(CONTENT[5000:])) == len(CONTENT)
    assert spool.sha256("a") == SHA256
    spool.keep([("a", SHA256)])
    spool.close_parts(["a"])
    assert blob_path(tmp_path, SHA256).read_bytes() == CONTENT
    assert spool.holds(SHA256, len(CONTENT))
    assert not spool.holds(SHA256, len(CONTENT) - 1)
    assert list((tmp_path / "parts").iterdir()) == []


def test_bytes_are_synced_before_they_get_their_name_and_the_folder_after(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def sync(handle: int) -> None:
        kept = blob_path(tmp_path, SHA256).exists()
        synced.append(f"{os.readlink(f'/proc/self/fd/{handle}')} kept={kept}")

    spool.append("a", memoryview(CONTENT))
    monkeypatch.setattr(os, "fsync", sync)
    spool.keep([("a", SHA256)])
    spool.close_parts(["a"])
    folder = blob_path(tmp_path, SHA256).parent
    assert synced[0] == f"{tmp_path}/parts/0.part kept=False"
    assert sorted(synced[1:]) == sorted(
        f"{place} kept=True" for place in (folder, folder.parent, folder.parent.parent)
    )


def test_the_same_bytes_twice_are_one_blob(spool: Spool, tmp_path: Path) -> None:
    for key in ("a", "b"):
        spool.append(key, memoryview(CONTENT))
    spool.keep([("a", SHA256), ("b", SHA256), ("c", SHA256)])  # c: kept already
    spool.close_parts(["a", "b", "c"])
    blobs = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert blobs == [blob_path(tmp_path, SHA256)]


def test_bytes_that_vanished_are_not_called_kept(spool: Spool) -> None:
    with pytest.raises(StoreError, match="have gone"):
        spool.keep([("a", SHA256)])


def test_a_dropped_part_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    spool.append("a", memoryview(CONTENT))
    spool.drop("a")
    spool.drop("a")  # harmless
    assert list((tmp_path / "parts").iterdir()) == []
    assert spool.began_at("a") is None


def test_what_a_killed_server_left_behind_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "7.part").write_bytes(b"half")
    with Spool(tmp_path):
        assert list((tmp_path / "parts").iterdir()) == []


def test_a_failed_fsync_is_told_and_nothing_gets_a_name(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool.append("a", memoryview(CONTENT))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        spool.keep([("a", SHA256)])
    assert not spool.holds(SHA256, len(CONTENT))


def test_a_folder_that_cannot_be_used_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "parts").write_bytes(b"a file where a folder should be")
    with pytest.raises(ConfigError, match="data_dir"):
        Spool(tmp_path)
