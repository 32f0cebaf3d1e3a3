"""Reading a few headers of a file that may be anything: bounded, and never past its end."""

import struct
from typing import BinaryIO

_MOST_READS = 20_000
_MOST_BYTES = 32 * 2**20


class CutOffError(Exception):
    """The structure goes on behind the end of the file."""


class OddError(Exception):
    """Nothing that this probe understands, or more than it is willing to read."""


class Source:
    """Bounded random access to a file whose size was taken beforehand."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._reads = 0
        self._bytes = 0

    def at(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes, or say that the file is cut off before."""
        self._reads += 1
        self._bytes += count
        if self._reads > _MOST_READS or self._bytes > _MOST_BYTES:
            raise OddError
        if offset + count > self.size:
            raise CutOffError
        self._file.seek(offset)
        found = self._file.read(count)
        if len(found) < count:
            raise CutOffError  # it was shortened since the stat
        return found

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Return integers in the layout of `struct`."""
        return struct.unpack(layout, self.at(offset, struct.calcsize(layout)))
