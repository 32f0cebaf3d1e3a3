"""The history of what was live: one row a change, the last one holds.

A roll back undoes the last promotion that is not undone yet, as an undo key does: pressed twice it
goes two models back, and never forth again; forth one goes by promoting. It is a row itself, which
names the promotion it takes back. Every function works inside the caller's transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from gpu_server.domains import chosen_since
from gpu_server.events import announce, note
from gpu_server.tables import (
    AWAITING_OPERATOR,
    PROMOTED,
    audit,
    domains,
    jobs,
    models,
    promotions,
)

SETTINGS = "settings"
"""Who promotes what the settings name, at a start."""
SERVER = "server"
"""Who promotes another model at a start because the live one is gone."""
_PROMOTE, _ROLL_BACK = "promote model", "roll back model"
_NOTHING: dict[str, object] = {"model_id": None, "selects_model": False}
"""What a domain remembers that remembers no model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the live model."""

    id: int
    model_id: str
    replaced: str | None
    """What was live before; None: nothing, or the same model."""
    undoes: int | None
    at: float
    who: str
    reason: str


_later, _undone = promotions.alias("later"), promotions.alias("undone")
_STANDS = ~sa.exists().where(
    _later.c.id > promotions.c.id,
    _later.c.undoes == _undone.c.id,
    sa.or_(
        _undone.c.id <= promotions.c.id,
        _undone.c.model_id == promotions.c.model_id,
    ),
)
"""Of a change: no later roll back goes back to before it, nor takes its model off."""


def last(connection: sa.Connection) -> Change | None:
    """Return the change that holds; None before the first start."""
    newest = sa.select(promotions).order_by(promotions.c.id.desc()).limit(1)
    row = connection.execute(newest).first()
    return Change(*row) if row else None


def history(connection: sa.Connection, limit: int | None = None) -> list[Change]:
    """Return the changes, the newest first."""
    chosen = sa.select(promotions).order_by(promotions.c.id.desc()).limit(limit)
    return [Change(*row) for row in connection.execute(chosen)]


def not_taken_back(connection: sa.Connection) -> list[Change]:
    """Return the changes without those that a roll back took with it, the newest first.

    It takes the promotion that it undoes and whatever confirmed that since; it stands itself, for
    the model that it brought back, until that one is taken back in turn.
    """
    chosen = sa.select(promotions).where(_STANDS).order_by(promotions.c.id.desc())
    return [Change(*row) for row in connection.execute(chosen)]


def standing(connection: sa.Connection) -> Change | None:
    """Return the promotion that a roll back would undo; None where there is none.

    What the server turned to by itself, nobody chose: undone is the choice before.
    """
    undone = sa.select(promotions.c.undoes).where(promotions.c.undoes.is_not(None))
    chosen = (
        sa.select(promotions)
        .where(
            promotions.c.undoes.is_(None),
            promotions.c.replaced.is_not(None),
            promotions.c.who != SERVER,
            promotions.c.id.not_in(undone),
        )
        .order_by(promotions.c.id.desc())
        .limit(1)
    )
    row = connection.execute(chosen).first()
    return Change(*row) if row else None


def model_to_return_to(connection: sa.Connection) -> str | None:
    """Return the model that a roll back would make live; None where there is none."""
    change = standing(connection)
    return change.replaced if change else None


def was_trusted(connection: sa.Connection, model_id: str) -> bool:
    """Say whether an operator promoted this model before and nobody took that back.

    What the server turned to because the live one was gone, no operator trusted.
    """
    chosen = sa.select(promotions.c.id).where(
        promotions.c.model_id == model_id,
        promotions.c.undoes.is_(None),
        promotions.c.who != SERVER,
        _STANDS,
    )
    return connection.execute(chosen.limit(1)).first() is not None


def record(
    connection: sa.Connection,
    model_id: str,
    who: str,
    *,
    at: float,
    reason: str = "",
    undoes: int | None = None,
    detail: Mapping[str, object] | None = None,
) -> Change:
    """Make a model the live one: row, job, domain, audit and event, all or nothing.

    One that is live already replaces nothing: there is nothing that a roll back could bring.
    """
    before = last(connection)
    values = {
        "model_id": model_id,
        "replaced": before.model_id if before and before.model_id != model_id else None,
        "undoes": undoes,
        "at": at,
        "who": who,
        "reason": reason,
    }
    row = connection.execute(
        promotions.insert().values(**values).returning(promotions.c.id)
    ).scalar_one()
    change = Change(id=row, **values)
    noted = dict(detail or {})
    if undoes is None:
        _settle_job(connection, model_id, at=at)
        noted["remembered"] = _remember(connection, model_id)
    else:
        _forget(connection, change)
    action = _PROMOTE if undoes is None else _ROLL_BACK
    told = {
        "promotion": change.id,
        "replaced": change.replaced,
        "undoes": undoes,
        "reason": reason,
        **(detail or {}),
    }
    subject = f"model {model_id}"
    note(connection, who, action, subject, at=at, detail={**told, **noted})
    kind = "promoted" if undoes is None else "rolled back"
    event = {"change": kind, "model_id": model_id, "who": who, **told}
    announce(connection, "model", event, at=at)
    return change


def _settle_job(connection: sa.Connection, model_id: str, *, at: float) -> None:
    """Mark the job that left this candidate as promoted."""
    changed = connection.execute(
        jobs.update()
        .where(jobs.c.candidate == model_id, jobs.c.state == AWAITING_OPERATOR)
        .values(state=PROMOTED)
        .returning(jobs.c.id, jobs.c.domain_id)
    ).all()
    for job in changed:
        told = {"job_id": job.id, "domain_id": job.domain_id, "state": PROMOTED}
        announce(connection, "job", {**told, "candidate": model_id}, at=at)


def _remember(connection: sa.Connection, model_id: str) -> dict[str, object]:
    """Let the domain that a model learnt know it: going back there proposes it.

    Returns what it remembered before, by the domain's id; JSON has keys of text.
    """
    learnt = sa.select(models.c.domain_id).where(models.c.model_id == model_id)
    of_model = domains.c.id == learnt.scalar_subquery()
    memory = sa.select(domains.c.id, domains.c.model_id, domains.c.selects_model)
    row = connection.execute(memory.where(of_model)).mappings().first()
    if row is None:
        return {}
    connection.execute(domains.update().where(of_model).values(model_id=model_id))
    before = dict(row)
    return {str(before.pop("id")): before}


def _forget(connection: sa.Connection, change: Change) -> None:
    """Let domains that remember the model taken back remember what they had before it.

    What a person let one remember since stays, for a roll back says nothing of that choice; but
    that its frames turn the server to the very model taken back, no roll back leaves so.
    """
    # Not what was live last: the server may have turned to another by itself since.
    undone = sa.select(promotions.c.model_id).where(promotions.c.id == change.undoes)
    taken_back = connection.execute(undone).scalar_one()
    line, remembered = _noted(connection, change, taken_back)
    for domain_id in connection.scalars(
        sa.select(domains.c.id).where(domains.c.model_id == taken_back)
    ).all():
        before = chosen_since(connection, domain_id, line)
        before = before or remembered.get(str(domain_id))
        if before is None or before["model_id"] == taken_back:
            before = {"selects_model": False}
        elif _is_gone(connection, before["model_id"]):
            before = _NOTHING
        connection.execute(
            domains.update().where(domains.c.id == domain_id).values(**before)
        )


def _noted(
    connection: sa.Connection, change: Change, taken_back: str
) -> tuple[int, dict[str, dict[str, object]]]:
    """Return the audit's line of the promotion taken back, and what domains remembered before."""
    row = connection.execute(
        sa.select(audit.c.id, audit.c.detail).where(
            audit.c.action == _PROMOTE,
            audit.c.subject == f"model {taken_back}",
            audit.c.detail["promotion"].as_integer() == change.undoes,
        )
    ).first()
    return (row.id, row.detail.get("remembered", {})) if row else (0, {})


def _is_gone(connection: sa.Connection, model_id: object) -> bool:
    deleted = sa.select(models.c.model_id).where(
        models.c.model_id == model_id, models.c.deleted_at.is_not(None)
    )
    return connection.execute(deleted).first() is not None
