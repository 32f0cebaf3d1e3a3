"""The queue in front of the inference child.

Frames wait here; those of one shape that wait together go as one batch. The child may die (a
driver fault, the kernel's out-of-memory killer): it is started again and the frame gets a second
try; a frame that kills it twice is given up, so that the next one works. A child that does not
start is no frame's fault: frames wait, and `trouble` says for what.

Another model gets a child of its own, started and warmed behind the live one; then the queue turns
to it between two batches. No frame waits for weights, and each names the child that ran it.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import EMcopilotError, ModelError
from gpu_server.inference_child import InferenceChild, InferenceSpec, Segmentation

log = logging.getLogger(__name__)

_RESTART_PAUSE_S = 5.0
_IDLE_LOOK_S = 5.0
"""A child that dies while it has nothing to do is missed after this long."""
_TRIES = 2
_SHAPES_KEPT = 3
"""Kinds of frames that a new child is warmed with: a session has one, now and then two."""


class InferenceBackend(Protocol):
    """Whatever turns pixels into probability: this machine's child, later a cluster."""

    model_id: str
    device: str

    async def segment(self, pixels: NDArray[np.generic]) -> Segmentation:
        """Segment one frame, shape (H, W), any real dtype."""
        ...


@dataclass(slots=True)
class _Waiting:
    pixels: NDArray[np.generic]
    answer: asyncio.Future[Segmentation]
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """A child that is ready beside the live one, and that no frame has gone to yet."""

    child: InferenceChild

    @property
    def model_id(self) -> str:
        """The model that it runs, as its card says."""
        return self.child.model_id

    async def segment(self, pixels: NDArray[np.generic]) -> Segmentation:
        """Segment one frame, shape (H, W), any real dtype.

        Raises
        ------
        ModelError
            If the network cannot run on it, or its process ended.
        """
        return (await _exchange(self.child, [pixels]))[0]


Commit = Callable[[Trial], Awaitable[None]]
"""Tests a trial and writes down that it is live; raises what speaks against it."""


@dataclass(slots=True)
class _Swap:
    """A child that takes over between two batches."""

    spec: InferenceSpec
    child: InferenceChild
    done: asyncio.Future[None]


