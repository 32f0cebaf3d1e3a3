"""Two models side by side: outlines on the same frames, and figures over a session."""

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.label_image import decode_labels
from emcopilot.labels import Labels
from emcopilot.messages import Unit
from emcopilot.model_messages import (
    CompareAnswer,
    DifferencesAnswer,
    FrameComparison,
    FrameDifference,
    ModelLook,
    OutlinesAnswer,
    SideFigures,
)
from emcopilot.outlines import outlines
from gpu_server.distribution import common_unit
from gpu_server.particle_rows import read_labels
from gpu_server.picture import shown_factor
from gpu_server.queries import StoredFrame, model_frames
from gpu_server.tables import results

FloatArray = NDArray[np.float64]
Pair = tuple[StoredFrame, StoredFrame]


def compare_frames(
    connection: sa.Connection, models: tuple[str, str], frame_ids: Sequence[int]
) -> CompareAnswer:
    """Show both models on the frames that both have computed, in the order given."""
    pairs = _pairs(connection, models, frame_ids=frame_ids)
    order = {frame_id: place for place, frame_id in enumerate(frame_ids)}
    pairs.sort(key=lambda pair: order[pair[0].id])
    shown = [_compare_frame(connection, pair) for pair in pairs]
    return CompareAnswer(
        models=list(models),
        frames=shown,
        mean_iou=float(np.mean([one.iou for one in shown])) if shown else None,
        missing=len(frame_ids) - len(shown),
    )


def differences(
    connection: sa.Connection, models: tuple[str, str], session_id: int
) -> DifferencesAnswer:
    """Set two models against each other over all frames of a session that both have computed."""
    pairs = _pairs(connection, models, session_id=session_id)
    unit, _ = common_unit([frame for pair in pairs for frame in pair])
    sizes = [[_sizes(frame, unit) for frame in pair] for pair in pairs]
    first, second = (
        np.concatenate([of_pair[side] for of_pair in sizes]) if sizes else np.empty(0)
        for side in (0, 1)
    )
    before, after = _mean(first), _mean(second)
    return DifferencesAnswer(
        session_id=session_id,
        unit=unit,
        models=[
            _figures(connection, model_id, session_id, found)
            for model_id, found in zip(models, (first, second), strict=True)
        ],
        frames=[
            FrameDifference(
                frame_id=pair[0].id,
                number=pair[0].number,
                counted=[len(found) for found in of_pair],
                mean_diameter=[_mean(found) for found in of_pair],
            )
            for pair, of_pair in zip(pairs, sizes, strict=True)
        ],
        common=len(pairs),
        psd_distance=ks_distance(first, second),
        mean_diameter_change=(after - before) / before if before and after else None,
    )


def ks_distance(first: FloatArray, second: FloatArray) -> float | None:
    """Return the Kolmogorov-Smirnov distance of two samples, 0..1; None if one is empty.

    Notes
    -----
    The largest gap between the two empirical distribution functions (Smirnov 1939).
    """
    if not (len(first) and len(second)):
        return None
    ours, theirs = np.sort(first), np.sort(second)
    at = np.concatenate([ours, theirs])
    below_ours = np.searchsorted(ours, at, side="right") / len(ours)
    below_theirs = np.searchsorted(theirs, at, side="right") / len(theirs)
    return float(np.abs(below_ours - below_theirs).max())


def mask_iou(first: Labels, second: Labels) -> float:
    """Return the overlap of two label images' masks, each (H, W); 1 where both are empty."""
    ours, theirs = first > 0, second > 0
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def _pairs(
    connection: sa.Connection,
    models: tuple[str, str],
    *,
    session_id: int | None = None,
    frame_ids: Sequence[int] | None = None,
) -> list[Pair]:
    ours, theirs = (
        model_frames(connection, one, session_id=session_id, frame_ids=frame_ids)
        for one in models
    )
    return [
        (one, other)
        for one, other in zip(ours, theirs, strict=True)
        if one.result and other.result
    ]


def _compare_frame(connection: sa.Connection, pair: Pair) -> FrameComparison:
    labels = [decode_labels(read_labels(connection, frame)) for frame in pair]
    factor = shown_factor(labels[0].shape)
    frame = pair[0]
    return FrameComparison(
        frame_id=frame.id,
        number=frame.number,
        session_id=frame.session_id,
        unit=frame.unit,
        shown_factor=factor,
        iou=mask_iou(labels[0], labels[1]),
        looks=[
            _look(stored, found, factor)
            for stored, found in zip(pair, labels, strict=True)
        ],
    )


def _look(frame: StoredFrame, labels: Labels, factor: int) -> ModelLook:
    assert frame.result is not None
    sizes = _sizes(frame, frame.unit)
    drawn = outlines(labels, scale=1.0 / factor)
    return ModelLook(
        model_id=frame.result.model_id,
        particles=int(labels.max(initial=0)),
        counted=len(sizes),
        mean_diameter=_mean(sizes),
        covered=np.count_nonzero(labels) / labels.size,
        outlines=OutlinesAnswer(
            offsets=drawn.offsets.tolist(), points=drawn.points.ravel().tolist()
        ),
    )


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


def _sizes(frame: StoredFrame, unit: Unit) -> FloatArray:
    sizes = frame.diameters(unit)
    return sizes[np.isfinite(sizes)]


def _mean(sizes: FloatArray) -> float | None:
    return float(sizes.mean()) if len(sizes) else None
