"""Two models side by side: their outlines on the same frames."""

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from emcopilot.label_image import decode_labels
from emcopilot.labels import Labels
from emcopilot.messages import Unit
from emcopilot.model_messages import (
    CompareAnswer,
    FrameComparison,
    ModelLook,
    OutlinesAnswer,
)
from emcopilot.outlines import outlines
from gpu_server.particle_rows import read_labels
from gpu_server.picture import shown_factor
from gpu_server.queries import StoredFrame, model_frames

FloatArray = NDArray[np.float64]
Pair = tuple[StoredFrame, StoredFrame]


def compare_frames(
    connection: sa.Connection, models: tuple[str, str], frame_ids: Sequence[int]
) -> CompareAnswer:
    """Show both models on the frames that both have computed, in the order given."""
    pairs = _pairs(connection, models, frame_ids)
    order = {frame_id: place for place, frame_id in enumerate(frame_ids)}
    pairs.sort(key=lambda pair: order[pair[0].id])
    shown = [_compare_frame(connection, pair) for pair in pairs]
    return CompareAnswer(
        models=list(models),
        frames=shown,
        mean_iou=float(np.mean([one.iou for one in shown])) if shown else None,
        missing=len(frame_ids) - len(shown),
    )


def mask_iou(first: Labels, second: Labels) -> float:
    """Return the overlap of two label images' masks, each (H, W); 1 where both are empty."""
    ours, theirs = first > 0, second > 0
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def _pairs(
    connection: sa.Connection, models: tuple[str, str], frame_ids: Sequence[int]
) -> list[Pair]:
    ours, theirs = (model_frames(connection, one, frame_ids) for one in models)
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


def _sizes(frame: StoredFrame, unit: Unit) -> FloatArray:
    sizes = frame.diameters(unit)
    return sizes[np.isfinite(sizes)]


def _mean(sizes: FloatArray) -> float | None:
    return float(sizes.mean()) if len(sizes) else None
