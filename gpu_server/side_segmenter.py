"""A second, quiet inference child for every model that is not live.

Comparing, recomputing and self-tests ask here. The child starts when it is wanted, works only in
time that nothing else wants, runs one model at a time for one caller at a time, and ends when
nobody asked for a minute: a network holds a gigabyte.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from gpu_server.inference_child import InferenceChild, InferenceSpec
from gpu_server.segment import Trial

log = logging.getLogger(__name__)

IDLE_S = 60.0


class SideSegmenter:
    """Owns the quiet child; use as an async context manager.

    Parameters
    ----------
    spec : InferenceSpec
        Device and engine; its model is chosen each time.
    idle_s : float
        Time without work after which the child ends.
    steps_back : bool
        Work only in time that nothing else wants.
    """

    def __init__(
        self, spec: InferenceSpec, *, idle_s: float = IDLE_S, steps_back: bool = True
    ) -> None:
        # A cache of its own: two processes must never write one compiled graph at once.
        cache = f"{spec.cache_dir}/side" if spec.cache_dir else None
        self._spec = replace(spec, cache_dir=cache, warm_px=0, is_background=steps_back)
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._child: InferenceChild | None = None
        self._runs: Path | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Start nothing yet."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End the child; whoever waits for it is told so by a ModelError."""
        self._closed = True
        self._end_child()
        await asyncio.gather(*self._ending, return_exceptions=True)

    @property
    def is_running(self) -> bool:
        """Whether a child is there."""
        return self._child is not None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a turn or has it: long work should let others in."""
        return self._turn.locked()

    @asynccontextmanager
    async def using(self, folder: Path) -> AsyncIterator[Trial]:
        """Have the child run the model in `folder` for as long as the block lasts.

        Raises
        ------
        ConfigError, ModelError
            If it does not start.
        """
        async with self._turn:
            self._stop_timer()
            try:
                yield Trial(await self._child_for(folder))
            finally:
                if self._child and not self._child.is_alive:
                    self._end_child()
                self._timer = asyncio.get_running_loop().call_later(
                    self._idle_s, self._end_child
                )

    async def _child_for(self, folder: Path) -> InferenceChild:
        if self._child and self._child.is_alive and self._runs == folder:
            return self._child
        self._end_child()
        # One network beside the live one, never two: the old child is gone before a new one comes.
        await asyncio.gather(*self._ending, return_exceptions=True)
        child = await asyncio.to_thread(self._start, folder)
        if self._closed:
            child.kill()
        log.info(
            "side inference ready model=%s device=%s", child.model_id, child.device
        )
        return child

    def _start(self, folder: Path) -> InferenceChild:
        child = self._child = InferenceChild(replace(self._spec, model=str(folder)))
        self._runs = folder
        child.wait_until_ready()
        return child

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _end_child(self) -> None:
        self._stop_timer()
        child, self._child, self._runs = self._child, None, None
        if child:
            ending = asyncio.ensure_future(asyncio.to_thread(child.kill))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
