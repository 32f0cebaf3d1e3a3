"""Bytes on the server's disk: parts that grow, and blobs that are whole for ever.

    parts/<number>.part --all bytes, right hash--> fsync --> blobs/aa/bb/<sha256> --> fsync

A part belongs to this process and is thrown away by the next one: its agent still has
the file. A blob is named by its content, so the same bytes are kept once.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from emcopilot.durable import sync
from emcopilot.errors import ConfigError, StoreError
from gpu_server.store import blob_path

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

_SYNCERS = 8
"""fsyncs at a time: the file system then writes its own journal once for all of them
(measured: 45 files/s one by one, 73 in groups of 8, on the same disk)."""


@dataclass(slots=True)
class _Part:
    path: Path
    handle: int
    digest: "_Hash"
    began_at: float
    size: int = 0


class Spool:
    """The acquired files under a data directory; used by one thread.

    Parameters
    ----------
    data_dir : Path
        Server's data directory, on a local disk.

    Raises
    ------
    ConfigError
        If its folders cannot be made.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._parts_dir = data_dir / "parts"
        self._parts: dict[Hashable, _Part] = {}
        self._numbers = count()
        self._syncers = ThreadPoolExecutor(_SYNCERS, "fsync")
        try:
            self._parts_dir.mkdir(parents=True, exist_ok=True)
            (data_dir / "blobs").mkdir(exist_ok=True)
            for left_over in self._parts_dir.iterdir():
                left_over.unlink()
            sync(data_dir)
        except OSError as error:
            raise ConfigError(
                f"cannot keep files in {data_dir}: {error.strerror}; choose another "
                "data_dir or free it"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._parts):
            self.drop(key)
        self._syncers.shutdown()

    @property
    def free_bytes(self) -> int:
        """Free space on the data disk."""
        return shutil.disk_usage(self._data_dir).free

    def holds(self, sha256: str, size: int) -> bool:
        """Say whether these bytes are kept already."""
        try:
            return blob_path(self._data_dir, sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def append(self, key: Hashable, payload: memoryview) -> int:
        """Add bytes to the end of a part, begun if need be; return its size.

        Raises
        ------
        OSError
            If the disk refuses; the part is then of no use and must be dropped.
        """
        part = self._parts.get(key) or self._begin(key)
        rest = payload
        while rest:
            rest = rest[os.write(part.handle, rest) :]
        part.digest.update(payload)
        part.size += payload.nbytes
        return part.size

    def sha256(self, key: Hashable) -> str:
        """Return the hash of what was appended so far, hexadecimal."""
        return self._parts[key].digest.hexdigest()

    def began_at(self, key: Hashable) -> float | None:
        """Return the Unix time of a part's first byte; None when there is no part."""
        part = self._parts.get(key)
        return part.began_at if part else None

    def drop(self, key: Hashable) -> None:
        """Throw a part away, if there is one."""
        part = self._parts.pop(key, None)
        if part is None:
            return
        os.close(part.handle)
        part.path.unlink(missing_ok=True)

    def keep(self, wanted: Sequence[tuple[Hashable, str]]) -> None:
        """Turn parts into blobs that survive a power cut.

        Parameters
        ----------
        wanted : sequence of (key, sha256)
            Keys without a part name bytes that are kept already: of those only the
            folder is synced, for it may be another process that has just put them there.

        Raises
        ------
        OSError
            If the disk refuses: nothing of it may be called stored. A failed fsync
            leaves pages in memory that look written, so parts are never synced twice.
        StoreError
            If bytes that should be kept already are not.
        """
        parts = [self._parts[key] for key, _ in wanted if key in self._parts]
        for done in [self._syncers.submit(os.fsync, part.handle) for part in parts]:
            done.result()
        folders: set[Path] = set()
        for key, sha256 in wanted:
            blob = blob_path(self._data_dir, sha256)
            part = self._parts.get(key)
            if part is not None:
                blob.parent.mkdir(parents=True, exist_ok=True)
                part.path.replace(blob)
            elif not blob.exists():
                raise StoreError(f"the bytes of {sha256} have gone from {blob.parent}")
            # The two folders above, too: they may be as new as the file.
            folders |= {blob.parent, blob.parents[1], blob.parents[2]}
        for done in [self._syncers.submit(sync, f) for f in folders]:
            done.result()

    def close_parts(self, keys: Iterable[Hashable]) -> None:
        """Let go of parts that have become blobs."""
        for key in keys:
            part = self._parts.pop(key, None)
            if part is not None:
                os.close(part.handle)

    def _begin(self, key: Hashable) -> _Part:
        path = self._parts_dir / f"{next(self._numbers)}.part"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        part = _Part(path, handle, hashlib.sha256(), time.time())
        self._parts[key] = part
        return part
