"""Domains as the operator sees them: what is known of each, its name, its model, its frames.

A domain opens with its first frame and is settled with its third: until then it may be one odd
frame and is shown to nobody. Every function works inside the caller's transaction; who changes
something leaves a line in the audit and an event.
"""

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from gpu_server.events import announce, note
from gpu_server.tables import (
    PROCESSED,
    audit,
    domains,
    files,
    frames,
    looks,
    models,
    reservoir,
)

SETTLED = 3
"""Frames that agree, before a domain is one."""
RECENT = 200
"""Last frames of a session or domain over which flaws are told."""
_REMEMBER = "remember model"
"""The audit's word for a person's choice."""


@dataclass(frozen=True, slots=True)
class DomainRow:
    """One settled domain."""

    id: int
    name: str
    instrument: str | None
    modality: str | None
    detector: str | None
    sample: str | None
    pixel_band: int | None
    """floor(log2(pixel size in nm)); None: unknown."""
    created_at: float
    seen_at: float
    frame_count: int
    """Frames that ever joined."""
    reservoir_count: int
    """Frames that a job could learn from now."""
    features: str
    look: bytes
    """`FrameLook.to_bytes()` of the usual frame."""
    model_id: str | None
    """The model that was promoted for it."""
    selects_model: bool
    """Whether its frames turn the server to that model without being asked."""

    @property
    def key(self) -> str:
        """What tells it from all domains, here and where a model may come from or go to."""
        # Names may be alike; numbers are another server's, too, from which models are imported.
        return f"domain {self.id} of {self.created_at:.3f}"

    @property
    def pixel_sizes_nm(self) -> tuple[float, float] | None:
        """The octave that its pixel sizes lie in; None: unknown."""
        band = self.pixel_band
        return None if band is None else (2.0**band, 2.0 ** (band + 1))


@dataclass(frozen=True, slots=True)
class ReservoirFrame:
    """One frame that a job may learn from, and where its bytes lie."""

    frame_id: int
    sha256: str
    name: str
    page: int


def domain_list(connection: sa.Connection) -> list[DomainRow]:
    """Return all settled domains, the last seen first."""
    found = connection.execute(_DOMAINS.order_by(domains.c.seen_at.desc()))
    return [DomainRow(**row) for row in found.mappings()]


def domain(connection: sa.Connection, domain_id: int) -> DomainRow | None:
    """Return one settled domain, None where there is none."""
    row = connection.execute(_DOMAINS.where(domains.c.id == domain_id)).mappings()
    found = row.first()
    return DomainRow(**found) if found else None


def reservoir_frames(
    connection: sa.Connection, domain_id: int, limit: int | None = None
) -> list[ReservoirFrame]:
    """Return frames that stand for the domain, oldest first; of more than `limit`, evenly spread.

    Rejected and superseded frames are never among them.
    """
    found = connection.execute(
        sa.select(frames.c.id, files.c.sha256, files.c.name, frames.c.page)
        .join_from(reservoir, frames, frames.c.id == reservoir.c.frame_id)
        .join(files, files.c.id == frames.c.file_id)
        .where(reservoir.c.domain_id == domain_id, _IS_OF_USE)
        .order_by(frames.c.id)
    ).all()
    rows = list(found)
    if limit is not None and len(found) > limit:
        places = np.linspace(0, len(found) - 1, max(limit, 0)).round().astype(int)
        rows = [rows[place] for place in places.tolist()]
    return [ReservoirFrame(row.id, row.sha256, row.name, row.page) for row in rows]


def flaws(connection: sa.Connection, domain_id: int) -> dict[str, int]:
    """Count, by flaw, frames left out lately in the sessions that show the domain."""
    of_domain = (
        sa.select(frames.c.session_id)
        .join(looks, looks.c.frame_id == frames.c.id)
        .where(looks.c.domain_id == domain_id)
        .order_by(frames.c.id.desc())
        .limit(RECENT)
    )
    lately = (
        sa.select(looks.c.flaw)
        .join(frames, frames.c.id == looks.c.frame_id)
        .where(frames.c.session_id.in_(of_domain))
        .order_by(frames.c.id.desc())
        .limit(RECENT)
        .subquery()
    )
    counted = connection.execute(
        sa.select(lately.c.flaw, sa.func.count().label("frames"))
        .where(lately.c.flaw.is_not(None))
        .group_by(lately.c.flaw)
    )
    return {row.flaw: row.frames for row in counted}


def rename(
    connection: sa.Connection, domain_id: int, name: str, who: str, *, at: float
) -> int:
    """Give a domain the operator's name; return the event's id.

    Raises
    ------
    LookupError
        If there is no such domain.
    """
    _change(connection, domain_id, {"name": name})
    detail = {"name": name}
    note(connection, who, "rename domain", f"domain {domain_id}", at=at, detail=detail)
    told = {"domain_id": domain_id, "change": "renamed", **detail}
    return announce(connection, "domain", told, at=at)


def remember_model(
    connection: sa.Connection,
    domain_id: int,
    model_id: str | None,
    selects: bool,
    *,
    who: str,
    at: float,
) -> int:
    """Let a domain remember its model, None for none; return the event's id.

    Parameters
    ----------
    connection : Connection
    domain_id : int
    model_id : str or None
    selects : bool
        Whether going back to the domain turns to the model, or proposes it.
    who : str
    at : float

    Raises
    ------
    LookupError
        If there is no such domain, or no such model, or it was deleted.
    """
    if model_id is not None:
        known = sa.select(models.c.model_id).where(
            models.c.model_id == model_id, models.c.deleted_at.is_(None)
        )
        if connection.execute(known).first() is None:
            raise LookupError(f"there is no model {model_id}")
    values = {"model_id": model_id, "selects_model": selects and model_id is not None}
    _change(connection, domain_id, values)
    note(connection, who, _REMEMBER, f"domain {domain_id}", at=at, detail=values)
    told = {"domain_id": domain_id, "change": "remembers", **values}
    return announce(connection, "domain", told, at=at)


def chosen_since(
    connection: sa.Connection, domain_id: int, line: int
) -> dict[str, object] | None:
    """Return what a person last let a domain remember, as columns of it; None: nobody did.

    The audit tells it, after its line `line`: the domain's own row tells promotions, too.
    """
    chosen = (
        sa.select(audit.c.detail)
        .where(
            audit.c.id > line,
            audit.c.action == _REMEMBER,
            audit.c.subject == f"domain {domain_id}",
        )
        .order_by(audit.c.id.desc())
        .limit(1)
    )
    return connection.execute(chosen).scalar()


def domain_of_frame(connection: sa.Connection, frame_id: int) -> int | None:
    """Return the domain that a frame joined, settled or not."""
    return connection.execute(
        sa.select(looks.c.domain_id).where(looks.c.frame_id == frame_id)
    ).scalar()


def _change(
    connection: sa.Connection, domain_id: int, values: dict[str, object]
) -> None:
    changed = connection.execute(
        domains.update()
        .where(domains.c.id == domain_id, domains.c.frame_count >= SETTLED)
        .values(**values)
    )
    if not changed.rowcount:
        raise LookupError(f"there is no domain {domain_id}")


_IS_OF_USE = sa.and_(frames.c.state == PROCESSED, frames.c.rejected_at.is_(None))
_DOMAINS = sa.select(
    domains,
    sa.select(sa.func.count())
    .select_from(reservoir.join(frames, frames.c.id == reservoir.c.frame_id))
    .where(reservoir.c.domain_id == domains.c.id, _IS_OF_USE)
    .scalar_subquery()
    .label("reservoir_count"),
).where(domains.c.frame_count >= SETTLED)
