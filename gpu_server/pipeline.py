"""From a stored file to numbers on the screen. Read this first.

    lease -> decode + calibrate -> segment -> measure -> store -> publish

A few carriers walk this path side by side, so that one frame is decoded and another measured
while a third is in the network. Rows in the store decide what is to be done: a crash anywhere
loses nothing, and a frame that is done is done once.
"""

import asyncio
import logging
import time
from pathlib import Path

from emcopilot.calibrate import Calibration, calibrate
from emcopilot.decode import Frame
from emcopilot.errors import EMcopilotError, RefusedError, StoreError
from gpu_server.config import ServerSettings
from gpu_server.leases import LeasedFrame
from gpu_server.measure import MeasuredFrame, measure
from gpu_server.publish import LiveFrame, Publisher
from gpu_server.sandbox import DecodePool, WorkerDied
from gpu_server.saving import FrameFacts, SavedResult
from gpu_server.segment import InferenceBackend
from gpu_server.store import Store

log = logging.getLogger(__name__)

_CARRIERS = 3
_STORE_RETRY_S = 5.0
_IDLE_LOOK_S = 5.0
"""The queue is looked at this often even if nobody rang."""


class Pipeline:
    """Carries every stored frame to its result; run it as one task of the server."""

    def __init__(
        self,
        store: Store,
        decoder: DecodePool,
        segmenter: InferenceBackend,
        publisher: Publisher,
        settings: ServerSettings,
    ) -> None:
        self._store = store
        self._decoder = decoder
        self._segmenter = segmenter
        self._publisher = publisher
        self._settings = settings
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Say that frames were stored; call it from the event loop's thread."""
        self._rung.set()

    async def run(self) -> None:
        """Carry frames until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(_CARRIERS):
                group.create_task(self._carry_all(), name=f"carrier-{number}")

    async def _carry_all(self) -> None:
        while True:
            try:
                leased = await asyncio.to_thread(self._store.lease_frame)
                if leased is None:
                    await self._wait_for_work()
                    continue
                await self._carry_or_account(leased)
            except StoreError as error:
                # A full disk: the row stays leased or queued and comes back; nothing is lost.
                log.error("store refused reason=%s; trying again", error)
                await asyncio.sleep(_STORE_RETRY_S)

    async def _wait_for_work(self) -> None:
        self._rung.clear()
        try:
            await asyncio.wait_for(self._rung.wait(), _IDLE_LOOK_S)
        except TimeoutError:
            return

    async def _carry_or_account(self, leased: LeasedFrame) -> None:
        """Carry one frame; whatever goes wrong with it ends as a row with a reason."""
        try:
            await self.carry(leased)
        except asyncio.CancelledError:
            self._store.release(leased.frame_id)
            raise
        except WorkerDied as error:
            log.warning(
                "frame killed its worker id=%d reason=%s", leased.frame_id, error
            )
            await asyncio.to_thread(
                self._store.record_crash, leased.frame_id, str(error)
            )
        except StoreError:
            self._store.release(leased.frame_id)
            raise
        except EMcopilotError as error:
            log.warning("frame quarantined id=%d reason=%s", leased.frame_id, error)
            await asyncio.to_thread(self._store.quarantine, leased.frame_id, str(error))
        except Exception as error:  # the border: one frame must never stop the others
            log.exception("frame failed id=%d", leased.frame_id)
            reason = f"internal error: {error!r}; see the server's log"
            await asyncio.to_thread(self._store.quarantine, leased.frame_id, reason)

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
        await asyncio.to_thread(self._save, leased, measured, timings)
        self._publisher.publish(live_frame(leased, measured))
        self._publisher.announce()
        log.info(
            "frame processed id=%d particles=%d name=%s total_ms=%.0f",
            leased.frame_id,
            len(measured.particles),
            leased.name,
            1000 * (time.time() - timings["leased"]),
        )

    def _save(
        self, leased: LeasedFrame, measured: MeasuredFrame, timings: dict[str, float]
    ) -> None:
        self._store.save_result(result_row(leased, measured, timings))

    async def _decode(self, leased: LeasedFrame) -> Frame:
        path = self._store.blob_path(leased.sha256)
        if leased.pages is None:
            report = await self._decoder.report(path, leased.name)
            if report.refused:
                raise RefusedError(report.refused)
            await asyncio.to_thread(
                self._store.add_pages, leased.file_id, report.frames
            )
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
        frame = await self._decoder.decode(path, name, page)
        frame = calibrate(
            frame,
            Calibration(operator_nm=pixel_size_nm, table=self._settings.magnifications),
        )
        segmentation = await self._segmenter.segment(frame.pixels)
        return await asyncio.to_thread(
            measure, frame, segmentation, min_area_px=self._settings.min_area_px
        )


def result_row(
    leased: LeasedFrame, measured: MeasuredFrame, timings: dict[str, float]
) -> SavedResult:
    """Return what the store keeps of a measured frame."""
    frame = measured.frame
    height, width = frame.pixels.shape
    facts = FrameFacts(
        height=height,
        width=width,
        dtype=frame.pixels.dtype.name,
        pixel_size_nm=frame.pixel_size_nm,
        pixel_size_source=frame.pixel_size_source,
        modality=frame.modality,
        time_s=frame.time_s,
        notes=frame.notes,
    )
    return SavedResult(
        frame_id=leased.frame_id,
        model_id=measured.model_id,
        facts=facts,
        summary=measured.summary(),
        diameters=measured.counted_diameters.astype("<f4").tobytes(),
        particles=measured.particles.to_bytes(),
        labels=measured.labels_tiff(),
        timings=timings,
    )


def live_frame(leased: LeasedFrame, measured: MeasuredFrame) -> LiveFrame:
    """Return what viewers see of a measured frame."""
    frame, particles = measured.frame, measured.particles
    return LiveFrame(
        frame_id=leased.frame_id,
        session_id=leased.session_id,
        session=leased.session,
        name=leased.name,
        page=leased.page,
        pixels=frame.pixels,
        pixel_size_nm=frame.pixel_size_nm,
        pixel_size_source=frame.pixel_size_source,
        model_id=measured.model_id,
        unit=measured.unit,
        counted=measured.psd.n,
        mean_diameter=measured.psd.mean_number,
        median_diameter=measured.psd.d50,
        infer_s=measured.infer_s,
        # The agent's clock may differ from ours: never show a negative age.
        latency_s=max(0.0, time.time() - leased.sealed_at),
        time_s=frame.time_s,
        ids=particles.label,
        diameter=measured.diameters,
        touches_border=particles.touches_border,
        outlines=measured.outlines,
    )
