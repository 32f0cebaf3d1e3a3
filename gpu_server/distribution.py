"""A session's size distribution, its course in time, and whether it is known well enough."""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.messages import PsdAnswer, TimelineAnswer, Unit
from emcopilot.psd import Psd, measure_psd
from gpu_server.accounts import last_event
from gpu_server.course import Course, read_course
from gpu_server.queries import StoredFrame, session_start

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
        answer, psd = of_course(read_course(connection, session_id), event)
        with self._lock:
            self._measured[session_id] = event, answer, psd
            self._measured.move_to_end(session_id)
            while len(self._measured) > _CACHED_SESSIONS:
                self._measured.popitem(last=False)
        return answer, psd


def measured(
    frames: Sequence[StoredFrame], event: int, *, bins: int | None = None
) -> tuple[PsdAnswer, Psd]:
    """Measure one distribution over the counted particles of `frames`.

    Notes
    -----
    Sizes of several frames share one unit: nm where every frame that has particles is
    calibrated, else px for all of them; a mixture would be a number without meaning.
    """
    unit, reason = common_unit(frames)
    sizes = [frame.diameters(unit) for frame in frames]
    every = np.concatenate(sizes) if sizes else np.empty(0)
    psd = measure_psd(every[np.isfinite(every)], unit=unit, bins=bins)
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


def of_course(
    course: Course, event: int, *, bins: int | None = None
) -> tuple[PsdAnswer, Psd]:
    """Measure the distribution of a whole session, by the rules of `measured`."""
    psd = measure_psd(course.sizes(), unit=course.unit, bins=bins)
    sized = int(np.count_nonzero(course.particles))
    return psd_answer(
        psd,
        reason=_reason(course.uncalibrated, sized),
        frames=len(course.frame),
        excluded_border=int(course.border.sum()),
        rejected=int(course.rejected.sum()),
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
    return "px" if unknown else "nm", _reason(unknown, len(sized))


def _reason(unknown: int, sized: int) -> str | None:
    if unknown == 0:
        return None
    return (
        f"{unknown} of {sized} frames have no known pixel size; "
        "give the session one to see nm"
    )


def timeline(
    connection: sa.Connection, session_id: int, points: int | None = None
) -> TimelineAnswer:
    """Return the session's course: one entry a counted frame, as acquired.

    Parameters
    ----------
    points : int, optional
        Return no more entries than that, each a real frame; see `kept_frames`.
    """
    course = read_course(connection, session_id)
    start = session_start(connection, session_id)
    return timeline_of(course, session_id, start, points)


def timeline_of(
    course: Course, session_id: int, start: float | None, points: int | None
) -> TimelineAnswer:
    """Put a course into an answer; `start` is the session's time zero, Unix time."""
    counted, mean, dispersion = course.moments()
    time_s = course.page_s
    if start is not None:
        time_s = course.written_at - start + np.nan_to_num(course.page_s)
    kept = np.arange(len(course.frame))
    if points is not None:
        kept = kept_frames((mean, counted, course.latency_s), points)
    return TimelineAnswer(
        session_id=session_id,
        unit=course.unit,
        frame=course.frame[kept].tolist(),
        number=course.number[kept].tolist(),
        time_s=_or_none(time_s[kept]),
        particles=course.particles[kept].tolist(),
        counted=counted[kept].tolist(),
        mean_diameter=_or_none(mean[kept]),
        dispersion=_or_none(dispersion[kept]),
        latency_s=_or_none(course.latency_s[kept]),
        frames=len(course.frame),
    )


def kept_frames(
    curves: Sequence[NDArray[np.generic]], points: int
) -> NDArray[np.int64]:
    """Choose the frames whose curves look like those of all frames.

    Parameters
    ----------
    curves : arrays, shape (F,)
        NaN where a frame has no value.
    points : int
        The most that are chosen, at least 2 a curve and 2 for the ends.

    Returns
    -------
    int64 array, shape (K,), K <= points
        Rising indices. Each stretch of frames gives its lowest and its highest frame of every
        curve, so that no spike is smoothed away; the first and last frame are there.
    """
    total = len(curves[0])
    if total <= points:
        return np.arange(total)
    stretches = max(1, (points - 2) // (2 * len(curves)))
    bounds = np.linspace(0, total, stretches + 1).astype(np.int64)
    chosen = {0, total - 1}
    for curve in curves:
        values = np.asarray(curve, np.float64)
        low, high = (
            np.nan_to_num(values, nan=np.inf),
            np.nan_to_num(values, nan=-np.inf),
        )
        for first, end in pairwise(bounds.tolist()):
            chosen.add(first + int(low[first:end].argmin()))
            chosen.add(first + int(high[first:end].argmax()))
    return np.array(sorted(chosen))


def session_time_s(frame: StoredFrame, start: float | None) -> float | None:
    """Return a frame's time since the session's first file, page times included."""
    if start is None:
        return frame.time_s
    return frame.written_at - start + (frame.time_s or 0.0)


def _or_none(values: FloatArray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _cut_by_border(frame: StoredFrame) -> int:
    return int(np.isnan(frame.result.diameters).sum()) if frame.result else 0
