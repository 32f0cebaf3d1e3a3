"""The decisions for Windows run everywhere; its system calls only on Windows itself."""

import os
import sys
from pathlib import Path

import pytest

from acquisition_agent.windows import (
    identity,
    is_away,
    is_busy,
    long_path,
    open_shared,
    source_key,
)


def windows_error(code: int) -> OSError:
    """Make an OSError as Windows raises it, with its own number beside errno."""
    error = OSError(13, "refused", "x.tif")
    error.winerror = code  # pyright: ignore[reportAttributeAccessIssue]
    return error


def test_case_makes_no_difference_on_windows_and_all_of_it_elsewhere() -> None:
    assert identity("Run/Frame.TIF", "win32") == identity("run/frame.tif", "win32")
    assert identity("Run/Frame.TIF", "linux") != identity("run/frame.tif", "linux")


def test_names_that_ntfs_keeps_apart_stay_apart() -> None:
    assert identity("straße.tif", "win32") != identity("strasse.tif", "win32")


def test_the_name_on_the_wire_is_composed_text_below_the_label() -> None:
    assert source_key("acq", "run/fu\u0308r.tif") == "acq/run/für.tif"
    assert source_key("acq", os.fsdecode(b"caf\xe9.tif")).startswith("acq/caf")
    source_key("acq", "\udcff.tif").encode("utf-8")  # always text


@pytest.mark.parametrize("code", [32, 33])
def test_sharing_and_lock_violations_mean_not_settled(code: int) -> None:
    assert is_busy(windows_error(code))
    assert not is_away(windows_error(code))


@pytest.mark.parametrize("code", [21, 53, 59, 64, 67, 121, 1231])
def test_a_share_that_is_away_says_nothing_about_its_files(code: int) -> None:
    assert is_away(windows_error(code))
    assert not is_busy(windows_error(code))


@pytest.mark.parametrize("code", [2, 3, 5])
def test_missing_and_denied_are_neither_busy_nor_away(code: int) -> None:
    assert not is_busy(windows_error(code))
    assert not is_away(windows_error(code))


def test_on_other_platforms_errno_decides() -> None:
    assert is_busy(PermissionError(13, "denied"))
    assert is_away(OSError(116, "stale file handle")) == (sys.platform == "linux")
    assert not is_away(FileNotFoundError(2, "gone"))


def test_long_paths_take_their_prefix_once() -> None:
    assert long_path(r"C:\data", "win32") == r"\\?\C:\data"
    assert long_path(r"\\server\share\x", "win32") == r"\\?\UNC\server\share\x"
    assert long_path(r"\\?\C:\data", "win32") == r"\\?\C:\data"
    assert long_path("/data", "linux") == "/data"


def test_a_file_that_we_read_can_be_renamed_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"pixels")
    with open_shared(path) as file:
        path.rename(tmp_path / "b.tif")
        assert file.read() == b"pixels"
        (tmp_path / "b.tif").unlink()


def test_the_module_names_no_posix_call_outside_a_branch() -> None:
    """`os.nice` and the like would stop the agent on Windows."""
    folder = Path(__file__).parents[2] / "acquisition_agent"
    posix_only = ("os.fork", "os.getuid", "os.geteuid", "os.statvfs", "fcntl", "pwd.")
    for module in folder.glob("*.py"):
        text = module.read_text("utf-8")
        assert not [call for call in posix_only if call in text], module.name
