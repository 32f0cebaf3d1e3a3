"""Which agents may deliver, how a new one is let in, and what each last said of itself.

Every function works inside the caller's transaction; `store.Store` opens it.
"""

import hashlib
import secrets
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from gpu_server.events import announce
from gpu_server.tables import agents, enrol_codes

CODE_LIFETIME_S = 600.0
CODE_TRIES = 5
"""Wrong codes after which every open code is void: guessing must not pay."""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent that may deliver."""

    id: int
    public_key: str
    name: str
    host: str


@dataclass(frozen=True, slots=True)
class AgentReport:
    """An agent's own account: discovered = stored + pending + vanished + rejected."""

    journal: str
    version: str
    host: str
    discovered: int
    stored: int
    pending: int
    vanished: int
    rejected: int
    pending_bytes: int = 0
    oldest_unsent_s: float | None = None
    problems: tuple[str, ...] = ()


def find(connection: sa.Connection, public_key: str) -> AgentRow | None:
    """Return the agent with this CURVE key (z85), unless unknown or revoked."""
    row = connection.execute(
        sa.select(agents.c.id, agents.c.public_key, agents.c.name, agents.c.host).where(
            agents.c.public_key == public_key, agents.c.revoked_at.is_(None)
        )
    ).first()
    return AgentRow(*row) if row else None


def enrol(
    connection: sa.Connection, public_key: str, name: str, host: str, *, at: float
) -> int:
    """Let this key deliver, again if it was revoked before; return the agent's id."""
    known = connection.execute(
        agents.update()
        .where(agents.c.public_key == public_key)
        .values(name=name, host=host, enrolled_at=at, revoked_at=None)
        .returning(agents.c.id)
    ).scalar()
    agent_id = (
        known
        or connection.execute(
            agents.insert()
            .values(
                public_key=public_key, name=name, host=host, enrolled_at=at, problems=[]
            )
            .returning(agents.c.id)
        ).scalar_one()
    )
    announce(connection, "agent", {"agent_id": agent_id, "change": "enrolled"}, at=at)
    return agent_id


def revoke(connection: sa.Connection, agent_id: int, *, at: float) -> bool:
    """Bar an agent's key; say whether there was one to bar."""
    barred = connection.execute(
        agents.update()
        .where(
            agents.c.id == agent_id,
            agents.c.public_key.is_not(None),
            agents.c.revoked_at.is_(None),
        )
        .values(revoked_at=at)
    ).rowcount
    if barred:
        announce(
            connection, "agent", {"agent_id": agent_id, "change": "revoked"}, at=at
        )
    return bool(barred)


def report(
    connection: sa.Connection, agent_id: int, told: AgentReport, *, at: float
) -> None:
    """Keep what an agent says of itself; problems that are new to us become an event."""
    before = connection.execute(
        sa.select(agents.c.problems).where(agents.c.id == agent_id)
    ).scalar_one()
    connection.execute(
        agents.update()
        .where(agents.c.id == agent_id)
        .values({**asdict(told), "problems": list(told.problems), "seen_at": at})
    )
    for problem in told.problems:
        if problem not in before:
            fact = {"agent_id": agent_id, "reason": problem}
            announce(connection, "problem", fact, at=at)


def new_code(connection: sa.Connection, *, at: float) -> str:
    """Make a one-time code that is good for ten minutes; only its hash is kept."""
    connection.execute(enrol_codes.delete().where(enrol_codes.c.expires_at < at))
    code = secrets.token_hex(8)
    connection.execute(
        enrol_codes.insert().values(sha256=_hash(code), expires_at=at + CODE_LIFETIME_S)
    )
    return code


def use_code(connection: sa.Connection, code: str, *, at: float) -> bool:
    """Spend a code; a wrong one counts against every code still open."""
    is_open = (
        enrol_codes.c.used_at.is_(None),
        enrol_codes.c.expires_at >= at,
        enrol_codes.c.tries < CODE_TRIES,
    )
    spent = connection.execute(
        enrol_codes.update()
        .where(enrol_codes.c.sha256 == _hash(code), *is_open)
        .values(used_at=at)
    ).rowcount
    if not spent:
        connection.execute(
            enrol_codes.update().where(*is_open).values(tries=enrol_codes.c.tries + 1)
        )
    return bool(spent)


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
