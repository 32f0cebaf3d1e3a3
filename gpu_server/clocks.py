"""How far the microscopes' clocks are off, from the files that they sent.

A file is complete by the agent's clock and arrives by ours. Delivery takes some time, which is
never less than none: the quickest of the last files says by how much, at least, a clock runs
ahead. A clock that is behind looks like files that waited for the network, so nothing is said.
"""

import sqlalchemy as sa

from gpu_server.tables import agents, files

_FILES = 50


def clocks_ahead_s(connection: sa.Connection) -> dict[int, float]:
    """Return by agent how many seconds, at least, its clock is ahead; others are left out."""
    found: dict[int, float] = {}
    enrolled = sa.select(agents.c.id).where(agents.c.public_key.is_not(None))
    for agent_id in connection.scalars(enrolled).all():
        took = (
            sa.select((files.c.received_at - files.c.sealed_at).label("took_s"))
            .where(files.c.agent_id == agent_id)
            .order_by(files.c.id.desc())
            .limit(_FILES)
            .subquery()
        )
        quickest = connection.execute(sa.select(sa.func.min(took.c.took_s))).scalar()
        if quickest is not None and quickest < 0:
            found[agent_id] = -quickest
    return found
