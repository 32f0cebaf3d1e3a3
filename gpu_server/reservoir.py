"""Which domain a frame belongs to, and which frames stand for a domain.

The reservoir is a weighted random sample without replacement over all frames that ever joined
(Efraimidis & Spirakis, Inf. Process. Lett. 97 (2006) 181): each frame draws u^(1/w), u from its
own number, w its novelty among those that are there; the highest stay. So it is spread over time,
leans to looks that are rare, and comes out the same whenever the same frames arrive in one order.
Every function works inside the caller's transaction.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from emcopilot.domain import (
    JOINS,
    LooksArray,
    domain_scale,
    nearest,
    stacked,
)
from emcopilot.frame_look import FrameLook
from gpu_server.domains import SETTLED
from gpu_server.events import announce
from gpu_server.tables import PROCESSED, SUPERSEDED, domains, frames, looks, reservoir

MOST_KEPT = 200
"""Frames of one domain."""
_LOOKED_INTO = 6
"""Domains whose middle is nearest: only their frames are compared."""
_STAYS = 0.75
"""Of its distance, for the domain the session is in: a film changes rarely."""
_MOST_PROVISIONAL = 32
"""Unsettled domains kept; odd frames would otherwise pile up for ever."""
_MEMORY = 50
"""Frames over which a domain's usual look is meant."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the file says of a frame, None where it does not."""

    instrument: str | None = None
    modality: str | None = None
    pixel_band: int | None = None
    detector: str | None = None
    sample: str | None = None

    @classmethod
    def of(
        cls,
        instrument: str | None,
        modality: str | None,
        pixel_size_nm: tuple[float, float] | None,
        *,
        detector: str | None = None,
        sample: str | None = None,
    ) -> "Facts":
        """Take down what is known; sizes in octaves, as magnifications come."""
        band = (
            None
            if pixel_size_nm is None
            else math.floor(math.log2(math.sqrt(pixel_size_nm[0] * pixel_size_nm[1])))
        )
        return cls(instrument, modality, band, detector, sample)

    def allows(self, row: sa.Row) -> bool:
        """Say whether the frame may be of a domain; what is unknown forbids none."""
        told = (
            (self.instrument, row.instrument),
            (self.modality, row.modality),
            (self.pixel_band, row.pixel_band),
            (self.detector, row.detector),
            (self.sample, row.sample),
        )
        return all(None in pair or pair[0] == pair[1] for pair in told)


@dataclass(frozen=True, slots=True)
class Place:
    """The domain that a frame is nearest to."""

    domain_id: int
    distance: float
    """In the domain's scales; it belongs there up to `JOINS`."""
    looks: LooksArray
    """Of the domain's reservoir."""


def find_place(
    connection: sa.Connection,
    look: FrameLook,
    features: str,
    facts: Facts,
    current: int | None = None,
) -> Place | None:
    """Return the domain nearest to a frame, None where none may be it.

    Parameters
    ----------
    connection : Connection
    look : FrameLook
    features : str
        The network whose features it has.
    facts : Facts
    current : int, optional
        The domain of the session's last frame.
    """
    rows = connection.execute(
        sa.select(domains).where(domains.c.features == features)
    ).all()
    allowed = [row for row in rows if facts.allows(row)]
    allowed.sort(key=lambda row: _apart(look, FrameLook.from_bytes(row.look)))
    near = allowed[:_LOOKED_INTO]
    near += [row for row in allowed[_LOOKED_INTO:] if row.id == current]
    places = [_place(connection, look, row.id) for row in near]
    return min(
        places,
        key=lambda p: p.distance * (_STAYS if p.domain_id == current else 1.0),
        default=None,
    )


def join(
    connection: sa.Connection,
    frame_id: int,
    look: FrameLook,
    place: Place | None,
    *,
    features: str,
    facts: Facts,
    at: float,
) -> int:
    """Put a frame without flaws into its domain, a new one if need be; return the domain's id."""
    kept = place.looks if place else stacked([])
    if place is None or place.distance > JOINS:
        domain_id = _open(connection, look, features, facts, at)
        kept = stacked([])
    else:
        domain_id = place.domain_id
    _count(connection, domain_id, look, facts, at)
    rank = drawn_rank(frame_id, look, kept)
    connection.execute(
        reservoir.insert().values(
            domain_id=domain_id,
            frame_id=frame_id,
            rank=rank,
            look=look.to_bytes(),
            added_at=at,
        )
    )
    _evict(connection, domain_id)
    return domain_id


def drawn_rank(frame_id: int, look: FrameLook, kept: LooksArray) -> float:
    """Return a frame's rank, 0..1: random by its number, higher where it is unlike the rest."""
    digest = hashlib.sha256(f"reservoir {frame_id}".encode()).digest()
    chance = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 1)
    novelty = nearest(look, kept) / domain_scale(kept) if len(kept) else 1.0
    return chance ** (1.0 / min(max(novelty**2, 0.1), 9.0))


