"""Results of models that are not live, computed quietly and kept beside those that count.

A frame is decoded and measured as the live path does it, with the pixel size that its counting
result was measured with: two models must differ by what they see, never by a calibration.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from emcopilot.errors import DecodeError, EMcopilotError, ModelError, StoreError
from gpu_server.measure import MeasuredFrame, measure, result_of
from gpu_server.queries import StoredFrame, model_frames
from gpu_server.registry import Registry
from gpu_server.sandbox import Decoder
from gpu_server.saving import save_beside
from gpu_server.segment import Trial
from gpu_server.side_segmenter import SideSegmenter
from gpu_server.store import Store
from gpu_server.tables import PROCESSED, files, frames, results

log = logging.getLogger(__name__)

_LIVE_LOOK_S = 0.2


class SideResults:
    """Computes what is missing of a model's results.

    Parameters
    ----------
    store : Store
    registry : Registry
    side : SideSegmenter
        Runs the models.
    decoder : Decoder
    min_area_px : int
        Smaller specks are noise, as on the live path.
    live_waits : callable
        Says whether live frames wait just now; then nothing new is begun.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        side: SideSegmenter,
        decoder: Decoder,
        *,
        min_area_px: int,
        live_waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._registry = registry
        self._side = side
        self._decoder = decoder
        self._min_area_px = min_area_px
        self._live_waits = live_waits

    async def fill(self, model_id: str, frame_ids: Sequence[int]) -> dict[int, str]:
        """Compute and keep the results of a model that these frames lack.

        Returns
        -------
        dict of int to str
            Frames that gave no result, and why.

        Raises
        ------
        LookupError
            If there never was such a model.
        ConfigError, ModelError
            If it is gone or does not start.
        """
        folder = await asyncio.to_thread(self._registry.folder, model_id)
        missing = await asyncio.to_thread(self._missing, model_id, frame_ids)
        failed: dict[int, str] = {}
        while missing:
            left = len(missing)
            async with self._side.using(folder) as trial:
                if trial.model_id != model_id:
                    raise ModelError(f"{folder} holds {trial.model_id} now")
                while missing and trial.child.is_alive:
                    frame = missing.pop(0)
                    try:
                        await self._compute(trial, frame)
                    except StoreError:
                        raise  # a full disk is no frame's fault
                    except EMcopilotError as error:
                        failed[frame.id] = str(error)
                        log.warning(
                            "frame not computed id=%d model=%s reason=%s",
                            frame.id,
                            model_id,
                            error,
                        )
            if len(missing) == left:  # again would be for ever
                raise ModelError(
                    f"the process of {model_id} ends before it looks at a frame; see the server's "
                    "log"
                )
        return failed

    def _missing(self, model_id: str, frame_ids: Sequence[int]) -> list[StoredFrame]:
        with self._store.read() as connection:
            found = model_frames(connection, model_id, frame_ids)
        return [frame for frame in found if frame.result is None]

    async def _compute(self, trial: Trial, stored: StoredFrame) -> None:
        while self._live_waits():
            await asyncio.sleep(_LIVE_LOOK_S)
        path = self._store.blob_path(stored.sha256)
        frame = await self._decoder.decode(
            path, Path(stored.source_key).name, stored.page
        )
        if frame.pixels.shape != (stored.height, stored.width):
            raise DecodeError(
                f"frame {stored.id} is {frame.pixels.shape} now, it was "
                f"{(stored.height, stored.width)} when it was processed"
            )
        frame = replace(
            frame,
            pixel_size_nm=stored.own_pixel_size_nm,
            pixel_size_source=stored.own_source,
        )
        segmentation = await trial.segment(frame.pixels)
        measured = await asyncio.to_thread(
            measure, frame, segmentation, min_area_px=self._min_area_px
        )
        await asyncio.to_thread(self._keep, stored.id, measured)

    def _keep(self, frame_id: int, measured: MeasuredFrame) -> None:
        result = result_of(frame_id, measured)
        with self._store.database.write() as connection:
            save_beside(connection, result, at=self._registry.wall())


def recent_frames(
    connection: sa.Connection, count: int, *, session_id: int | None = None
) -> list[int]:
    """Return ids of the latest processed frames, the newest first."""
    chosen = (
        sa.select(frames.c.id)
        .join(files, files.c.id == frames.c.file_id)
        .where(frames.c.state == PROCESSED, frames.c.rejected_at.is_(None))
        .order_by(files.c.mtime_ns.desc(), frames.c.id.desc())
        .limit(count)
    )
    if session_id is not None:
        chosen = chosen.where(frames.c.session_id == session_id)
    return list(connection.scalars(chosen))


def lacking(
    connection: sa.Connection,
    session_id: int,
    model_id: str,
    limit: int,
    *,
    after: int = 0,
) -> list[int]:
    """Return ids of a session's processed frames without a result of a model, oldest first.

    Parameters
    ----------
    after : int
        Only frames with a higher id: what lies before need not be looked through again.
    """
    of_model = sa.and_(
        results.c.frame_id == frames.c.id, results.c.model_id == model_id
    )
    chosen = (
        sa.select(frames.c.id)
        .join_from(frames, results, of_model, isouter=True)
        .where(
            frames.c.session_id == session_id,
            frames.c.id > after,
            frames.c.state == PROCESSED,
            frames.c.rejected_at.is_(None),
            results.c.id.is_(None),
        )
        .order_by(frames.c.id)
        .limit(limit)
    )
    return list(connection.scalars(chosen))


def account(
    connection: sa.Connection, session_id: int, model_id: str
) -> tuple[int, int]:
    """Return how many frames of a session are processed, and how many by one model."""
    of_model = sa.and_(
        results.c.frame_id == frames.c.id, results.c.model_id == model_id
    )
    row = connection.execute(
        sa.select(sa.func.count(frames.c.id), sa.func.count(results.c.id))
        .join_from(frames, results, of_model, isouter=True)
        .where(
            frames.c.session_id == session_id,
            frames.c.state == PROCESSED,
            frames.c.rejected_at.is_(None),
        )
    ).one()
    return row[0], row[1]
