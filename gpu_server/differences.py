"""Two models set against each other over a whole session, in figures.

Strategy: as in `course.py`, no object is made for a frame. One query brings what both models
found, the sizes of each are joined into one array, and all about frames is array operations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.messages import Unit
from emcopilot.model_messages import DifferencesAnswer, FrameDifference, SideFigures
from gpu_server.course import taken_out
from gpu_server.distribution import kept_frames
from gpu_server.tables import PROCESSED, frames, results, sessions

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SHOWN = 2_000
"""Frames that are told one by one, unless more or fewer are asked for."""


def differences(
    connection: sa.Connection,
    models: tuple[str, str],
    session_id: int,
    points: int = SHOWN,
) -> DifferencesAnswer:
    """Set two models against each other over all frames of a session that both have computed.

    Parameters
    ----------
    points : int
        Tell no more frames one by one, at least 6: of a longer session, each stretch's largest
        differences either way. What is told in total is of every frame.
    """
    pairs = _read_pairs(connection, models, session_id)
    unit = pairs.unit
    rejected = taken_out(connection, session_id)
    first, second = (_side(pairs, found, unit, rejected) for found in pairs.found)
    before, after = _mean(first.sizes), _mean(second.sizes)
    return DifferencesAnswer(
        session_id=session_id,
        unit=unit,
        models=[
            _figures(connection, model_id, session_id, side.sizes)
            for model_id, side in zip(models, (first, second), strict=True)
        ],
        frames=_told_frames(pairs, first, second, points),
        common=len(pairs.frame),
        psd_distance=ks_distance(first.sizes, second.sizes),
        mean_diameter_change=(after - before) / before if before and after else None,
    )


def ks_distance(first: FloatArray, second: FloatArray) -> float | None:
    """Return the Kolmogorov-Smirnov distance of two samples, 0..1; None if one is empty.

    Parameters
    ----------
    first, second : float64 arrays, shapes (N,) and (M,)
        Rising.

    Notes
    -----
    The largest gap between the two empirical distribution functions (Smirnov 1939). Each rises at
    its own values only: there it is farthest above the other.
    """
    if not (len(first) and len(second)):
        return None
    return max(_most_above(first, second), _most_above(second, first))


def _most_above(ours: FloatArray, theirs: FloatArray) -> float:
    below = np.arange(1, len(ours) + 1) / len(ours)
    return float((below - np.searchsorted(theirs, ours, "right") / len(theirs)).max())


@dataclass(frozen=True, slots=True)
class _Found:
    """Results of one model, side by side with the frames."""

    result: Sequence[int]
    is_nm: Sequence[bool]
    """Whether they were measured in nm, else in px."""
    diameters: Sequence[bytes]

    @property
    def particles(self) -> IntArray:
        """Particles a frame, counted or not."""
        lengths = map(len, self.diameters)
        return np.fromiter(lengths, np.int64, len(self.diameters)) // 4


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Frames that both models have computed; F of each."""

    frame: Sequence[int]
    number: Sequence[int]
    own_nm: FloatArray
    """Edge of a pixel as it was measured with; NaN where unknown."""
    edge_nm: FloatArray
    """Edge of a pixel as it holds: the operator's goes first."""
    found: tuple[_Found, _Found]

    @property
    def unit(self) -> Unit:
        """The unit of sizes: nm where every frame with particles has a pixel size, else px."""
        sized = self.found[0].particles + self.found[1].particles > 0
        return "px" if np.isnan(self.edge_nm[sized]).any() else "nm"


@dataclass(frozen=True, slots=True)
class _Side:
    """What one model found, in one unit."""

    sizes: FloatArray
    """Shape (N,): the diameters that count, rising."""
    counted: IntArray
    """Shape (F,): particles that count, by frame."""
    mean: FloatArray
    """Shape (F,): of their diameters; NaN where there are none."""


