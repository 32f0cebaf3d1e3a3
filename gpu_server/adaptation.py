"""The queue of adaptation jobs and the one that runs: a task of the server.

    queued -> lay out the folder -> train in a process of its own -> register -> awaiting operator

Rows and the job's folder say where a job is: whatever is killed, the next start goes on from
there. The live model is not touched; promotion is another's (`gpu_server.promotion`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from emcopilot.errors import AdaptationError, EMcopilotError, StoreError
from gpu_server import job_folders, job_rows, jobs
from gpu_server.config import AdaptationSettings
from gpu_server.domains import domain, reservoir_frames
from gpu_server.job_desk import JobDesk
from gpu_server.job_headway import Headway
from gpu_server.job_rows import Job, Standing
from gpu_server.publish import Signal
from gpu_server.registry import Registry
from gpu_server.sandbox import Decoder
from gpu_server.store import Store
from gpu_server.tables import AWAITING_OPERATOR, CANCELLED, FAILED
from gpu_server.traffic import Traffic
from gpu_server.trainer import Answer, ProgressTail, Trainer
from gpu_server.yielding import Yielding

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_STARTS = 4
"""Of a job's process without coming further: a first one and three more."""
_LOOK_S = 0.5
_RESTART_PAUSE_S = 1.0
_STUMBLE_PAUSE_S = 5.0
_WAIT_FOR_LIVE_S = 5.0
"""A domain's frame waits so long at most for live ones to be decoded first."""
_FAREWELL_S = 5.0


class _CancelledError(AdaptationError):
    """Somebody cancelled the job before its process ran."""


