"""Decode workers: started, fed, timed, killed and replaced.

    async with DecodePool(settings.decode) as pool:
        report = await pool.report(path, name)
        frame = await pool.decode(path, name, page=0)

A bad file costs one worker at most, and the next frame finds another. The server never parses
a file itself; it believes a worker's answer only after checking it. `gpu_server.decode_process`
holds one worker; `gpu_server.decode_worker` is the other side and says what confines it.
"""

import asyncio
import logging
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from emcopilot.decode import FileReport, Frame
from emcopilot.errors import ConfigError, DecodeError, RefusedError
from gpu_server.config import DecodeSettings
from gpu_server.decode_process import Reply, WorkerDied, WorkerProcess

__all__ = ["DecodePool", "Decoder", "WorkerDied"]

log = logging.getLogger(__name__)

START_S = 60.0
"""A worker that is not ready by then will never be; a loaded machine needs seconds."""
RESTART_PAUSE_S = 1.0
WORKER_COMMAND = (sys.executable, "-I", "-m", "gpu_server.decode_worker")


class Decoder(Protocol):
    """Whatever turns a page of a stored file into pixels."""

    async def decode(self, path: Path, name: str, page: int) -> Frame:
        """Decode one page."""
        ...


class DecodePool:
    """A few worker processes that decode files, one page at a time each."""

    def __init__(
        self, settings: DecodeSettings, command: Sequence[str] = WORKER_COMMAND
    ) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._slots = asyncio.Semaphore(settings.workers)
        self._idle: asyncio.Queue[WorkerProcess] = asyncio.Queue()
        self._workers: set[WorkerProcess] = set()
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
    ) -> tuple[Reply, NDArray[np.generic] | None]:
        async with self._slots:
            worker = await self._idle.get()
            return await self._ask_worker(worker, request, path)

    async def _ask_worker(
        self, worker: WorkerProcess, request: dict[str, object], path: Path
    ) -> tuple[Reply, NDArray[np.generic] | None]:
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
        worker = WorkerProcess(self._command, self._settings.memory_bytes)
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

    def _replace(self, worker: WorkerProcess, reason: str) -> None:
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

    async def _discard(self, worker: WorkerProcess) -> None:
        await worker.kill()
        self._workers.discard(worker)
