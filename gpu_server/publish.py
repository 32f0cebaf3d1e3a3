"""Fan-out to viewers: the latest frame wins, and nobody holds anything back.

The pipeline hands over a value and goes on. A frame is scaled, compressed and packed only
when a viewer asks for it, once for all of them, in a thread. A viewer has one frame in
flight; whatever arrives meanwhile replaces what it would have got next. Events are rows of
the store: this module only says that there are new ones.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from emcopilot.confidence import is_doubtful
from emcopilot.live_packet import (
    POINTS_PER_PIXEL,
    LiveHeader,
    LivePacket,
    flag_bits,
    in_percent,
)
from emcopilot.messages import Unit
from emcopilot.outlines import Outlines
from gpu_server.picture import jpeg, picture, shown_factor

MAX_VIEWERS = 64


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """Everything that viewers see of one frame, not encoded yet."""

    frame_id: int
    session_id: int
    session: str
    name: str
    page: int
    pixels: NDArray[np.generic]
    """Shape (H, W), detector counts; scaled for display later, on a copy."""
    pixel_size_nm: tuple[float, float] | None
    pixel_size_source: str | None
    model_id: str
    unit: Unit
    counted: int
    mean_diameter: float | None
    median_diameter: float | None
    infer_s: float
    latency_s: float | None
    time_s: float | None
    ids: NDArray[np.integer]
    """Shape (P,), particle numbers in label order."""
    diameter: NDArray[np.floating]
    """Shape (P,), equivalent diameters in `unit`."""
    touches_border: NDArray[np.bool_]
    """Shape (P,)."""
    confidence: NDArray[np.float64]
    """Shape (P,), the chance 0..1 that each is a particle; NaN where unknown."""
    outlines: Outlines
    """In px of the shown picture, which is `shown_factor(shape)` times smaller."""

    number: int = 0
    """In its session, from 1."""
    rejected: NDArray[np.bool_] | None = None
    """Shape (P,), taken out by the operator; None while nothing is."""
    is_rejected: bool = False
    """The operator took the whole frame out."""

    def without(
        self, rejected: NDArray[np.bool_], *, is_rejected: bool = False
    ) -> "LiveFrame":
        """Return the frame with the operator's verdicts, figures included."""
        counted = self.diameter[~self.touches_border & ~rejected]
        return replace(
            self,
            rejected=rejected,
            is_rejected=is_rejected,
            counted=len(counted),
            mean_diameter=float(counted.mean()) if len(counted) else None,
            median_diameter=float(np.median(counted)) if len(counted) else None,
        )


@dataclass(frozen=True, slots=True)
class Packed:
    """One frame as bytes, shared by every viewer."""

    seq: int
    data: bytes


