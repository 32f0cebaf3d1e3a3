"""Decode workers: started, fed, timed, killed and replaced.

    async with DecodePool(settings.decode) as pool:
        report = await pool.report(path, name)
        frame = await pool.decode(path, name, page=0)

A bad file costs one worker at most, and the next frame finds another. The server never parses
a file itself; it believes a worker's answer only after checking it. `gpu_server.decode_worker`
is the other side and says what confines it.
"""

import asyncio
import json
import logging
import math
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emcopilot.decode import (
    MAX_DECODED_BYTES,
    MAX_PAGES,
    MAX_SIDE_PX,
    FileReport,
    Frame,
)
from emcopilot.errors import ConfigError, DecodeError, RefusedError
from emcopilot.formats.pixels import PLAIN_TYPES
from gpu_server.config import DecodeSettings

log = logging.getLogger(__name__)

START_S = 60.0
"""A worker that is not ready by then will never be; a loaded machine needs seconds."""
RESTART_PAUSE_S = 1.0
MAX_ANSWER_BYTES = 64 * 1024
LAST_WORDS_LINES = 20
WORKER_COMMAND = (sys.executable, "-I", "-m", "gpu_server.decode_worker")

Edge = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2000)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]


class WorkerDied(DecodeError):  # noqa: N818  (what happened, in the operator's words)
    """The worker crashed or hung on this file; a second death quarantines the frame."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Metadata(_Answer):
    pixel_size_nm: tuple[Edge, Edge] | None
    pixel_size_source: Text | None
    modality: Text | None
    notes: tuple[Text, ...] = Field(max_length=50)
    magnification: Edge | None
    binning: Edge | None
    instrument: Text | None


class _Report(_Metadata):
    frames: int = Field(ge=0, le=MAX_PAGES)
    shape: tuple[Side, Side] | None
    dtype: Text | None
    refused: Text | None


class _Decoded(_Metadata):
    shape: tuple[Side, Side]
    dtype: Text
    time_s: Annotated[float, Field(allow_inf_nan=False)] | None


class _Reply(_Answer):
    kind: Literal["ready", "report", "frame", "refused", "failed"]
    message: Text = ""
    report: _Report | None = None
    frame: _Decoded | None = None


class DecodePool:
    """A few worker processes that decode files, one page at a time each."""

    def __init__(
        self, settings: DecodeSettings, command: Sequence[str] = WORKER_COMMAND
    ) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._slots = asyncio.Semaphore(settings.workers)
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers: set[_Worker] = set()
        self._background: set[asyncio.Task[None]] = set()
        self.deaths = 0
        """Workers lost since the start, for `/metrics`."""

    async def __aenter__(self) -> Self:
        starting = [self._start() for _ in range(self._settings.workers)]
        try:
            await asyncio.gather(*starting)
        except DecodeError as error:
            await self.close()
            raise ConfigError(f"the decode workers do not start: {error}") from error
        # One spare: a start takes a second or two, which no frame need wait for.
        self._later(self._start_again())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop all workers; jobs under way are lost, their rows are not."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in tuple(self._workers)))
        self._workers.clear()

    async def report(self, path: Path, name: str) -> FileReport:
        """Describe a file; a refusal is in the report, a dead worker is raised."""
        reply, _ = await self._ask({"do": "report", "name": name}, path)
        if reply.report is None:
            raise DecodeError(f"{name}: {reply.message or 'the worker sent no report'}")
        return FileReport(**dict(reply.report))

    async def decode(self, path: Path, name: str, page: int) -> Frame:
        """Decode one page.

        Parameters
        ----------
        path : Path
            Where the bytes lie.
        name : str
            The file's name on the microscope; only its last part is looked at.
        page : int
            From 0; `report` says how many there are.

        Raises
        ------
        RefusedError
            If the file is sound but holds no 2-D image.
        WorkerDied
            If the worker crashed or took longer than the settings allow.
        DecodeError
            If the file is damaged, or the worker's answer breaks the rules.
        """
        reply, pixels = await self._ask(
            {"do": "decode", "name": name, "page": page}, path
        )
        if reply.frame is None or pixels is None:
            raise DecodeError(f"{name}: {reply.message or 'the worker sent no frame'}")
        fields = dict(reply.frame)
        del fields["shape"], fields["dtype"]
        return Frame(pixels=pixels, **fields)

    async def _ask(
        self, request: dict[str, object], path: Path
    ) -> tuple[_Reply, NDArray[np.generic] | None]:
        async with self._slots:
            worker = await self._idle.get()
            return await self._ask_worker(worker, request, path)

    async def _ask_worker(
        self, worker: "_Worker", request: dict[str, object], path: Path
    ) -> tuple[_Reply, NDArray[np.generic] | None]:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                reply = await worker.ask({**request, "path": str(path.resolve())})
            pixels = None
            if reply.frame is not None:
                pixels = await asyncio.to_thread(worker.take_pixels, reply.frame)
        except TimeoutError as error:
            self._replace(worker, f"no answer in {self._settings.timeout_s:g} s")
            raise WorkerDied(
                f"{request['name']}: decoding took over {self._settings.timeout_s:g} s "
                "and was stopped; the file may be damaged or very large"
            ) from error
        except BaseException as error:
            # Cancelled, too: the late answer would be taken for the next job's.
            self._replace(worker, str(error) or type(error).__name__)
            raise
        self._idle.put_nowait(worker)
        if reply.kind == "refused":
            raise RefusedError(reply.message)
        if reply.kind == "failed":
            raise DecodeError(reply.message)
        return reply, pixels

    async def _start(self) -> None:
        worker = _Worker(self._command, self._settings.memory_bytes)
        self._workers.add(worker)
        try:
            async with asyncio.timeout(START_S):
                await worker.start()
        except TimeoutError as error:
            await self._discard(worker)
            raise WorkerDied(f"not ready after {START_S:g} s") from error
        except BaseException:
            await self._discard(worker)
            raise
        self._idle.put_nowait(worker)

    def _replace(self, worker: "_Worker", reason: str) -> None:
        self.deaths += 1
        log.warning("decode worker lost pid=%s reason=%s", worker.pid, reason)
        self._later(self._discard(worker))
        self._later(self._start_again())

    def _later(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start_again(self) -> None:
        while True:
            try:
                return await self._start()
            except (DecodeError, OSError) as error:
                log.error("decode worker does not start reason=%s; again", error)
                await asyncio.sleep(RESTART_PAUSE_S)

    async def _discard(self, worker: "_Worker") -> None:
        await worker.kill()
        self._workers.discard(worker)


class _Worker:
    """One process, its pipe, and the memory through which it hands over pixels."""

    def __init__(self, command: Sequence[str], memory_bytes: int) -> None:
        self._command = command
        self._memory_bytes = memory_bytes
        self._process: Process | None = None
        self._shelf = _Shelf(MAX_DECODED_BYTES)
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self._listener: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until it says that it is ready."""
        options = ["--pixels", self._shelf.path, "--memory", str(self._memory_bytes)]
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *options,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=MAX_ANSWER_BYTES,
            env=_empty_environment(),
            cwd=Path(sys.executable).anchor,
            pass_fds=self._shelf.descriptors,
            start_new_session=True,  # Ctrl-C reaches the server, which then stops us
        )
        self._process = process
        self._listener = asyncio.create_task(self._listen(process))
        reply = await self._answer(process)
        if reply.kind != "ready":
            raise WorkerDied(f"a new worker said {reply.kind!r}, expected 'ready'")

    async def ask(self, request: dict[str, object]) -> _Reply:
        """Send one request and wait for its answer.

        Raises
        ------
        WorkerDied
            If the process ends, or answers what no sound worker would.
        """
        process = self._process
        if process is None or process.stdin is None:
            raise WorkerDied("the worker was never started")
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        except ConnectionError:
            pass  # it died before reading; the answer's end of file says why
        return await self._answer(process)

    def take_pixels(self, frame: _Decoded) -> NDArray[np.generic]:
        """Copy a decoded page out of the shared memory, its size checked first."""
        dtype = np.dtype(frame.dtype) if frame.dtype in _PLAIN_NAMES else None
        if dtype is None:
            raise WorkerDied(f"a worker sent pixels of type {frame.dtype!r}")
        if math.prod(frame.shape) * dtype.itemsize > MAX_DECODED_BYTES:
            raise WorkerDied(f"a worker sent {frame.shape} px, more than its memory")
        pixels = np.empty(frame.shape, dtype)
        self._shelf.take(pixels)
        return pixels

    async def kill(self) -> None:
        """End the process at once and free what it held."""
        process = self._process
        if process is not None:
            if process.returncode is None:
                process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()  # the pipes are closed then, too
        if self._listener is not None:
            await self._listener
        self._shelf.close()

    async def _answer(self, process: Process) -> _Reply:
        answers = process.stdout
        if answers is None:
            raise WorkerDied("the worker has no pipe")
        try:
            line = await answers.readline()
        except ValueError as error:
            raise WorkerDied("the worker's answer was too long") from error
        if not line.endswith(b"\n"):
            raise WorkerDied(await self._obituary(process))
        try:
            return _Reply.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise WorkerDied(
                f"the worker's answer breaks the rules: {where} {first['msg']}"
            ) from error

    async def _obituary(self, process: Process) -> str:
        code = await process.wait()
        words = " | ".join(self._last_words)
        how = f"ended with status {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return f"the decode worker {how} on this file" + (
            f" ({words})" if words else ""
        )

    async def _listen(self, process: Process) -> None:
        """Drain what the worker's libraries print; a full pipe would stall it."""
        if process.stderr is None:
            return
        while chunk := await process.stderr.read(4096):
            for line in chunk.decode(errors="replace").splitlines():
                self._last_words.append(line[:200])


