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
    is_posix = os.name == "posix"
    if not is_posix and path.is_dir():
        return
    # Windows syncs only what may be written; elsewhere a file to be read alone is synced, too.
    handle = os.open(path, os.O_RDONLY if is_posix else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
