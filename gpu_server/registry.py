"""The models that this server may run: folders on disk, and rows that make them models.

A model is written into a staged folder, synced, renamed, and only then gets its row: what a kill
left behind has no row and is swept at the next start. Rows are never removed, so that every result
can say which model made it; a deleted model's row says when.
"""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from emcopilot.errors import EMcopilotError, ModelError
from gpu_server import promotion_rows
from gpu_server.database import Database
from gpu_server.events import announce, note
from gpu_server.model_files import (
    STAGED,
    Card,
    UnfitModelError,
    checked_card,
    copy_model,
    put_in_place,
    read_card,
    shipped_folders,
)
from gpu_server.store import Store
from gpu_server.tables import (
    AWAITING_OPERATOR,
    OPEN_JOB_STATES,
    domains,
    jobs,
    models,
)

log = logging.getLogger(__name__)

Source = Literal["adapted", "imported"]

GOLDEN = "golden"
"""Folder of what each model made of the golden frames, `MODEL_ID.npz`."""


class InUseError(EMcopilotError):
    """A model that is needed cannot be deleted."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model and where it comes from."""

    model_id: str
    source: str
    """shipped | adapted | imported"""
    folder: str
    sha256: str
    domain_id: int | None
    job_id: int | None
    added_at: float
    added_by: str
    verdict: str | None
    """promote | doubtful | reject, of the job's report; None: not judged."""
    tested_at: float | None
    deleted_at: float | None