class Adaptation:
    """Runs jobs one at a time; use `run` as one task of the server.

    Parameters
    ----------
    store : Store
    registry : Registry
    desk : JobDesk
    decoder : Decoder
        The sandboxed decode workers.
    settings : AdaptationSettings
    traffic : Traffic
        Of live frames, which go first.
    announce : callable
        Tells viewers that events were written.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        desk: JobDesk,
        decoder: Decoder,
        settings: AdaptationSettings,
        *,
        traffic: Traffic,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._registry, self._decoder = store, registry, decoder
        self._settings, self._traffic = settings, traffic
        self._desk, self._announce = desk, announce
        self._orders = Signal()

    def ring(self) -> None:
        """Say that jobs changed; call it from the event loop's thread."""
        self._orders.notify()
        self._announce()

    async def run(self) -> None:
        """Carry jobs until cancelled; the one that runs then goes on at the next start."""
        await self._clear_discarded()
        while True:
            # Counted before looking: a job that is queued meanwhile is not overslept.
            seen = self._orders.count
            try:
                job = await asyncio.to_thread(self._next)
                if job is None:
                    await self._orders.wait_beyond(seen)
                    continue
                await self._carry(job)
            except Exception:
                # The border: the next job, or this one's next try, must still come.
                log.exception("adaptation stumbled; going on")
                await asyncio.sleep(_STUMBLE_PAUSE_S)

    async def _clear_discarded(self) -> None:
        try:
            await asyncio.to_thread(self._desk.clear_discarded)
        except Exception:
            # The border: room that is not freed keeps no job from running.
            log.exception("discarded jobs are not cleared; the next start tries again")

    def _next(self) -> Job | None:
        with self._store.read() as connection:
            return job_rows.next_job(connection)

    async def _carry(self, job: Job) -> None:
        """Take one job as far as it goes; whatever goes wrong with it ends as its reason."""
        folder = self._desk.folder(job.id)
        try:
            if job.cancel_wanted:
                raise _CancelledError(f"cancelled before {job.state} went on")
            job = await self._in_store(lambda c: jobs.begin(c, job.id, at=time.time()))
            if not job.is_open:
                return  # cancelled since it was found to be the next
            if job.attempts > MOST_STARTS:
                raise AdaptationError(
                    f"its process died {MOST_STARTS} times without coming further than "
                    f"{job.state} {job.step} of {job.steps}: {job.reason or 'see the log'}"
                )
            await self._lay_out(folder, job)
            answer = await self._train(folder, job)
            await self._conclude(folder, job, answer)
        except _CancelledError as error:
            await self._end(job, CANCELLED, str(error))
        except StoreError:
            raise  # the disk, not the job: it is tried again
        except (EMcopilotError, LookupError) as error:
            log.warning("job failed id=%d reason=%s", job.id, error)
            await self._end(job, FAILED, str(error))

    async def _lay_out(self, folder: Path, job: Job) -> None:
        async def pause() -> None:
            if await asyncio.to_thread(self._is_cancelled, job.id):
                raise _CancelledError("cancelled while its frames were gathered")
            await self._traffic.quiet(_WAIT_FOR_LIVE_S)

        await job_folders.lay_out(
            folder,
            job,
            lambda: self._places(job),
            self._decoder,
            overrides=self._settings.overrides,
            device=self._settings.device,
            pause=pause,
        )

    def _places(self, job: Job) -> job_folders.Places:
        start = self._registry.folder(job.start_model)
        self._desk.require_space(job.domain_id, job.frame_count, start, job.preset)
        with self._store.read() as connection:
            chosen = reservoir_frames(connection, job.domain_id, job.frame_count)
            live = self._registry.live(connection)
            named = domain(connection, job.domain_id)
        other = live if live not in (None, job.start_model) else None
        return job_folders.Places(
            chosen,
            self._store.blob_path,
            start,
            self._registry.folder(other) if other else None,
            named.name if named else f"domain {job.domain_id}",
            named.key if named else f"domain {job.domain_id}",
        )

    async def _train(self, folder: Path, job: Job) -> Answer:
        """Run the job's process to its end, writing down what it reports."""
        tail = ProgressTail(folder)
        headway = Headway(await asyncio.to_thread(tail.new))
        async with Trainer(folder, self._settings) as trainer:
            yielding = asyncio.create_task(Yielding(trainer.group, self._traffic).run())
            try:
                while (answer := await trainer.ended(_LOOK_S)) is None:
                    await self._follow(job, tail, headway)
                    if await asyncio.to_thread(self._is_cancelled, job.id):
                        yielding.cancel()
                        trainer.cancel(self._settings.cancel_grace_s)
            except asyncio.CancelledError:
                yielding.cancel()
                await self._farewell(job, trainer)
                raise
            finally:
                yielding.cancel()
                await asyncio.gather(yielding, return_exceptions=True)
        await self._follow(job, tail, headway)
        return answer

    async def _farewell(self, job: Job, trainer: Trainer) -> None:
        """Let the process save before the server ends; the row stays as it is."""
        trainer.cancel(_FAREWELL_S)
        await trainer.ended(_FAREWELL_S)
        with suppress(StoreError):
            self._write(lambda c: jobs.put_off(c, job.id))

    async def _follow(self, job: Job, tail: ProgressTail, headway: Headway) -> None:
        """Write down what is new; all of it in one transaction, whatever came."""
        reports = await asyncio.to_thread(tail.new)
        if not reports:
            return
        last = reports[-1]
        is_further, tells = headway.take(reports)
        standing = Standing(last.stage, last.step, last.steps, last.eta_s, last.seconds)
        with suppress(StoreError):  # the next report says the same
            await self._in_store(
                lambda c: jobs.advance(
                    c,
                    job.id,
                    standing,
                    is_further=is_further,
                    tells=tells,
                    at=time.time(),
                )
            )
        if tells:
            self._announce()

    async def _conclude(self, folder: Path, job: Job, answer: Answer) -> None:
        if answer.state == "done":
            candidate = await asyncio.to_thread(
                self._registry.add,
                folder / job_folders.OUT,
                "adapted",
                job.who,
                job_id=job.id,
                domain_id=job.domain_id,
                verdict=answer.verdict,
            )
            # The candidate is safe: killed from here on, its job needs no state to end the same.
            await asyncio.to_thread(job_folders.drop_work, folder)
            await self._end(job, AWAITING_OPERATOR, None, candidate)
        elif await asyncio.to_thread(self._is_cancelled, job.id):
            await self._end(job, CANCELLED, answer.reason or "cancelled")
        elif answer.state == "died":
            log.warning("trainer died job=%d reason=%s", job.id, answer.reason)
            await self._in_store(lambda c: jobs.remark(c, job.id, answer.reason))
            await asyncio.sleep(_RESTART_PAUSE_S)  # and it is the next job again
        else:
            raise AdaptationError(answer.reason or answer.state)

    async def _end(
        self, job: Job, state: str, reason: str | None, candidate: str | None = None
    ) -> None:
        await self._in_store(
            lambda c: jobs.end(
                c, job.id, state, at=time.time(), reason=reason, candidate=candidate
            )
        )
        log.info("job ended id=%d state=%s candidate=%s", job.id, state, candidate)
        self._announce()

    def _is_cancelled(self, job_id: int) -> bool:
        with self._store.read() as connection:
            return job_rows.find(connection, job_id).cancel_wanted

    def _write(self, change: Callable[[sa.Connection], T]) -> T:
        with self._store.database.write() as connection:
            return change(connection)

    async def _in_store(self, change: Callable[[sa.Connection], T]) -> T:
        return await asyncio.to_thread(self._write, change)
