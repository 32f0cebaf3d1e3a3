"""From a stored file to numbers on the screen. Read this first.

    lease -> decode + calibrate -> segment -> measure -> store -> publish -> accumulate

A few carriers walk this path side by side, so that one frame is decoded and another measured
while a third is in the network. Rows in the store decide what is to be done: a crash anywhere
loses nothing, and a frame that is done is done once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from emcopilot.calibrate import Calibration, calibrate
from emcopilot.decode import Frame
from emcopilot.errors import (
    DecodeError,
    EMcopilotError,
    RefusedError,
    StoreError,
    UnstorableError,
)
from gpu_server.config import ServerSettings
from gpu_server.leases import LeasedFrame
from gpu_server.measure import MeasuredFrame, measure, result_of
from gpu_server.publish import LiveFrame, Publisher, Signal
from gpu_server.sandbox import DecodePool, WorkerDied
from gpu_server.saving import SavedResult
from gpu_server.segment import InferenceBackend, Segmentation
from gpu_server.store import Store
from gpu_server.traffic import Traffic

log = logging.getLogger(__name__)

T = TypeVar("T")

Accumulate = Callable[[LeasedFrame, MeasuredFrame, Segmentation], Awaitable[None]]
"""Takes in a frame whose result is saved and shown; raises nothing."""

_CARRIERS = 3
_STORE_RETRY_S = 5.0
_IDLE_LOOK_S = 5.0
"""The queue is looked at this often even if nobody rang."""
_LEASE_S = 6 * 3600.0
"""Beyond every limit that decoding and the network have of their own. A lease that ended while a
slow frame still waits for the network would carry it twice; one whose server stopped is given
back by the next start."""


class Pipeline:
    """Carries every stored frame to its result; run it as one task of the server."""

    def __init__(
        self,
        store: Store,
        decoder: DecodePool,
        segmenter: InferenceBackend,
        publisher: Publisher,
        settings: ServerSettings,
        *,
        accumulate: Accumulate | None = None,
    ) -> None:
        self._accumulate = accumulate
        self._store = store
        self._decoder = decoder
        self._segmenter = segmenter
        self._publisher = publisher
        self._settings = settings
        self._work = Signal()
        self._held: set[int] = set()
        """Frames whose lease is ours."""
        self.trouble: str | None = None
        """Why results cannot be kept just now; None when they can."""
        self.traffic = Traffic(_CARRIERS)
        """Frames under way, for whoever gives way to them."""

    def ring(self) -> None:
        """Say that frames were stored; call it from the event loop's thread."""
        self._work.notify()

    async def run(self) -> None:
        """Carry frames until cancelled; what is not done by then is queued again."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_CARRIERS):
                    group.create_task(self._carry_all(), name=f"carrier-{number}")
        finally:
            await asyncio.to_thread(self._give_back)

    async def _carry_all(self) -> None:
        while True:
            # Counted before looking: a frame that is stored meanwhile is not overslept.
            seen = self._work.count
            try:
                leased = await self._in_store(self._lease)
                if leased is None:
                    await self._work.wait_beyond(seen, _IDLE_LOOK_S)
                    continue
                with self.traffic.frame():
                    await self._carry_or_account(leased)
                self._held.discard(leased.frame_id)
            except Exception:
                # The border: a carrier that ended would take the others with it.
                log.exception("carrier stumbled; going on")
                await asyncio.sleep(_STORE_RETRY_S)

    def _lease(self) -> LeasedFrame | None:
        leased = self._store.lease_frame(_LEASE_S)
        if leased:
            self._held.add(leased.frame_id)
        return leased

    def _give_back(self) -> None:
        for frame_id in self._held:
            # A disk that refuses even this: the next start finds the row as it is.
            with suppress(StoreError):
                self._store.release(frame_id)
        self._held.clear()

    async def _in_store(self, write: Callable[[], T]) -> T:
        """Write until the disk takes it: a full one costs patience, never a frame.

        What it will never take is raised at once, so that it holds up nobody.
        When cancelled, a write that is under way is waited for, so that whoever cleans up
        afterwards sees what it did.
        """
        while True:
            writing = asyncio.ensure_future(asyncio.to_thread(write))
            try:
                answer = await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise
            except UnstorableError:
                raise
            except StoreError as error:
                log.error("store refused reason=%s; trying again", error)
                self.trouble = f"results wait: {error}"
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                self.trouble = None
                return answer

    async def _carry_or_account(self, leased: LeasedFrame) -> None:
        """Carry one frame; whatever goes wrong with it ends as a row with a reason."""
        store, frame_id = self._store, leased.frame_id
        try:
            await self.carry(leased)
        except WorkerDied as error:
            reason = str(error)
            log.warning("frame killed its worker id=%d reason=%s", frame_id, reason)
            await self._in_store(lambda: store.record_crash(frame_id, reason))
        except EMcopilotError as error:
            reason = str(error)
            log.warning("frame quarantined id=%d reason=%s", frame_id, reason)
            await self._in_store(lambda: store.quarantine(frame_id, reason))
        except Exception as error:  # the border: one frame must never stop the others
            log.exception("frame failed id=%d", frame_id)
            reason = f"internal error: {error!r}; see the server's log"
            await self._in_store(lambda: store.quarantine(frame_id, reason))
        else:
            return
        self._publisher.announce()

    async def carry(self, leased: LeasedFrame) -> None:
        """Take one frame from the disk to every open browser."""
        timings = {"stored": leased.stored_at, "leased": time.time()}
        frame = await self._decode(leased)
        timings["decoded"] = time.time()
        segmentation = await self._segmenter.segment(frame.pixels)
        timings["inferred"] = time.time()
        measured = await asyncio.to_thread(
            measure, frame, segmentation, min_area_px=self._settings.min_area_px
        )
        timings["measured"] = time.time()
        # Saved before shown: a picture on a screen is never the only copy.
        result = await asyncio.to_thread(result_row, leased, measured, timings)
        await self._in_store(lambda: self._store.save_result(result))
        self._publisher.publish(live_frame(leased, measured))
        self._publisher.announce()
        log.info(
            "frame processed id=%d particles=%d name=%s total_ms=%.0f",
            leased.frame_id,
            len(measured.particles),
            leased.name,
            1000 * (time.time() - timings["leased"]),
        )
        if self._accumulate:
            await self._accumulate(leased, measured, segmentation)

    async def _decode(self, leased: LeasedFrame) -> Frame:
        path = self._store.blob_path(leased.sha256)
        if leased.pages is None:
            report = await self._decoder.report(path, leased.name)
            if report.refused:
                raise RefusedError(report.refused)
            if report.frames < 1:
                raise DecodeError(f"{leased.name} holds no image")
            await self._in_store(
                lambda: self._store.add_pages(leased.file_id, report.frames)
            )
            self.ring()  # the other carriers, for the other pages
        frame = await self._decoder.decode(path, leased.name, leased.page)
        known = Calibration(
            operator_nm=leased.operator_pixel_size_nm,
            table=self._settings.magnifications,
        )
        return calibrate(frame, known)

    async def measure_upload(
        self,
        path: Path,
        name: str,
        page: int,
        pixel_size_nm: tuple[float, float] | None,
    ) -> MeasuredFrame:
        """Segment one file that is not kept: `POST /segment`."""
        known = Calibration(
            operator_nm=pixel_size_nm, table=self._settings.magnifications
        )
        with self.traffic.frame():
            frame = await self._decoder.decode(path, name, page)
            frame = calibrate(frame, known)
            segmentation = await self._segmenter.segment(frame.pixels)
        return await asyncio.to_thread(
            measure, frame, segmentation, min_area_px=self._settings.min_area_px
        )


def result_row(
    leased: LeasedFrame, measured: MeasuredFrame, timings: dict[str, float]
) -> SavedResult:
    """Return what the store keeps of a frame that the live path measured."""
    return result_of(leased.frame_id, measured, timings)


def live_frame(leased: LeasedFrame, measured: MeasuredFrame) -> LiveFrame:
    """Return what viewers see of a measured frame."""
    frame, particles = measured.frame, measured.particles
    return LiveFrame(
        frame_id=leased.frame_id,
        session_id=leased.session_id,
        session=leased.session,
        name=leased.name,
        page=leased.page,
        number=leased.number,
        pixels=frame.pixels,
        pixel_size_nm=frame.pixel_size_nm,
        pixel_size_source=frame.pixel_size_source,
        model_id=measured.model_id,
        unit=measured.unit,
        counted=measured.psd.n,
        mean_diameter=measured.psd.mean_number,
        median_diameter=measured.psd.d50,
        infer_s=measured.infer_s,
        latency_s=_latency_s(leased, time.time()),
        time_s=frame.time_s,
        ids=particles.label,
        diameter=measured.diameters,
        touches_border=particles.touches_border,
        confidence=particles.confidence,
        outlines=measured.outlines,
    )


def _latency_s(leased: LeasedFrame, now: float) -> float:
    """Return the seconds since the file was complete, by the rule of `StoredFrame.latency_s`."""
    latency_s = now - leased.sealed_at
    # The agent's clock may run ahead of ours; then only our own part is known.
    return latency_s if latency_s >= 0 else now - leased.received_at
