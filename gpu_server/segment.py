"""The queue in front of the inference child.

Frames wait here; those of one shape that wait together go as one batch. The child may die (a
driver fault, the kernel's out-of-memory killer): it is started again and the frame gets a second
try; a frame that kills it twice is given up, so that the next one works. A child that does not
start is no frame's fault: frames wait, and `trouble` says for what.
"""

import asyncio
import json
import logging
import multiprocessing
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.errors import ConfigError, EMcopilotError, ModelError

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 300.0
_RESTART_PAUSE_S = 5.0
_IDLE_LOOK_S = 5.0
"""A child that dies while it has nothing to do is missed after this long."""
_FRAME_TIMEOUT_S = 180.0
_PIXEL_TIMEOUT_S = 10e-6
"""On top, a pixel: large frames take minutes on a CPU that does other work as well."""
_TRIES = 2
_PARTICLE_CONFIDENCE = TypeAdapter(ParticleConfidence)


@dataclass(frozen=True, slots=True)
class InferenceSpec:
    """What the child must load; plain values, because they cross a process border."""

    model: str = "base"
    """A model id of the registry, or a directory with weights and card."""
    device: str = "auto"
    """auto, cpu or cuda."""
    engine: str = "auto"
    """auto, torch or openvino."""
    warm_px: int = 1024
    """Side of the frame run once at start, so that the first real one is not slow; 0: none."""
    cache_dir: str | None = None
    """Where compiled graphs are kept between starts."""
    one_pass_px: int = 1536
    """Frames up to this side go through whole; larger ones in tiles."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What the network says of one frame."""

    probability: NDArray[np.uint8]
    """Shape (H, W); 0..255, particle from 128."""
    model_id: str
    infer_s: float
    """Seconds of the network's own work on this frame."""
    device: str
    """What ran it, for people."""
    confidence: ParticleConfidence = IDENTITY
    """Tells what clearness means in chances, for this very model."""


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
    _child: "_Child | None" = None
    _starting: "_Child | None" = None
    _start_failure: str | None = None
    _worker: asyncio.Task[None] | None = None

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
        for child in (self._starting, self._child):
            if child:
                child.kill()
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
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
        self._queue.append(_Waiting(np.ascontiguousarray(pixels), answer))
        self._arrived.set()
        return await answer

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_LOOK_S):
                    await self._arrived.wait()
            self._arrived.clear()
            if self._child and not self._child.is_alive:
                self._bury("it ended while it was idle")
                await self._start_again()
            while batch := self._next_batch():
                await self._carry(batch)

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

    async def _carry_singly(self, batch: list[_Waiting], error: ModelError) -> None:
        """Refuse a frame that cannot be run; of several, find out which."""
        if len(batch) == 1:
            self._refuse(batch[0], error)
            return
        for waiting in batch:
            await self._carry([waiting])

    async def _start_again(self) -> "_Child":
        while True:
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

    def _start_child(self) -> "_Child":
        child = self._starting = _Child(self.spec)
        child.wait_until_ready()
        self.model_id, self.device = child.model_id, child.device
        self._batch = child.batch
        self._child, self._starting = child, None
        log.info("inference ready model=%s device=%s", self.model_id, self.device)
        return child


class _Child:
    """The process and its pipe; every call blocks, so callers use a thread."""

    def __init__(self, spec: InferenceSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, spec),
            name="emcopilot-inference",
            daemon=True,
        )
        self._process.start()
        theirs.close()  # so that the child's death reads as end of file here
        self.model_id = self.device = ""
        self.batch = 1
        self.confidence = IDENTITY

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def wait_until_ready(self) -> None:
        """Wait until the network is loaded and warm.

        Raises
        ------
        ConfigError, ModelError
            If the device is not there, the weights do not fit, or the process ends.
        """
        try:
            ready = _receive(self._pipe, _START_TIMEOUT_S)
        except (EOFError, OSError) as error:  # a time-out is an OSError, too
            self.kill()
            raise ModelError(
                "the inference process ended while it loaded the network; "
                f"exit code {self._process.exitcode}: see the server's log"
            ) from error
        if "failed" in ready:
            self.kill()
            kind = ConfigError if ready.get("kind") == "ConfigError" else ModelError
            raise kind(str(ready["failed"]))
        self.model_id = str(ready["model_id"])
        self.device = str(ready["device"])
        self.batch = int(str(ready["batch"]))
        self.confidence = _PARTICLE_CONFIDENCE.validate_python(
            ready["particle_confidence"]
        )

    def exchange(self, frames: list[NDArray[np.generic]]) -> list[Segmentation]:
        """Send frames of one shape and wait for their probabilities."""
        first = frames[0]
        header = {
            "count": len(frames),
            "shape": first.shape,
            "dtype": first.dtype.str,
        }
        self._pipe.send_bytes(json.dumps(header).encode())
        for pixels in frames:
            self._pipe.send_bytes(raw_bytes(pixels))
        timeout_s = _FRAME_TIMEOUT_S + _PIXEL_TIMEOUT_S * first.size
        answer = _receive(self._pipe, timeout_s * len(frames))
        if "failed" in answer:
            raise ModelError(str(answer["failed"]))
        return [
            Segmentation(
                np.frombuffer(self._pipe.recv_bytes(), np.uint8).reshape(first.shape),
                self.model_id,
                float(str(answer["infer_s"])),
                self.device,
                self.confidence,
            )
            for _ in frames
        ]

    def kill(self) -> None:
        """End the process now; correctness never depends on its goodbye."""
        self._process.kill()
        self._process.join(5)


def _serve(connection: Connection, spec: InferenceSpec) -> None:
    # Imported in the child alone: the process that answers browsers never loads torch.
    from gpu_server import inference  # noqa: PLC0415

    inference.serve(connection, spec)


def raw_bytes(array: NDArray[np.generic]) -> memoryview:
    """View an array as flat bytes: a pipe takes the length of a 2-D view for its size."""
    return memoryview(np.ascontiguousarray(array)).cast("B")  # pyright: ignore[reportArgumentType]


def _receive(pipe: Connection, timeout_s: float) -> dict[str, object]:
    if not pipe.poll(timeout_s):
        raise TimeoutError(f"no answer from the inference process in {timeout_s:.0f} s")
    return json.loads(pipe.recv_bytes())