class Registry:
    """The server's models; thread-safe, blocks for as long as the disk takes.

    Parameters
    ----------
    store : Store or Database
        The running server's store, or the database alone beside it. Models lie in the data
        directory's folder `models`.
    wall : callable
        Clock in seconds, for display.
    """

    def __init__(
        self, store: Store | Database, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.database = store.database if isinstance(store, Store) else store
        self.root = store.data_dir / "models"
        self.golden_root = store.data_dir / GOLDEN
        self.wall = wall
        self._files = threading.Lock()
        """Held from a look at a model's files to its row: two imports, or one and a deletion,
        must not take each other's files."""

    def open(self) -> None:
        """Sweep what a kill left half-written, and list the models that came with the product."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.golden_root.mkdir(parents=True, exist_ok=True)
        with self.database.read() as connection:
            rows = list(_rows(connection))
        kept = {row.folder for row in rows if row.deleted_at is None}
        deleted = {row.folder for row in rows} - kept
        for folder in list(self.root.iterdir()):
            if folder.name in deleted or folder.suffix == ".part":
                log.warning("left-over removed folder=%s", folder)
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name not in kept:
                self._set_aside(folder)
        for name, folder in shipped_folders():
            self._list_shipped(name, folder)

    def _set_aside(self, folder: Path) -> None:
        """Take a folder that no row names out of the way: its database may have been restored."""
        target = self.root.with_name(f"{self.root.name}-aside") / folder.name
        log.warning("folder without a row set aside to=%s; import it to use it", target)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        folder.replace(target)

    # Reading

    def live(self, connection: sa.Connection) -> str | None:
        """Return the id of the model that is live; None before the first start."""
        last = promotion_rows.last(connection)
        return last.model_id if last else None

    def find(self, connection: sa.Connection, model_id: str) -> StoredModel:
        """Return one model, deleted ones too.

        Raises
        ------
        LookupError
            If there never was such a model.
        """
        row = connection.execute(
            sa.select(models).where(models.c.model_id == model_id)
        ).first()
        if row is None:
            raise LookupError(f"there is no model {model_id}")
        return StoredModel(*row)

    def list(
        self, connection: sa.Connection, *, deleted: bool = False
    ) -> list[StoredModel]:
        """Return the models, the newest first; `deleted` brings those that are gone, too."""
        return [row for row in _rows(connection) if deleted or row.deleted_at is None]

    def folder(self, model_id: str) -> Path:
        """Return where a model's files lie.

        Raises
        ------
        LookupError
            If there never was such a model.
        ModelError
            If it is deleted, or its files are gone.
        """
        with self.database.read() as connection:
            return self.folder_of(self.find(connection, model_id))

    def folder_of(self, model: StoredModel) -> Path:
        """Return where the files of `model` lie; raises as `folder` does."""
        if model.deleted_at is not None:
            raise ModelError(
                f"model {model.model_id} was deleted; import it again, or choose another"
            )
        if model.source != "shipped":
            folder = self.root / model.folder
        else:
            folder = dict(shipped_folders()).get(model.folder, Path(model.folder))
        card = read_card(folder)
        if (card.model_id, card.sha256) != (model.model_id, model.sha256):
            raise ModelError(
                f"model {model.model_id} is gone: {folder} holds another one now, of another "
                "release or put there by hand; choose a model of `emcopilot models list`"
            )
        return folder

    def golden_file(self, model_id: str) -> Path:
        """Return where a model's answer to the golden frames is kept, there or not."""
        return self.golden_root / f"{model_id}.npz"

    def needed_for(self, connection: sa.Connection, model: StoredModel) -> str | None:
        """Say why a model cannot be deleted; None where it can."""
        if model.source == "shipped":
            return "it came with the product, and is what is left when all else fails"
        if model.model_id == self.live(connection):
            return "it is live; promote another one first"
        if model.model_id == promotion_rows.model_to_return_to(connection):
            return "a roll back would need it; promote another one first"
        return self._job_that_needs(connection, model)

    def _job_that_needs(
        self, connection: sa.Connection, model: StoredModel
    ) -> str | None:
        learning = sa.select(jobs.c.id).where(
            jobs.c.start_model == model.model_id, jobs.c.state.in_(OPEN_JOB_STATES)
        )
        if (job := connection.execute(learning.limit(1)).scalar()) is not None:
            return f"job {job} starts from it; wait for the job, or cancel it"
        making = sa.select(jobs.c.id).where(
            jobs.c.id == model.job_id, jobs.c.state.in_(OPEN_JOB_STATES)
        )
        if (job := connection.execute(making.limit(1)).scalar()) is not None:
            return f"job {job} made it and has not ended; wait for the job"
        offered = sa.select(jobs.c.id).where(
            jobs.c.candidate == model.model_id, jobs.c.state == AWAITING_OPERATOR
        )
        if (job := connection.execute(offered.limit(1)).scalar()) is not None:
            return f"it is the candidate of job {job}; turn it down first"
        return None

    # Changing

    def add(
        self,
        folder: Path,
        source: Source,
        who: str,
        *,
        job_id: int | None = None,
        domain_id: int | None = None,
        verdict: str | None = None,
        tested_at: float | None = None,
    ) -> str:
        """Copy a model directory into the registry and return its id.

        Adding the very same model again changes nothing but what is known of it; a deleted one
        comes back.

        Raises
        ------
        UnfitModelError
            If weights and card do not belong together, or the id is another model's.
        ModelError, StoreError
            If the disk does not take it; then nothing of it stays.
        """
        card = checked_card(folder)
        known: dict[str, object] = {
            "job_id": job_id,
            "domain_id": domain_id,
            "verdict": verdict,
            "tested_at": tested_at,
        }
        with self._files:
            self._require_same(card.model_id, card.sha256)
            place = self.root / card.model_id
            if not self._is_whole(place, card.sha256):
                staged = self.root / f"{uuid.uuid4().hex}{STAGED}"
                copy_model(folder, staged)
                put_in_place(staged, place)
            self._write_row(
                card, source, who, {k: v for k, v in known.items() if v is not None}
            )
        log.info("model added id=%s source=%s", card.model_id, source)
        return card.model_id

    def delete(self, model_id: str, who: str) -> None:
        """Take a model's files away; its row and every result it made stay.

        Raises
        ------
        LookupError
            If there is no such model.
        InUseError
            If it is live, a roll back or a job would need it, or it was shipped.
        """
        with self._files:
            folder = self._delete_row(model_id, who)
            # After the row: a kill in between leaves a folder without a model, swept at the start.
            shutil.rmtree(self.root / folder, ignore_errors=True)
            self.golden_file(model_id).unlink(missing_ok=True)

    def passed_test(self, connection: sa.Connection, model_id: str) -> None:
        """Write down that a model passed its self-test just now."""
        connection.execute(
            models.update()
            .where(models.c.model_id == model_id)
            .values(tested_at=self.wall())
        )

    def _delete_row(self, model_id: str, who: str) -> str:
        """Delete a model but for its files; return their folder's name."""
        at = self.wall()
        with self.database.write() as connection:
            model = self.find(connection, model_id)
            if model.deleted_at is not None:
                raise LookupError(f"model {model_id} is deleted already")
            if why := self.needed_for(connection, model):
                raise InUseError(f"model {model_id} cannot be deleted: {why}")
            connection.execute(
                models.update()
                .where(models.c.model_id == model_id)
                .values(deleted_at=at, tested_at=None)
            )
            connection.execute(
                domains.update()
                .where(domains.c.model_id == model_id)
                .values(model_id=None, selects_model=False)
            )
            note(connection, who, "delete model", f"model {model_id}", at=at)
            told = {"change": "deleted", "model_id": model_id, "who": who}
            announce(connection, "model", told, at=at)
        return model.folder

    def _write_row(
        self, card: Card, source: Source, who: str, known: dict[str, object]
    ) -> None:
        at = self.wall()
        fresh = {
            "model_id": card.model_id,
            "source": source,
            "folder": card.model_id,
            "sha256": card.sha256,
            "added_at": at,
            "added_by": who,
        }
        with self.database.write() as connection:
            connection.execute(
                insert(models)
                .values(**fresh, **known)
                .on_conflict_do_update(
                    index_elements=["model_id"],
                    set_={**known, "deleted_at": None},
                    where=models.c.source != "shipped",
                )
            )
            detail = {"source": source, "sha256": card.sha256, **known}
            subject = f"model {card.model_id}"
            note(connection, who, "add model", subject, at=at, detail=detail)
            told = {"change": "added", "model_id": card.model_id, "source": source}
            announce(connection, "model", {**told, **known}, at=at)

    def _require_same(self, model_id: str, sha256: str) -> None:
        with self.database.read() as connection:
            row = connection.execute(
                sa.select(models.c.sha256, models.c.source).where(
                    models.c.model_id == model_id
                )
            ).first()
        if row is not None and row.sha256 != sha256:
            raise UnfitModelError(
                f"model {model_id} is here with other weights (sha256 {row.sha256[:16]}..., "
                f"got {sha256[:16]}...); an id belongs to one model for good"
            )

    def _is_whole(self, place: Path, sha256: str) -> bool:
        try:
            return checked_card(place).sha256 == sha256
        except ModelError:
            return False

    def _list_shipped(self, name: str, folder: Path) -> None:
        try:
            card = checked_card(folder)
        except ModelError as error:
            log.error("shipped model unusable name=%s reason=%s", name, error)
            return
        row = {
            "model_id": card.model_id,
            "source": "shipped",
            "folder": name,
            "sha256": card.sha256,
            "added_at": self.wall(),
            "added_by": "server",
        }
        with self.database.write() as connection:
            connection.execute(
                insert(models)
                .values(**row)
                .on_conflict_do_update(
                    index_elements=["model_id"],
                    set_={
                        "source": "shipped",
                        "folder": name,
                        "sha256": card.sha256,
                        "deleted_at": None,
                    },
                )
            )


def _rows(connection: sa.Connection) -> list[StoredModel]:
    chosen = sa.select(models).order_by(models.c.added_at.desc(), models.c.model_id)
    return [StoredModel(*row) for row in connection.execute(chosen)]
