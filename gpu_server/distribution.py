"""A session's size distribution, its course in time, and whether it is known well enough."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.messages import PsdAnswer, TimelineAnswer, Unit
from emcopilot.psd import Psd, measure_psd
from gpu_server.accounts import last_event
from gpu_server.queries import StoredFrame, counted_frames, session_start

FloatArray = NDArray[np.float64]

_CACHED_SESSIONS = 32


class Distributions:
    """Session distributions, measured once for each state of the store; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: OrderedDict[int, tuple[int, PsdAnswer, Psd]] = OrderedDict()

    def of_session(
        self, connection: sa.Connection, session_id: int
    ) -> tuple[PsdAnswer, Psd]:
        """Return a session's distribution, up to date with the newest event.

        Every change of a result, a rejection or a calibration adds an event in its own
        transaction, so an unchanged event id means an unchanged distribution.
        """
        event = last_event(connection)
        with self._lock:
            known = self._measured.get(session_id)
        if known and known[0] == event:
            return known[1], known[2]
        answer, psd = measured(counted_frames(connection, session_id), event)
        with self._lock:
            self._measured[session_id] = event, answer, psd
            self._measured.move_to_end(session_id)
            while len(self._measured) > _CACHED_SESSIONS:
                self._measured.popitem(last=False)
        return answer, psd


def measured(frames: Sequence[StoredFrame], event: int) -> tuple[PsdAnswer, Psd]:
    """Measure one distribution over the counted particles of `frames`.

    Notes
    -----
    Sizes of several frames share one unit: nm where every frame that has particles is
    calibrated, else px for all of them; a mixture would be a number without meaning.
    """
    unit, reason = common_unit(frames)
    sizes = [frame.diameters(unit) for frame in frames]
    every = np.concatenate(sizes) if sizes else np.empty(0)
    psd = measure_psd(every[np.isfinite(every)], unit=unit)
    rejected = sum(len(frame.result.rejected) for frame in frames if frame.result)
    border = sum(_cut_by_border(frame) for frame in frames)
    return psd_answer(
        psd,
        reason=reason,
        frames=len(frames),
        excluded_border=border,
        rejected=rejected,
        event=event,
    ), psd


def psd_answer(
    psd: Psd,
    *,
    reason: str | None,
    frames: int,
    excluded_border: int,
    rejected: int,
    event: int,
) -> PsdAnswer:
    """Put a distribution into words for REST."""
    figures = asdict(psd)
    return PsdAnswer(
        **figures,
        unit_reason=reason,
        frames=frames,
        counted=psd.n,
        excluded_border=excluded_border,
        rejected=rejected,
        last_event=event,
    )


def common_unit(frames: Sequence[StoredFrame]) -> tuple[Unit, str | None]:
    """Return the unit that all sizes can be given in, and why it is px where it is."""
    sized = [frame for frame in frames if frame.result and len(frame.result.diameters)]
    unknown = sum(frame.pixel_size_nm is None for frame in sized)
    if unknown == 0:
        return "nm", None
    return "px", (
        f"{unknown} of {len(sized)} frames have no known pixel size; "
        "give the session one to see nm"
    )


def timeline(connection: sa.Connection, session_id: int) -> TimelineAnswer:
    """Return the session's course: one entry a counted frame, as acquired."""
    frames = counted_frames(connection, session_id)
    unit, _ = common_unit(frames)
    start = session_start(connection, session_id)
    figures = [_mean_and_dispersion(frame.diameters(unit)) for frame in frames]
    return TimelineAnswer(
        session_id=session_id,
        unit=unit,
        frame=[frame.id for frame in frames],
        time_s=[session_time_s(frame, start) for frame in frames],
        particles=[
            len(frame.result.diameters) if frame.result else 0 for frame in frames
        ],
        counted=[int(np.isfinite(frame.diameters(unit)).sum()) for frame in frames],
        mean_diameter=[mean for mean, _ in figures],
        dispersion=[dispersion for _, dispersion in figures],
        latency_s=[frame.latency_s for frame in frames],
    )


def session_time_s(frame: StoredFrame, start: float | None) -> float | None:
    """Return a frame's time since the session's first file, page times included."""
    if start is None:
        return frame.time_s
    return frame.written_at - start + (frame.time_s or 0.0)


def _mean_and_dispersion(diameters: FloatArray) -> tuple[float | None, float | None]:
    sizes = diameters[np.isfinite(diameters)]
    if len(sizes) == 0:
        return None, None
    mean = float(sizes.mean())
    return mean, float(sizes.std(ddof=1)) / mean if len(sizes) > 1 else None


def _cut_by_border(frame: StoredFrame) -> int:
    return int(np.isnan(frame.result.diameters).sum()) if frame.result else 0
