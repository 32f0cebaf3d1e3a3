"""What speaks against promoting a model that no operator trusted yet.

A verdict compares a candidate with one incumbent. Once another model is live it says nothing of
the two: of two candidates that both beat the same incumbent, one may be far worse than the other.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from emcopilot.errors import EMcopilotError, ModelError
from gpu_server import promotion_rows
from gpu_server.model_files import CARD_FILE
from gpu_server.registry import Registry, StoredModel
from gpu_server.tables import jobs


class NotSelectableError(EMcopilotError):
    """A domain cannot turn the server by itself to a model that takes a person's word."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a candidate's report says beside its verdict."""

    incumbent: str | None
    """Id of the model that it was judged against; None: nobody knows."""
    forgotten: tuple[str, ...] = ()
    """Earlier domains that it is worse on than that model."""


def objection(
    registry: Registry, connection: sa.Connection, model: StoredModel
) -> str | None:
    """Say what speaks against promoting a model, so that it takes an override; None: nothing."""
    live = registry.live(connection)
    if model.model_id == live or _is_trusted(connection, model):
        return None
    if model.verdict is None:
        return "nobody judged it"
    if model.verdict == "reject":
        return (
            "its report says reject: it is worse than the incumbent or than a classical cut, or "
            "its synthetic set is not to be trusted; the report's reasons say which"
        )
    found = judgement(registry, connection, model)
    return "; ".join(_doubts(found, live)) or None


def require_selectable(
    registry: Registry, connection: sa.Connection, model_id: str
) -> None:
    """Refuse a model that a return to its domain could not promote without a person.

    Whatever is live now: at a return another one will be, with which no report compared it.

    Raises
    ------
    NotSelectableError
        If no operator ever promoted it, or that was taken back.
    LookupError
        If there never was such a model.
    """
    if not _is_trusted(connection, registry.find(connection, model_id)):
        raise NotSelectableError(
            f"no domain can turn the server to {model_id} by itself: no operator promoted it so "
            "far, or that was rolled back; promote it once, or let the domain propose it "
            "(selects = false)"
        )


def _is_trusted(connection: sa.Connection, model: StoredModel) -> bool:
    return model.source == "shipped" or promotion_rows.was_trusted(
        connection, model.model_id
    )


def judgement(
    registry: Registry, connection: sa.Connection, model: StoredModel
) -> Judgement:
    """Return what a model was judged against and what it forgets, of its card.

    A card older than the first of these figures leaves it to the job, which was to start from the
    live model unless somebody named another.
    """
    report = _report(registry, model)
    incumbent = report.incumbent or _start_model(connection, model)
    forgotten = (one.domain for one in report.replay if one.is_forgotten)
    return Judgement(incumbent, tuple(forgotten))


def _doubts(found: Judgement, live: str | None) -> list[str]:
    doubts: list[str] = []
    if live is not None and found.incumbent not in {None, live}:
        doubts.append(
            f"it was judged against {found.incumbent}, but {live} is live now, which it was never "
            "compared with: run its job again from the live model"
        )
    if found.forgotten:
        doubts.append(
            f"it forgets what the model before it knew: {', '.join(found.forgotten)}"
        )
    return doubts


class _Kept(BaseModel):
    domain: str = "an earlier domain"
    is_forgotten: bool = False


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)

    incumbent: str | None = None
    replay: tuple[_Kept, ...] = ()


class _Data(BaseModel):
    verdict: _Report = _Report()


class _Card(BaseModel):
    data: _Data = _Data()


def _report(registry: Registry, model: StoredModel) -> _Report:
    """Read a model's card as far as it is a candidate's; what cannot be used says nothing."""
    try:
        card = (registry.folder_of(model) / CARD_FILE).read_bytes()
        return _Card.model_validate_json(card).data.verdict
    except (ModelError, OSError, ValidationError):
        return _Report()


def _start_model(connection: sa.Connection, model: StoredModel) -> str | None:
    started = sa.select(jobs.c.start_model).where(jobs.c.id == model.job_id)
    return connection.execute(started).scalar()
