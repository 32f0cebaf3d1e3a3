"""Whole sessions by one more model, in the background, a few frames at a time.

What is done is rows, so a run that a restart cut goes on where it was when somebody asks again.
Frames that arrive meanwhile are taken along.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa

from emcopilot.errors import EMcopilotError, StoreError
from emcopilot.model_messages import RecomputationAnswer, RunState
from gpu_server.counting import require_session
from gpu_server.events import announce, note
from gpu_server.registry import Registry
from gpu_server.side_results import SideResults, account, lacking
from gpu_server.store import Store
from gpu_server.tables import results

log = logging.getLogger(__name__)

CHUNK = 8
"""Frames after which others may have the quiet child."""
MOST_WAITING = 16
ENDED_KEPT = 64
"""Runs that ended of which it is still told how many frames failed, and why."""
_OPEN = ("waiting", "running")


class FullError(EMcopilotError):
    """So many sessions wait to be computed that one more is refused."""


@dataclass(slots=True)
class _Run:
    session_id: int
    model_id: str
    who: str
    state: RunState = "waiting"
    reason: str | None = None
    failed: dict[int, str] = field(default_factory=dict)
    computed: int = 0
    reached: int = 0
    """The last frame taken up: looking on from there spares what is done."""
    began: float = 0.0


class Recomputation:
    """Computes sessions by other models, one at a time.

    Parameters
    ----------
    store : Store
    registry : Registry
    side_results : SideResults
        Computes the frames.
    tell : callable
        Tells viewers that there are new events.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        side_results: SideResults,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._side_results = side_results
        self._tell = tell
        self._runs: dict[tuple[int, str], _Run] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self, session_id: int, model_id: str, who: str) -> int:
        """Queue a session to be computed by a model; return the event's id.

        Raises
        ------
        LookupError
            If there is no such session or model.
        ModelError
            If the model is deleted or its files are gone.
        FullError
            If too many wait already.
        """
        await asyncio.to_thread(self._registry.folder, model_id)
        open_runs = [r for r in self._runs.values() if r.state in _OPEN]
        key = (session_id, model_id)
        is_open = any((r.session_id, r.model_id) == key for r in open_runs)
        if len(open_runs) >= MOST_WAITING and not is_open:
            raise FullError(
                f"{len(open_runs)} sessions wait to be computed; try again when one is done"
            )
        event = await asyncio.to_thread(self._note, session_id, model_id, who)
        if not is_open:
            self._runs.pop(key, None)  # so that the last asked for stands last
            self._runs[key] = _Run(session_id, model_id, who)
            self._forget()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="recompute")
        return event

    def _forget(self) -> None:
        ended = [key for key, run in self._runs.items() if run.state not in _OPEN]
        for key in ended[:-ENDED_KEPT]:
            del self._runs[key]

    async def close(self) -> None:
        """Stop; asking again goes on with what is missing."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def progress(self, session_id: int) -> list[RecomputationAnswer]:
        """Tell how far a session is computed by each model that did any of it."""
        with self._store.read() as connection:
            known = set(
                connection.scalars(
                    sa.select(results.c.model_id)
                    .where(results.c.session_id == session_id)
                    .distinct()
                )
            )
            # A list first: the event loop's thread may start a run meanwhile.
            runs = list(self._runs)
            asked = {model for session, model in runs if session == session_id}
            return [
                self._answer(
                    session_id, model_id, account(connection, session_id, model_id)
                )
                for model_id in sorted(known | asked)
            ]

    def _answer(
        self, session_id: int, model_id: str, counts: tuple[int, int]
    ) -> RecomputationAnswer:
        total, done = counts
        run = self._runs.get((session_id, model_id))
        state: RunState = "done" if done >= total else "stopped"
        eta_s = None
        if run and run.state in _OPEN:
            state = run.state
            if run.computed:
                pace_s = (time.monotonic() - run.began) / run.computed
                eta_s = pace_s * max(0, total - done - len(run.failed))
        return RecomputationAnswer(
            session_id=session_id,
            model_id=model_id,
            state=state,
            total=total,
            done=done,
            failed=len(run.failed) if run else 0,
            reason=run.reason if run else None,
            eta_s=eta_s,
        )

    async def _work(self) -> None:
        while run := next(
            (r for r in self._runs.values() if r.state == "waiting"), None
        ):
            run.state, run.began = "running", time.monotonic()
            try:
                while await self._step(run):
                    pass
                run.state = "done"
            except asyncio.CancelledError:
                run.state = "stopped"
                raise
            except EMcopilotError as error:
                run.state, run.reason = "stopped", str(error)
                log.warning(
                    "recomputation stopped session=%d reason=%s", run.session_id, error
                )
            except Exception as error:  # the border: the next run must go on
                run.state, run.reason = "stopped", f"internal error: {error!r}"
                log.exception("recomputation failed session=%d", run.session_id)
            with suppress(StoreError):  # the others wait, and rows tell the same
                await asyncio.to_thread(self._announce_end, run)
            self._tell()

    async def _step(self, run: _Run) -> bool:
        """Compute the next few frames; say whether there were any."""
        chosen = await asyncio.to_thread(self._next_frames, run)
        if not chosen:
            return False
        failed = await self._side_results.fill(run.model_id, chosen)
        run.failed |= failed
        run.computed += len(chosen) - len(failed)
        if failed:
            run.reason = next(reversed(failed.values()))
        return True

    def _next_frames(self, run: _Run) -> list[int]:
        """Return the next frames to compute; once from the start again before there are none.

        A frame may be processed after younger ones, and counts like them.
        """
        limit = CHUNK + len(run.failed)
        with self._store.read() as connection:
            for after in dict.fromkeys((run.reached, 0)):
                found = lacking(
                    connection, run.session_id, run.model_id, limit, after=after
                )
                chosen = [one for one in found if one not in run.failed][:CHUNK]
                if chosen:
                    run.reached = chosen[-1]
                    return chosen
        return []

    def _note(self, session_id: int, model_id: str, who: str) -> int:
        at = self._registry.wall()
        with self._store.database.write() as connection:
            require_session(connection, session_id)
            detail = {"model_id": model_id}
            subject = f"session {session_id}"
            note(connection, who, "recompute session", subject, at=at, detail=detail)
            told = {"session_id": session_id, "change": "recompute", **detail}
            return announce(connection, "session", told, at=at, session_id=session_id)

    def _announce_end(self, run: _Run) -> None:
        told = {
            "session_id": run.session_id,
            "change": "recomputed",
            "model_id": run.model_id,
            "state": run.state,
            "failed": len(run.failed),
        }
        with self._store.database.write() as connection:
            at = self._registry.wall()
            announce(connection, "session", told, at=at, session_id=run.session_id)
