"""How many live frames are under way: whoever works beside them asks here first."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gpu_server.publish import Signal


class Traffic:
    """Counts live frames between their lease and their result; for the event loop's thread.

    Parameters
    ----------
    lanes : int
        Frames that can be under way at once. Where all lanes are taken, others may wait.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.count = 0
        self._changes = Signal()

    @property
    def is_behind(self) -> bool:
        """Whether frames may be waiting for a lane."""
        return self.count >= self.lanes

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Count one frame as under way."""
        self.count += 1
        self._changes.notify()
        try:
            yield
        finally:
            self.count -= 1
            self._changes.notify()

    async def changed(self, timeout_s: float | None = None) -> None:
        """Return once the count changes, or time is up."""
        await self._changes.wait_beyond(self._changes.count, timeout_s)

    async def quiet(self, timeout_s: float) -> None:
        """Return once no frame is under way, or time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.count:
                    await self.changed()
        except TimeoutError:
            pass
