"""Stored frames as live packets: the past is looked at with the same canvas as the present.

Decoding is what takes time, and it takes it from the live path. So pictures are kept, bounded,
after their first look, and only one is decoded at a time: whoever scrubs waits for themselves,
never the microscope.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Generic, TypeVar

import numpy as np

from emcopilot.label_image import decode_labels
from emcopilot.outlines import Outlines, outlines
from gpu_server.particle_rows import is_rejected, read_labels, read_measured
from gpu_server.picture import shown_factor
from gpu_server.publish import LiveFrame, Preview, lay_out, preview
from gpu_server.queries import StoredFrame, frame
from gpu_server.sandbox import Decoder
from gpu_server.store import Store

V = TypeVar("V")

KEPT_BYTES = 192 * 2**20
"""Some 800 pictures of 1024 x 1024 px: a few minutes of film, both ways."""
_EMPTY = Outlines(np.zeros(1, np.uint32), np.empty((0, 2), np.int16))


class Kept(Generic[V]):
    """Values by key, up to a number of bytes; the one that was not asked for longest goes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[object, tuple[V, int]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: object) -> V | None:
        """Return what is kept under `key`, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: object, value: V, size_bytes: int) -> V:
        """Keep and return `value`; one larger than the limit is not kept."""
        with self._lock:
            _, before = self._values.pop(key, (None, 0))
            self.size_bytes += size_bytes - before
            self._values[key] = value, size_bytes
            while self.size_bytes > self._limit_bytes:
                _, (_, freed) = self._values.popitem(last=False)
                self.size_bytes -= freed
        return value


class StoredPackets:
    """Makes packets of stored frames; create it with the store that it reads."""

    def __init__(
        self, store: Store, decoder: Decoder, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._store = store
        self._decoder = decoder
        self._previews: Kept[Preview] = Kept(kept_bytes)
        self._outlines: Kept[Outlines] = Kept(kept_bytes // 4)
        self._decoding = asyncio.Semaphore(1)

    async def packet(
        self,
        found: StoredFrame,
        is_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> bytes | None:
        """Return the packet of a frame, with its particles where it has a result.

        Parameters
        ----------
        is_gone : callable, optional
            Whether nobody waits any more; asked before anything is decoded.

        Returns
        -------
        bytes or None
            None if nobody waits any more.

        Raises
        ------
        DecodeError
            If the file cannot be read.
        """
        shown = self._previews.get((found.sha256, found.page))
        if shown is None:
            async with self._decoding:
                # Whoever scrubs on has left this request; and it may have been decoded meanwhile.
                if is_gone and await is_gone():
                    return None
                shown = self._previews.get((found.sha256, found.page))
                shown = shown or await self._decode(found)
        return await asyncio.to_thread(self._packed, found.id, shown)

    async def _decode(self, found: StoredFrame) -> Preview:
        name = PurePosixPath(found.source_key).name
        path = self._store.blob_path(found.sha256)
        decoded = await self._decoder.decode(path, name, found.page)
        made = await asyncio.to_thread(preview, decoded.pixels)
        return self._previews.put((found.sha256, found.page), made, len(made.jpeg))

    def _packed(self, frame_id: int, shown: Preview) -> bytes:
        with self._store.read() as connection:
            # Read again: what was rejected while the picture was decoded is seen.
            found = frame(connection, frame_id)
            if found is None:
                raise LookupError(f"there is no frame {frame_id}")
            if found.result is None:
                return lay_out(without_result(found), shown, 0)
            confidence = read_measured(connection, found).confidence
            key = found.result.id, found.result.saved_at
            traced = self._outlines.get(key)
            if traced is None:
                labels = decode_labels(read_labels(connection, found))
                traced = outlines(labels, scale=1.0 / shown_factor(labels.shape))
                size = traced.points.nbytes + traced.offsets.nbytes
                self._outlines.put(key, traced, size)
        return lay_out(stored_frame(found, confidence, traced), shown, 0)


def stored_frame(
    found: StoredFrame, confidence: np.ndarray, traced: Outlines
) -> LiveFrame:
    """Return what viewers see of a stored frame with a result."""
    sizes = found.all_diameters(found.unit)
    bare = _live(found, sizes, np.isnan(sizes), confidence, traced)
    rejected = is_rejected(found, len(sizes))
    return bare.without(rejected, is_rejected=found.is_rejected)


def without_result(found: StoredFrame) -> LiveFrame:
    """Return what viewers see of a frame that nothing was found on (yet)."""
    none = np.empty(0)
    return _live(found, none, none.astype(bool), none, _EMPTY)


def _live(
    found: StoredFrame,
    sizes: np.ndarray,
    border: np.ndarray,
    confidence: np.ndarray,
    traced: Outlines,
) -> LiveFrame:
    result = found.result
    infer_s = result.summary.get("infer_s") if result else None
    return LiveFrame(
        frame_id=found.id,
        session_id=found.session_id,
        session=found.session,
        name=PurePosixPath(found.source_key).name,
        page=found.page,
        number=found.number,
        pixels=np.empty((0, 0)),  # the picture is made already
        pixel_size_nm=found.pixel_size_nm,
        pixel_size_source=found.pixel_size_source,
        model_id=result.model_id if result else "",
        unit=found.unit,
        counted=0,
        mean_diameter=None,
        median_diameter=None,
        infer_s=float(infer_s) if isinstance(infer_s, int | float) else 0.0,
        latency_s=found.latency_s,
        time_s=found.time_s,
        ids=np.arange(1, len(sizes) + 1),
        diameter=sizes,
        touches_border=border,
        confidence=confidence,
        outlines=traced,
    )