def _apart(one: FrameLook, other: FrameLook) -> float:
    return float(np.linalg.norm(one.network - other.network))


def _place(connection: sa.Connection, look: FrameLook, domain_id: int) -> Place:
    kept = reservoir_looks(connection, domain_id)
    return Place(domain_id, nearest(look, kept) / domain_scale(kept), kept)


def reservoir_looks(connection: sa.Connection, domain_id: int) -> LooksArray:
    """Return the looks of a domain's reservoir, oldest first, shape (N, LOOK_WIDTH)."""
    found = connection.execute(
        sa.select(reservoir.c.look)
        .where(reservoir.c.domain_id == domain_id)
        .order_by(reservoir.c.frame_id)
    ).scalars()
    return stacked([FrameLook.from_bytes(content) for content in found])


def _open(
    connection: sa.Connection,
    look: FrameLook,
    features: str,
    facts: Facts,
    at: float,
) -> int:
    _drop_provisional(connection)
    return connection.execute(
        domains.insert()
        .values(
            name=made_name(look, facts),
            instrument=facts.instrument,
            modality=facts.modality,
            detector=facts.detector,
            sample=facts.sample,
            pixel_band=facts.pixel_band,
            created_at=at,
            seen_at=at,
            features=features,
            look=look.to_bytes(),
        )
        .returning(domains.c.id)
    ).scalar_one()


def made_name(look: FrameLook, facts: Facts) -> str:
    """Make a name of what is known of a domain's first frame; the operator may give another."""
    tone = "bright" if look["polarity"] > 0 else "dark"
    told = [facts.modality or f"{tone} on {'dark' if tone == 'bright' else 'bright'}"]
    if facts.pixel_band is not None:
        told.append(
            f"{2.0**facts.pixel_band:.2g}–{2.0 ** (facts.pixel_band + 1):.2g} nm/px"
        )
    else:
        told.append(f"features of {2.0 ** look['grain_px']:.0f} px")
    detector = facts.detector if facts.detector != facts.modality else None
    told += [name for name in (detector, facts.instrument, facts.sample) if name]
    return ", ".join(told)


def _count(
    connection: sa.Connection, domain_id: int, look: FrameLook, facts: Facts, at: float
) -> None:
    row = connection.execute(sa.select(domains).where(domains.c.id == domain_id)).one()
    count = row.frame_count + 1
    weight = 1.0 / min(count, _MEMORY)
    before = FrameLook.from_bytes(row.look).vector
    mean = FrameLook((before + weight * (look.vector - before)).astype(np.float32))
    connection.execute(
        domains.update()
        .where(domains.c.id == domain_id)
        .values(
            frame_count=count,
            seen_at=at,
            look=mean.to_bytes(),
            # What the first frames did not say, later ones may: it is told apart from then on.
            instrument=row.instrument or facts.instrument,
            modality=row.modality or facts.modality,
            detector=row.detector or facts.detector,
            sample=row.sample or facts.sample,
            pixel_band=facts.pixel_band if row.pixel_band is None else row.pixel_band,
        )
    )
    if count == SETTLED:
        told = {"domain_id": domain_id, "change": "opened", "name": row.name}
        announce(connection, "domain", told, at=at)


def _evict(connection: sa.Connection, domain_id: int) -> None:
    """Take out what is no frame any more, then the lowest ranks beyond the bound."""
    of_domain = reservoir.c.domain_id == domain_id
    # Asked of each frame that is kept, not of all superseded ones: there may be as many as frames.
    is_gone = sa.exists().where(
        frames.c.id == reservoir.c.frame_id, frames.c.state == SUPERSEDED
    )
    connection.execute(reservoir.delete().where(of_domain, is_gone))
    is_out = sa.or_(frames.c.state != PROCESSED, frames.c.rejected_at.is_not(None))
    surplus = (
        sa.select(reservoir.c.frame_id)
        .join(frames, frames.c.id == reservoir.c.frame_id)
        .where(of_domain)
        # Rejected ones first; they stay while there is room, for a rejection may be taken back.
        .order_by(is_out, reservoir.c.rank.desc())
        .limit(-1)
        .offset(MOST_KEPT)
    )
    connection.execute(
        reservoir.delete().where(of_domain, reservoir.c.frame_id.in_(surplus))
    )


def _drop_provisional(connection: sa.Connection) -> None:
    """Forget the oldest unsettled domains; their frames stay, without a domain."""
    old = list(
        connection.execute(
            sa.select(domains.c.id)
            .where(domains.c.frame_count < SETTLED)
            .order_by(domains.c.seen_at.desc(), domains.c.id.desc())
            .limit(-1)
            .offset(_MOST_PROVISIONAL - 1)
        ).scalars()
    )
    if not old:
        return
    connection.execute(
        looks.update().where(looks.c.domain_id.in_(old)).values(domain_id=None)
    )
    connection.execute(reservoir.delete().where(reservoir.c.domain_id.in_(old)))
    connection.execute(domains.delete().where(domains.c.id.in_(old)))
