"""One decode worker seen from the server: its process, its answers, its pixels.

The server believes nothing that a worker says before it has checked it: an answer is a line of
JSON of known fields and ranges, pixels are of a plain type and fit the memory they came through.
"""

import asyncio
import json
import math
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emcopilot.decode import MAX_DECODED_BYTES, MAX_PAGES, MAX_SIDE_PX
from emcopilot.errors import DecodeError
from emcopilot.formats.pixels import PLAIN_TYPES

MAX_ANSWER_BYTES = 64 * 1024
LAST_WORDS_LINES = 20

Edge = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2000)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]


class WorkerDied(DecodeError):  # noqa: N818  (what happened, in the operator's words)
    """The worker crashed or hung on this file; a second death quarantines the frame."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metadata(_Answer):
    """What reports and pages have in common."""

    pixel_size_nm: tuple[Edge, Edge] | None
    pixel_size_source: Text | None
    modality: Text | None
    notes: tuple[Text, ...] = Field(max_length=50)
    magnification: Edge | None
    binning: Edge | None
    instrument: Text | None
    detector: Text | None
    sample: Text | None


class Report(Metadata):
    """A file's description, as `FileReport` takes it."""

    frames: int = Field(ge=0, le=MAX_PAGES)
    shape: tuple[Side, Side] | None
    dtype: Text | None
    refused: Text | None


class Decoded(Metadata):
    """What stands beside the pixels of one page."""

    shape: tuple[Side, Side]
    dtype: Text
    time_s: Annotated[float, Field(allow_inf_nan=False)] | None


class Reply(_Answer):
    """One line from a worker, checked."""

    kind: Literal["ready", "report", "frame", "refused", "failed"]
    message: Text = ""
    report: Report | None = None
    frame: Decoded | None = None


class WorkerProcess:
    """One process, its pipe, and the memory through which it hands over pixels."""

    def __init__(self, command: Sequence[str], memory_bytes: int) -> None:
        self._command = command
        self._memory_bytes = memory_bytes
        self._process: Process | None = None
        self._shelf = Shelf(MAX_DECODED_BYTES)
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self._listener: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None before the start."""
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

    async def ask(self, request: dict[str, object]) -> Reply:
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

    def take_pixels(self, frame: Decoded) -> NDArray[np.generic]:
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
            # Gathered: it is cancelled already if an earlier kill was cut short.
            await asyncio.gather(self._listener, return_exceptions=True)
        self._shelf.close()

    async def _answer(self, process: Process) -> Reply:
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
            return Reply.model_validate_json(line)
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


class Shelf:
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
