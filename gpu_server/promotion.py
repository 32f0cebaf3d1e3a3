"""Making a candidate live, and taking that back.

The new child starts beside the live one, warms up and passes its self-test; then the row is
committed; then the queue turns to it between two batches. Stopped before the row, the live model
is what it was; stopped after it, the next start runs what the row says.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from emcopilot.errors import EMcopilotError, ModelError
from gpu_server import promotion_rows
from gpu_server.golden import golden_frames, self_test, write_masks
from gpu_server.inference_child import InferenceSpec
from gpu_server.model_files import checked_card
from gpu_server.objections import objection
from gpu_server.promotion_rows import Change
from gpu_server.registry import Registry, StoredModel
from gpu_server.segment import Commit, Trial

log = logging.getLogger(__name__)


class BusyError(EMcopilotError):
    """Another promotion is under way; one at a time."""


class NeedsOverrideError(EMcopilotError):
    """What is known of a candidate speaks against it; a person may overrule that."""


class NothingToUndoError(EMcopilotError):
    """There is no promotion that a roll back could take back."""


class Swapping(Protocol):
    """Whatever can turn to another model between two batches: the segmenter."""

    async def swap(self, spec: InferenceSpec, commit: Commit | None = None) -> None:
        """Start and warm a child, have it committed, turn to it."""
        ...


class Promotion:
    """Promotes and rolls back, one at a time, for a running server.

    Parameters
    ----------
    registry : Registry
    segmenter : Swapping
        The live queue.
    spec_of : callable
        Returns what a child loads to run the model in a folder.
    announce : callable
        Tells viewers that there are new events.
    """

    def __init__(
        self,
        registry: Registry,
        segmenter: Swapping,
        spec_of: Callable[[Path], InferenceSpec],
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._segmenter = segmenter
        self._spec_of = spec_of
        self._announce = announce
        self._under_way: asyncio.Task[Change] | None = None
        self.doing: str | None = None
        """Who is doing what just now, for people; None: nobody anything."""

    async def promote(
        self, model_id: str, who: str, *, override: bool = False, reason: str = ""
    ) -> Change:
        """Make a model live; answers once frames go to it. Live already: nothing changes.

        Parameters
        ----------
        override : bool
            Promote it although something speaks against it: see `gpu_server.objections`.

        Raises
        ------
        BusyError
            If another promotion is under way; the message names it.
        NeedsOverrideError
            If it needs `override`, and why.
        LookupError
            If there is no such model.
        ConfigError, ModelError
            If its files are gone or do not work; the live model goes on.
        """
        deed = self._promote(model_id, who, override=override, reason=reason)
        return await self._alone(f"{who} is promoting {model_id}", deed)

    async def rollback(self, who: str, *, reason: str = "") -> Change:
        """Make the model live that was so before the last promotion not yet undone.

        Twice goes two back; what was undone is not done again, it is promoted again.

        Raises
        ------
        BusyError
            If another promotion is under way; the message names it.
        NothingToUndoError
            If no promotion is left to undo.
        ConfigError, ModelError
            If that model's files are gone or do not work; the live one goes on.
        """
        return await self._alone(f"{who} is rolling back", self._rollback(who, reason))

    async def close(self) -> None:
        """Stop what is under way; the next start runs what the last row says."""
        if self._under_way:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)

    async def _alone(self, doing: str, deed: Coroutine[None, None, Change]) -> Change:
        if self._under_way:
            deed.close()
            raise BusyError(
                f"{self.doing} just now; look at the outcome, then try again"
            )
        self.doing = doing
        task = self._under_way = asyncio.ensure_future(deed)
        task.add_done_callback(self._ended)
        # A browser that goes away meanwhile must not leave half a promotion.
        return await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[Change]") -> None:
        self._under_way = self.doing = None
        if not task.cancelled() and (error := task.exception()):
            log.warning("promotion refused reason=%s", error)
        self._announce()

    async def _promote(
        self, model_id: str, who: str, *, override: bool, reason: str
    ) -> Change:
        model, live = await asyncio.to_thread(
            self._look_up, model_id, override=override
        )
        if live:
            return live

        def record(connection: sa.Connection) -> Change:
            # Again, under the writer's lock: it may have been deleted meanwhile.
            found = self._registry.find(connection, model_id)
            self._registry.folder_of(found)
            detail = {"verdict": found.verdict, "override": override}
            return promotion_rows.record(
                connection,
                model_id,
                who,
                at=self._registry.wall(),
                reason=reason,
                detail=detail,
            )

        return await self._swap(model, record)

    async def _rollback(self, who: str, reason: str) -> Change:
        change, model = await asyncio.to_thread(self._look_back)

        def record(connection: sa.Connection) -> Change:
            return promotion_rows.record(
                connection,
                model.model_id,
                who,
                at=self._registry.wall(),
                reason=reason,
                undoes=change.id,
            )

        return await self._swap(model, record)

    async def _swap(
        self, model: StoredModel, record: Callable[[sa.Connection], Change]
    ) -> Change:
        folder = self._registry.folder_of(model)
        card = await asyncio.to_thread(checked_card, folder)
        made: list[Change] = []

        async def commit(trial: Trial) -> None:
            if trial.model_id != card.model_id:
                raise ModelError(
                    f"the child runs {trial.model_id}, asked for was {card.model_id}"
                )
            await asyncio.to_thread(golden_frames)  # drawn once, off the event loop
            masks = await self_test(trial.segment)
            await asyncio.to_thread(
                write_masks, self._registry.golden_file(card.model_id), masks
            )
            made.append(await asyncio.to_thread(self._write, card.model_id, record))

        await self._segmenter.swap(self._spec_of(folder), commit)
        log.info("model live id=%s replaced=%s", card.model_id, made[0].replaced)
        return made[0]

    def _write(
        self, model_id: str, record: Callable[[sa.Connection], Change]
    ) -> Change:
        with self._registry.database.write() as connection:
            self._registry.passed_test(connection, model_id)
            return record(connection)

    def _look_up(
        self, model_id: str, *, override: bool
    ) -> tuple[StoredModel, Change | None]:
        with self._registry.database.read() as connection:
            model = self._registry.find(connection, model_id)
            change = promotion_rows.last(connection)
            if change and change.model_id == model_id:
                return model, change
            why = objection(self._registry, connection, model)
        if why and not override:
            raise NeedsOverrideError(
                f"model {model_id} is not promoted: {why}; compare it on recent frames, and if "
                "you still want it, promote it with override = true and a reason"
            )
        return model, None

    def _look_back(self) -> tuple[Change, StoredModel]:
        with self._registry.database.read() as connection:
            change = promotion_rows.standing(connection)
            if change is None or change.replaced is None:
                raise NothingToUndoError(
                    "no promotion is left to roll back; promote the model that you want"
                )
            return change, self._registry.find(connection, change.replaced)
