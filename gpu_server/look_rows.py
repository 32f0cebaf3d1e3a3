"""Rows of `looks`: how each frame looked when it was processed."""

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from gpu_server.tables import frames, looks


@dataclass(frozen=True, slots=True)
class FrameRow:
    """What a look needs of its frame's row."""

    frame_id: int
    session_id: int
    state: str
    is_rejected: bool
    at: float
    """When it was processed."""


@dataclass(frozen=True, slots=True)
class KnownLook:
    """A look that was saved before."""

    domain_id: int | None
    flaw: str | None


def frame_row(connection: sa.Connection, frame_id: int) -> FrameRow | None:
    """Return a frame's row, None where it is gone."""
    row = connection.execute(sa.select(frames).where(frames.c.id == frame_id)).first()
    if row is None:
        return None
    return FrameRow(
        row.id,
        row.session_id,
        row.state,
        row.rejected_at is not None,
        row.processed_at or time.time(),
    )


def known_look(connection: sa.Connection, frame_id: int) -> KnownLook | None:
    """Return the look that an earlier processing of the frame left."""
    row = connection.execute(sa.select(looks).where(looks.c.frame_id == frame_id))
    found = row.first()
    return KnownLook(found.domain_id, found.flaw) if found else None


def save_look(
    connection: sa.Connection,
    frame_id: int,
    *,
    domain_id: int | None,
    flaw: str | None,
    distance: float | None,
    model_id: str,
) -> None:
    """Write a frame's look, or write it anew."""
    values = {
        "domain_id": domain_id,
        "flaw": flaw,
        "distance": distance,
        "model_id": model_id,
    }
    connection.execute(
        insert(looks)
        .values(frame_id=frame_id, **values)
        .on_conflict_do_update(index_elements=["frame_id"], set_=values)
    )