@dataclass(slots=True)
class Segmenter:
    """Owns the inference child; use as an async context manager."""

    spec: InferenceSpec
    model_id: str = ""
    device: str = ""
    restarts: int = 0
    """How often the child had to be started again."""
    _batch: int = 1
    _queue: deque[_Waiting] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _child: InferenceChild | None = None
    _starting: InferenceChild | None = None
    _start_failure: str | None = None
    _worker: asyncio.Task[None] | None = None
    _swap_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _trial: InferenceChild | None = None
    _next: _Swap | None = None
    _retiring: asyncio.Future[None] | None = None
    _lately: OrderedDict[tuple[object, ...], NDArray[np.generic]] = field(
        default_factory=OrderedDict
    )
    """The last segmented frame of each shape and dtype, to warm a new child with."""

    async def __aenter__(self) -> Self:
        """Start the child and wait until the network is warm.

        Raises
        ------
        ConfigError, ModelError
            If the device is not there or the weights do not fit.
        """
        await asyncio.to_thread(self._start_child)
        self._worker = asyncio.create_task(self._run(), name="segmenter")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child; frames still waiting are cancelled, their rows stay queued."""
        # The child goes first: a thread may be blocked reading its answer.
        waiting_child = self._next.child if self._next else None
        for child in (self._starting, self._trial, waiting_child, self._child):
            if child:
                child.kill()
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        if self._retiring:
            await asyncio.gather(self._retiring, return_exceptions=True)
        for waiting in self._queue:
            waiting.answer.cancel()

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        return len(self._queue)

    @property
    def trouble(self) -> str | None:
        """Why frames wait for the network just now; None when they need not."""
        if self._worker is None or self._worker.done():
            return "the queue in front of the network has ended"
        if self._child is None or not self._child.is_alive:
            why = self._start_failure or "it is started again"
            return f"the inference process has ended: {why}"
        return None

    async def segment(self, pixels: NDArray[np.generic]) -> Segmentation:
        """Segment one frame.

        Parameters
        ----------
        pixels : array, shape (H, W)
            Detector counts of any real dtype.

        Raises
        ------
        ModelError
            If the network cannot run on this frame; the next frame may work.
        """
        answer = asyncio.get_running_loop().create_future()
        pixels = np.ascontiguousarray(pixels)
        self._queue.append(_Waiting(pixels, answer))
        self._arrived.set()
        return await answer

    async def swap(self, spec: InferenceSpec, commit: Commit | None = None) -> None:
        """Run another model from the next batch on; the live one works until then.

        Parameters
        ----------
        spec : InferenceSpec
            What the new child loads, and every child after it.
        commit : callable, optional
            Awaited with the new child, warm, before frames go to it. What it raises ends the
            swap; once it returns, frames do go to it.

        Raises
        ------
        ConfigError, ModelError
            If the new child does not start; the old one goes on untouched.
        """
        async with self._swap_lock:
            try:
                child = await asyncio.to_thread(self._start_trial, spec)
                await self._warm(child)
                if commit:
                    await commit(Trial(child))
                child.come_forward()
            except BaseException:
                if self._trial:
                    self._trial.kill()
                raise
            finally:
                self._trial = None
            done = asyncio.get_running_loop().create_future()
            self._next = _Swap(spec, child, done)
            self._arrived.set()
            worker = self._worker
            assert worker is not None, "a swap before the start"
            await asyncio.wait({done, worker}, return_when=asyncio.FIRST_COMPLETED)

    def _start_trial(self, spec: InferenceSpec) -> InferenceChild:
        # Loading takes all cores, and live frames want them.
        child = self._trial = InferenceChild(replace(spec, gives_way=True))
        child.wait_until_ready()
        return child

    async def _warm(self, child: InferenceChild) -> None:
        """Show a new child what comes lately: engines compile for each shape they meet."""
        for pixels in list(self._lately.values()):
            for count in sorted({1, child.batch}):
                await _exchange(child, [pixels] * count)

    def _remember(self, pixels: NDArray[np.generic]) -> None:
        key = (pixels.shape, pixels.dtype.str)
        self._lately[key] = pixels
        self._lately.move_to_end(key)
        if len(self._lately) > _SHAPES_KEPT:
            self._lately.popitem(last=False)

    def _switch(self) -> None:
        """Turn to the child that waits to take over, if one does; no batch is under way."""
        if self._next is None:
            return
        swap, self._next = self._next, None
        old, self.spec = self._child, swap.spec
        self._adopt(swap.child)
        if old:  # its process takes a while to die, and frames need not wait for that
            self._retiring = asyncio.ensure_future(asyncio.to_thread(old.kill))
        log.info("model swapped model=%s at=%.3f", self.model_id, time.time())
        if not swap.done.done():
            swap.done.set_result(None)

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_LOOK_S):
                    await self._arrived.wait()
            self._arrived.clear()
            self._switch()
            if self._child and not self._child.is_alive:
                self._bury("it ended while it was idle")
                await self._start_again()
            while batch := self._next_batch():
                await self._carry(batch)
                self._switch()

    def _next_batch(self) -> list[_Waiting]:
        """Take waiting frames of the oldest one's shape and dtype, up to the batch size."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._batch:
            first = (batch or self._queue)[0].pixels
            ahead = self._queue[0].pixels
            if (ahead.shape, ahead.dtype) != (first.shape, first.dtype):
                break
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    async def _carry(self, batch: list[_Waiting]) -> None:
        frames = [waiting.pixels for waiting in batch]
        try:
            child = self._child or await self._start_again()
            answers = await asyncio.to_thread(child.exchange, frames)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        except ModelError as error:
            await self._carry_singly(batch, error)
        except Exception as error:
            # The border: whatever came, or came not, this child is not to be trusted again.
            self._child_died(batch, error)
        else:
            for waiting, segmentation in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(segmentation)
            # Of those that could be run: one that could not would speak against every new child.
            self._remember(batch[0].pixels)

    async def _carry_singly(self, batch: list[_Waiting], error: ModelError) -> None:
        """Refuse a frame that cannot be run; of several, find out which."""
        if len(batch) == 1:
            self._refuse(batch[0], error)
            return
        for waiting in batch:
            await self._carry([waiting])

    async def _start_again(self) -> InferenceChild:
        while True:
            self._switch()  # another model is the way out where this one does not start
            if self._child and self._child.is_alive:
                return self._child
            try:
                child = await asyncio.to_thread(self._start_child)
            except (EMcopilotError, OSError) as error:
                log.error("inference process does not start reason=%s; again", error)
                self._start_failure = str(error)
                await asyncio.sleep(_RESTART_PAUSE_S)
            else:
                self._start_failure = None
                return child

    def _child_died(self, batch: list[_Waiting], error: Exception) -> None:
        self._bury(f"{len(batch)} frames were under way: {error!r}")
        for waiting in reversed(batch):
            waiting.tries += 1
            if waiting.tries < _TRIES:
                self._queue.appendleft(waiting)
                continue
            self._refuse(
                waiting,
                ModelError(
                    f"the inference process died {_TRIES} times on this frame of "
                    f"{waiting.pixels.shape[1]} x {waiting.pixels.shape[0]} px; memory may be too "
                    "small for it: see the server's log"
                ),
            )

    def _bury(self, reason: str) -> None:
        log.warning("inference process died reason=%s; starting it again", reason)
        self.restarts += 1
        if self._child:
            self._child.kill()
            self._child = None

    def _refuse(self, waiting: _Waiting, error: Exception) -> None:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)

    def _start_child(self) -> InferenceChild:
        child = self._starting = InferenceChild(self.spec)
        child.wait_until_ready()
        self._adopt(child)
        self._starting = None
        log.info("inference ready model=%s device=%s", self.model_id, self.device)
        return child

    def _adopt(self, child: InferenceChild) -> None:
        self._child, self._batch = child, child.batch
        self.model_id, self.device = child.model_id, child.device


async def _exchange(
    child: InferenceChild, frames: list[NDArray[np.generic]]
) -> list[Segmentation]:
    """Ask a child that is not live; whatever goes wrong speaks against its model."""
    try:
        return await asyncio.to_thread(child.exchange, frames)
    except ModelError:
        raise  # its answer, and it is ready for the next frame
    except (OSError, EOFError) as error:  # a time-out is an OSError, too
        child.kill()
        raise ModelError(
            f"the inference process of {child.model_id} ended, or did not answer, on a frame of "
            f"{frames[0].shape[1]} x {frames[0].shape[0]} px: {error!r}; see the server's log"
        ) from error
    except BaseException:
        # Nobody waits for the answer any more: the next frame must not get it.
        child.kill()
        raise