class _Shelf:
    """Memory that one worker writes pixels to and the server reads them from.

    Anonymous memory on Linux, a temporary file elsewhere. It is as long as the largest page,
    but sparse: only what a page needs is ever taken. The server reads it by system call
    instead of mapping it: a worker gone bad could shrink it, and touching a mapping behind
    its end would kill the server.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        if sys.platform == "linux":
            self._file = os.memfd_create("emcopilot-pixels")
            self.path = f"/proc/self/fd/{self._file}"
            self.descriptors = (self._file,)
        else:
            self._file, self.path = tempfile.mkstemp(prefix="emcopilot-pixels-")
            self.descriptors = ()
        os.ftruncate(self._file, capacity_bytes)

    def take(self, pixels: NDArray[np.generic]) -> None:
        """Fill `pixels` from the start of the memory, then give the memory back."""
        os.lseek(self._file, 0, os.SEEK_SET)
        wanted = pixels.reshape(-1).view(np.uint8).data
        with open(self._file, "rb", buffering=0, closefd=False) as file:
            got = file.readinto(wanted)
        if got != len(wanted):
            raise WorkerDied(f"a worker handed over {got} of {len(wanted)} bytes")
        os.ftruncate(self._file, 0)
        os.ftruncate(self._file, self._capacity_bytes)

    def close(self) -> None:
        """Free the memory."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        if not self.descriptors:
            Path(self.path).unlink(missing_ok=True)


_PLAIN_NAMES = frozenset(np.dtype(code).name for code in PLAIN_TYPES)


def _empty_environment() -> dict[str, str]:
    """Nothing of the server's environment: it may hold secrets; one thread a library."""
    environment = {
        "HDF5_PLUGIN_PATH": os.devnull,
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    if sys.platform == "win32":
        environment["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", r"C:\Windows")
    return environment
