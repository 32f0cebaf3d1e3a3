"""Which model is live when the server starts.

The last promotion holds. `segment.model` of the settings decides the very first start, and again
whenever it names another model than at the start before: then it is a promotion like any other, by
"settings", and can be rolled back. Where the live model cannot be loaded, the one before it is
tried, and so on down to those that came with the product, leaving out what was rolled back; the
row says that the server did it. The next start tries what people promoted once more: the disk may
be back, the memory free.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emcopilot.errors import ModelError
from gpu_server import promotion_rows
from gpu_server.inference_child import SlowStartError
from gpu_server.model_files import CARD_FILE, checked_card, read_card, shipped_folders
from gpu_server.promotion_rows import SERVER, SETTINGS
from gpu_server.registry import Registry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A model to start with, and what its promotion would say."""

    model_id: str
    folder: Path
    who: str
    reason: str


class LiveStart:
    """Offers models until one runs.

    Parameters
    ----------
    registry : Registry
        Open.
    setting : str
        `segment.model`: a shipped name, a model id, or a directory.
    """

    def __init__(self, registry: Registry, setting: str) -> None:
        self._registry = registry
        self._setting = setting
        self._why: list[str] = []

    def choices(self) -> Iterator[Choice]:
        """Yield models whose files are whole, the one that should run first.

        Raises
        ------
        ModelError
            After the last: none is left; the message says what was wrong with each.
        """
        named = self._newly_named()
        if named:
            yield named
        tried = {named.model_id} if named else set()
        for model_id in self._in_order():
            if model_id in tried:
                continue
            tried.add(model_id)
            try:
                folder = self._registry.folder(model_id)
                checked_card(folder)
            except (ModelError, LookupError) as error:
                self._leave_out(model_id, error)
                continue
            why = "; ".join(self._why) or "it can be loaded again"
            yield Choice(model_id, folder, SERVER, why)
        raise ModelError(
            f"no model can be loaded: {'; '.join(self._why)}; install EMcopilot again, or start "
            "with --model DIRECTORY of a whole one"
        )

    def failed(self, choice: Choice, error: ModelError) -> None:
        """Go on without a model that does not run.

        Raises
        ------
        ModelError
            The very same, if the settings just named it: a person is there to hear it. And if the
            machine was too busy to load it: that says nothing against it, another model would be
            as slow, and would stay live when the machine is not busy any more.
        """
        if choice.who == SETTINGS or isinstance(error, SlowStartError):
            raise error
        self._leave_out(choice.model_id, error)

    def _leave_out(self, model_id: str, error: Exception) -> None:
        log.error("model cannot be loaded id=%s reason=%s", model_id, error)
        self._why.append(f"{model_id} cannot be loaded: {error}")

    def is_untested(self, choice: Choice) -> bool:
        """Say whether nobody saw this model work yet, as with a directory that was just named."""
        with self._registry.database.read() as connection:
            model = self._registry.find(connection, choice.model_id)
        return model.source != "shipped" and model.tested_at is None

    def settle(self, choice: Choice, *, passed_test: bool = False) -> None:
        """Write down that this model is live, unless the last promotion says so already."""
        with self._registry.database.write() as connection:
            if passed_test:
                self._registry.passed_test(connection, choice.model_id)
            live = promotion_rows.last(connection)
            is_news = choice.who == SETTINGS or live is None
            if live and live.model_id == choice.model_id and not is_news:
                return
            promotion_rows.record(
                connection,
                choice.model_id,
                choice.who,
                at=self._registry.wall(),
                reason=choice.reason,
            )
        log.warning(
            "live model set id=%s by=%s reason=%s",
            choice.model_id,
            choice.who,
            choice.reason,
        )

    def _newly_named(self) -> Choice | None:
        """Return what the settings name, where they changed; None where the promotion holds."""
        reason = f"segment.model = {self._setting}"
        with self._registry.database.read() as connection:
            changes = promotion_rows.history(connection)
        before = next((one for one in changes if one.who == SETTINGS), None)
        same_name = before is not None and before.reason == reason
        # Never promoted away from what the settings named: then a name follows to the weights
        # that it stands for now, of a new release or a new training.
        follows = bool(changes) and changes[0].who == SETTINGS and self._is_there()
        if same_name and not follows:
            return None
        model_id, folder = self._registered()
        if same_name and before and before.model_id == model_id:
            return None
        return Choice(model_id, folder, SETTINGS, reason)

    def _is_there(self) -> bool:
        is_shipped = self._setting in dict(shipped_folders())
        return is_shipped or (Path(self._setting) / CARD_FILE).is_file()

    def _registered(self) -> tuple[str, Path]:
        """Return id and folder of the model that the settings name, made one of the registry's."""
        with self._registry.database.read() as connection:
            known = {row.model_id for row in self._registry.list(connection)}
        if self._setting in known:
            return self._setting, self._registry.folder(self._setting)
        shipped = dict(shipped_folders()).get(self._setting)
        if shipped:
            return checked_card(shipped).model_id, shipped
        given = Path(self._setting)
        if not (given / CARD_FILE).is_file():
            names = sorted({*dict(shipped_folders()), *known})
            raise ModelError(
                f"segment.model = {self._setting!r} is no model: expected a directory with "
                f"weights and card, or one of {names}"
            )
        model_id = read_card(given).model_id
        if model_id not in known or not _is_whole(self._registry, model_id):
            self._registry.add(given, "imported", SETTINGS)
        return model_id, self._registry.folder(model_id)

    def _in_order(self) -> Iterator[str]:
        with self._registry.database.read() as connection:
            # A model that an operator rolled back must not come back unasked, whole as it may be.
            changes = promotion_rows.not_taken_back(connection)
            rows = self._registry.list(connection)
        yield from (one.model_id for one in changes if one.who != SERVER)
        yield from (row.model_id for row in rows if row.source == "shipped")


def _is_whole(registry: Registry, model_id: str) -> bool:
    try:
        checked_card(registry.folder(model_id))
    except ModelError:
        return False
    return True
