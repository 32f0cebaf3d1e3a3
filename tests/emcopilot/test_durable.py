"""A file gets its name when its bytes are on disk, on Windows too."""

import os
from pathlib import Path

import pytest

from emcopilot import durable


@pytest.mark.parametrize(
    ("system", "flags"), [("posix", os.O_RDONLY), ("nt", os.O_RDWR)]
)
def test_a_file_is_opened_so_that_the_system_syncs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, flags: int
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    opened: list[tuple[Path, int]] = []

    def open_noting(path: Path, flags: int) -> int:
        opened.append((path, flags))
        return real_open(path, flags)

    real_open = os.open
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_noting)
        patched.setattr(os, "name", system)
        durable.sync(file)
    assert opened == [(file, flags)]


def test_a_name_is_given_in_one_step(tmp_path: Path) -> None:
    part, file = tmp_path / "file.part", tmp_path / "file"
    part.write_bytes(b"now")
    file.write_bytes(b"before")
    durable.give_name(part, file)
    assert file.read_bytes() == b"now"
    assert list(tmp_path.iterdir()) == [file]
