"""Files that a power cut leaves whole: what a name stood for before, or what it stands for now.

A name that is given before the bytes are on disk may stand for an empty file afterwards.
"""

import os
from pathlib import Path


def give_name(part: Path, path: Path) -> None:
    """Give a written file its name in one step; bytes and name are on disk on return."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on disk; Windows looks after names itself."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