class Signal:
    """A count that only grows, and wakes whoever waits for it to pass what they saw."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Count one more and wake everyone who waits."""
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait_beyond(self, seen: int, timeout_s: float | None = None) -> int:
        """Return the count once it is more than `seen`, or as it is when time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.count <= seen:
                    await self._event.wait()
        except TimeoutError:
            pass
        return self.count


@dataclass(slots=True, eq=False)
class Viewer:
    """One open live view: what it has, and what it missed."""

    publisher: "Publisher"
    seq: int = 0
    """Of the last packet it was given."""
    acknowledged: int = 0
    skipped: int = 0
    _acks: Signal = field(default_factory=Signal)

    async def next_packet(self) -> Packed:
        """Wait for a frame newer than the last one, and take the newest."""
        packed = await self.publisher.packet_after(self.seq)
        if self.seq:
            missed = packed.seq - self.seq - 1
            self.skipped += missed
            self.publisher.skipped += missed
        self.seq = packed.seq
        return packed

    def acknowledge(self, seq: int) -> None:
        """Note that the page has drawn packet `seq`."""
        self.acknowledged = max(self.acknowledged, min(seq, self.seq))
        self._acks.notify()

    async def wait_acknowledged(self) -> None:
        """Wait until the last packet given is drawn; the caller sets the time-out."""
        while self.acknowledged < self.seq:
            await self._acks.wait_beyond(self._acks.count)


class Publisher:
    """The latest frame and who looks at it; create it inside the running event loop."""

    def __init__(self) -> None:
        self.skipped = 0
        """Display frames that viewers did not take, over all of them."""
        self.closing = False
        """Set once: streams end so that the server can stop."""
        self._loop = asyncio.get_running_loop()
        self._viewers: set[Viewer] = set()
        self._latest: LiveFrame | None = None
        self._packed = Packed(0, b"")
        self._encoding = asyncio.Lock()
        self._frames = Signal()
        self._events = Signal()

    @property
    def viewers(self) -> int:
        """Open live views."""
        return len(self._viewers)

    @property
    def changes(self) -> int:
        """Announcements so far; what `changed` takes."""
        return self._events.count

    def publish(self, frame: LiveFrame) -> None:
        """Make `frame` the one that viewers get; returns at once, from the event loop."""
        self._latest = frame
        self._frames.notify()

    def show_rejected(
        self,
        frame_id: int,
        rejected: NDArray[np.bool_],
        *,
        is_rejected: bool = False,
    ) -> None:
        """Send the shown frame again with the operator's verdicts, shape (P,)."""
        shown = self._latest
        if shown and shown.frame_id == frame_id and len(shown.ids) == len(rejected):
            self.publish(shown.without(rejected, is_rejected=is_rejected))

    def announce(self) -> None:
        """Say that the store has new events, results or rejections; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.notify)

    def close(self) -> None:
        """End every stream: whoever waits for changes wakes up and sees `closing`.

        From any thread, and from a signal handler.
        """
        self.closing = True
        self.announce()

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait for an announcement after the `seen` ones; return how many there are."""
        return await self._events.wait_beyond(seen, timeout_s)

    @contextmanager
    def viewer(self) -> Iterator[Viewer | None]:
        """Count one viewer in for as long as it looks; None when there are too many."""
        if len(self._viewers) >= MAX_VIEWERS:
            yield None
            return
        viewer = Viewer(self)
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def packet_after(self, seq: int) -> Packed:
        """Return the newest frame once it is newer than `seq`, encoded once for all."""
        await self._frames.wait_beyond(seq)
        async with self._encoding:
            # Whoever held the lock may have encoded a frame that is new to us as well.
            newest = self._frames.count
            if self._packed.seq < newest and self._latest:
                data = await asyncio.to_thread(pack, self._latest, newest)
                self._packed = Packed(newest, data)
            return self._packed


def pack(frame: LiveFrame, seq: int) -> bytes:
    """Scale, compress and lay out one frame; tens of ms, so never on the event loop."""
    return lay_out(frame, preview(frame.pixels), seq)


@dataclass(frozen=True, slots=True)
class Preview:
    """A frame's picture as viewers get it."""

    jpeg: bytes
    height: int
    """Native, px."""
    width: int
    shown_height: int
    shown_width: int


def preview(pixels: NDArray[np.generic]) -> Preview:
    """Scale and compress detector counts, shape (H, W), for looking at."""
    height, width = pixels.shape
    shown = picture(pixels, shown_factor((height, width)))
    return Preview(jpeg(shown), height, width, *shown.shape)


def lay_out(frame: LiveFrame, shown: Preview, seq: int) -> bytes:
    """Return the packet of a frame whose picture is there already."""
    rejected = frame.rejected
    if rejected is None:
        rejected = np.zeros(len(frame.ids), np.bool_)
    header = LiveHeader(
        seq=seq,
        frame_id=frame.frame_id,
        session_id=frame.session_id,
        session=frame.session,
        name=frame.name,
        page=frame.page,
        number=frame.number,
        frame_rejected=frame.is_rejected,
        height=shown.height,
        width=shown.width,
        shown_height=shown.shown_height,
        shown_width=shown.shown_width,
        pixel_size_nm=frame.pixel_size_nm,
        pixel_size_source=frame.pixel_size_source,
        model_id=frame.model_id,
        particles=len(frame.ids),
        counted=frame.counted,
        excluded_border=int(np.count_nonzero(frame.touches_border)),
        doubtful=int(np.count_nonzero(is_doubtful(frame.confidence) & ~rejected)),
        mean_diameter=frame.mean_diameter,
        median_diameter=frame.median_diameter,
        unit=frame.unit,
        infer_s=frame.infer_s,
        latency_s=frame.latency_s,
        time_s=frame.time_s,
        jpeg_bytes=len(shown.jpeg),
        points=len(frame.outlines.points),
    )
    return LivePacket(
        header,
        shown.jpeg,
        offsets=frame.outlines.offsets,
        ids=frame.ids.astype(np.uint32),
        diameter=frame.diameter.astype(np.float32),
        flags=flag_bits(frame.touches_border, rejected),
        # Outlines count from the first pixel's centre, browsers from its corner.
        points=frame.outlines.points + np.int16(POINTS_PER_PIXEL // 2),
        confidence=in_percent(frame.confidence),
    ).pack()