def _read_pairs(
    connection: sa.Connection, models: tuple[str, str], session_id: int
) -> _Pairs:
    ours, theirs = (results.alias() for _ in models)
    chosen = sa.select(
        frames.c.id,
        frames.c.number,
        frames.c.pixel_size_y_nm * frames.c.pixel_size_x_nm,
        *(ours.c.id, ours.c.unit == "nm", ours.c.diameters),
        *(theirs.c.id, theirs.c.unit == "nm", theirs.c.diameters),
    ).where(
        frames.c.session_id == session_id,
        frames.c.state == PROCESSED,
        frames.c.rejected_at.is_(None),
    )
    for side, model_id in zip((ours, theirs), models, strict=True):
        chosen = chosen.where(side.c.frame_id == frames.c.id)
        chosen = chosen.where(side.c.model_id == model_id)
    answer = connection.execute(chosen.order_by(frames.c.id))
    rows, width = answer.all(), len(answer.keys())
    columns = zip(*rows, strict=True) if rows else ((),) * width
    frame, number, area_nm2, *found = columns
    own_nm = np.sqrt(np.array(area_nm2, np.float64))  # None becomes NaN
    operator_nm = _operator_nm(connection, session_id)
    edge_nm = own_nm if operator_nm is None else np.full(len(rows), operator_nm)
    sides = _Found(*found[:3]), _Found(*found[3:])
    return _Pairs(frame, number, own_nm, edge_nm, sides)


def _operator_nm(connection: sa.Connection, session_id: int) -> float | None:
    area_nm2 = sa.select(sessions.c.pixel_size_y_nm * sessions.c.pixel_size_x_nm)
    found = connection.execute(area_nm2.where(sessions.c.id == session_id)).scalar()
    return None if found is None else found**0.5


def _side(
    pairs: _Pairs, found: _Found, unit: Unit, rejected: Mapping[int, Sequence[int]]
) -> _Side:
    particles = found.particles
    sizes = np.frombuffer(b"".join(found.diameters), "<f4").astype(np.float64)
    begins = np.cumsum(particles) - particles
    for index, result_id in enumerate(found.result) if rejected else ():
        labels = rejected.get(result_id, ())
        sizes[[begins[index] + label - 1 for label in labels]] = np.nan
    stored = np.where(found.is_nm, pairs.own_nm, 1.0)
    sizes *= np.repeat((pairs.edge_nm if unit == "nm" else 1.0) / stored, particles)
    counts = np.isfinite(sizes)
    owner = np.repeat(np.arange(len(particles)), particles)[counts]
    sizes = sizes[counts]
    counted = np.bincount(owner, minlength=len(particles))
    with np.errstate(invalid="ignore"):
        mean = np.bincount(owner, sizes, len(particles)) / counted
    return _Side(np.sort(sizes), counted, mean)


def _told_frames(
    pairs: _Pairs, first: _Side, second: _Side, points: int
) -> list[FrameDifference]:
    apart = second.counted - first.counted, second.mean - first.mean
    return [
        FrameDifference(
            frame_id=pairs.frame[index],
            number=pairs.number[index],
            counted=[int(side.counted[index]) for side in (first, second)],
            mean_diameter=[_or_none(side.mean.item(index)) for side in (first, second)],
        )
        for index in kept_frames(apart, points).tolist()
    ]


def _or_none(mean: float) -> float | None:
    return mean if math.isfinite(mean) else None


def _figures(
    connection: sa.Connection, model_id: str, session_id: int, sizes: FloatArray
) -> SideFigures:
    counting = sa.select(results.c.id).where(
        results.c.session_id == session_id,
        results.c.model_id == model_id,
        results.c.counts,
    )
    mean = _mean(sizes)
    spread = float(sizes.std(ddof=1)) if len(sizes) > 1 else None
    return SideFigures(
        model_id=model_id,
        counts=connection.execute(counting.limit(1)).first() is not None,
        counted=len(sizes),
        mean_diameter=mean,
        median_diameter=float(np.median(sizes)) if len(sizes) else None,
        dispersion=spread / mean if spread is not None and mean else None,
    )


def _mean(sizes: FloatArray) -> float | None:
    return float(sizes.mean()) if len(sizes) else None
