"""Every processed frame joins a domain, and the alarm hears of it.

Called once a frame's result is saved and shown. Frames are taken one after the other, since each
session has a memory; a failure here is logged and counted, and is never the frame's.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from emcopilot.domain import JOINS, flaw_of, stacked
from emcopilot.errors import ModelError
from emcopilot.frame_look import FrameLook, ruined
from emcopilot.seen import Seen, read_seen
from gpu_server import shift_rows
from gpu_server.inference_child import Segmentation
from gpu_server.leases import LeasedFrame
from gpu_server.look_rows import FrameRow, frame_row, known_look, save_look
from gpu_server.measure import MeasuredFrame, reading_of
from gpu_server.reservoir import Facts, Place, find_place, join
from gpu_server.shift import Observation, SessionAlarm
from gpu_server.shift_rows import Proposal, Shift
from gpu_server.store import Store
from gpu_server.tables import PROCESSED

log = logging.getLogger(__name__)

OnReturn = Callable[[int, str], Awaitable[object]]
"""Told (domain id, model id) when a session is back in a domain that selects its model."""

_SESSIONS = 64
"""Remembered at a time; one that comes back later starts its memory anew."""
_LAST_LOOKS = 24
_COMPARED = 4
"""Looks of the session before its sharpness is usual."""
_DULL_IN_A_ROW = 12
"""Frames; as many are no mishap of focus but how this session looks."""
_ARRIVED = 3
"""Frames in a row in a domain before the session is said to be in it."""
_RUNS_S = 60.0
"""Since its last frame a session counts as running."""
_NEAR_ENOUGH = 2 * JOINS


@dataclass(slots=True)
class _Session:
    """What is remembered of one session while it runs."""

    alarm: SessionAlarm
    told: Shift | None
    """What the last event said."""
    domain_id: int | None = None
    in_a_row: int = 0
    dull_in_a_row: int = 0
    last: deque[FrameLook] = field(default_factory=lambda: deque(maxlen=_LAST_LOOKS))
    heard_at: float = 0.0
    """Of its last frame; monotonic clock."""


class Accumulator:
    """Sorts frames into domains and watches each session.

    Parameters
    ----------
    store : Store
    on_return : callable, optional
        Turns the server to a domain's model; only for domains that are so set.
    announce : callable
        Tells viewers that there are new events; called on the event loop.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_return: OnReturn | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._on_return = on_return
        self._announce = announce
        self._lock = asyncio.Lock()
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        self._seen: dict[Path, Seen | None] = {}
        self._returning: asyncio.Task[None] | None = None
        self.failures = 0
        """Frames that could not be taken in."""

    async def __call__(
        self,
        leased: LeasedFrame,
        measured: MeasuredFrame,
        segmentation: Segmentation,
    ) -> None:
        """Take in one frame whose result is saved; never raises but when cancelled."""
        if not segmentation.features:
            return
        try:
            async with self._lock:
                news, proposal = await asyncio.to_thread(
                    self._take, leased, measured, segmentation
                )
        except Exception:
            # The border: the frame has its result, and the next one may be taken in.
            self.failures += 1
            log.exception("frame joins no domain id=%d", leased.frame_id)
            return
        if news:
            self._announce()
        if proposal:
            self._select(proposal)

    async def close(self) -> None:
        """Let go of a return that is under way."""
        if self._returning:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)

    def _take(
        self,
        leased: LeasedFrame,
        measured: MeasuredFrame,
        segmentation: Segmentation,
    ) -> tuple[Shift | None, Proposal | None]:
        """Write down where the frame belongs.

        Returns
        -------
        (Shift or None, Proposal or None)
            What is new about its session, and what is to be turned to unasked.
        """
        with self._store.read() as connection:
            row = frame_row(connection, leased.frame_id)
            before = known_look(connection, leased.frame_id)
            session = self._session(connection, leased.session_id, segmentation)
            if row is None or row.state != PROCESSED:
                return None, None
            place = self._place(connection, session, measured, segmentation)
        look, reading = segmentation.look, reading_of(measured)
        if look is None:
            flaw = ruined(measured.frame.pixels) or "blank"
        else:
            flaw = self._flaw(session, measured, look, place)
        distance = session.alarm.distance(look) if look else None
        with self._store.database.write() as connection:
            domain_id = before.domain_id if before else None
            if look and flaw is None and domain_id is None and not row.is_rejected:
                domain_id = join(
                    connection,
                    leased.frame_id,
                    look,
                    place,
                    features=segmentation.features,
                    facts=_facts(measured),
                    at=row.at,
                )
            save_look(
                connection,
                leased.frame_id,
                domain_id=domain_id,
                flaw=flaw,
                distance=distance,
                model_id=segmentation.model_id,
            )
            if look is None or flaw or before:
                return None, None
            self._remember(session, look, domain_id)
            session.alarm.observe(Observation(leased.frame_id, look, reading))
            shift = self._shift_now(connection, session)
            news = shift if self._tell(connection, session, shift, row) else None
            # On arrival alone: whoever promotes another model, or rolls back, while the session
            # stays in the domain has the last word.
            is_arrival = session.in_a_row == _ARRIVED
            is_undone = shift_rows.last_undone(connection)
            proposal = shift.proposal if is_arrival else None
            if proposal and (not proposal.selects or proposal.model_id == is_undone):
                proposal = None
        if news:  # only now: what the disk did not take was told to nobody
            session.told = news
        return news, proposal

    def _session(
        self, connection: sa.Connection, session_id: int, segmentation: Segmentation
    ) -> _Session:
        """Return the session's memory; another live model judges anew."""
        session = self._sessions.get(session_id)
        if session is None or session.alarm.model_id != segmentation.model_id:
            seen = self._seen_by(segmentation)
            alarm = SessionAlarm(segmentation.model_id, seen)
            fresh = _Session(alarm, shift_rows.last_shift(connection, session_id))
            if session is None:
                fresh.domain_id = shift_rows.last_domain(connection, session_id)
                fresh.in_a_row = _ARRIVED if fresh.domain_id else 0
                if fresh.told and fresh.told.model_id == segmentation.model_id:
                    alarm.state = "shifted" if fresh.told.state == "shifted" else "ok"
                    alarm.reason = fresh.told.reason
                    alarm.since_frame_id = fresh.told.since_frame_id
            else:
                fresh.domain_id, fresh.in_a_row = session.domain_id, session.in_a_row
                fresh.last = session.last
            session = self._sessions[session_id] = fresh
        session.heard_at = time.monotonic()
        self._sessions.move_to_end(session_id)
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def _seen_by(self, segmentation: Segmentation) -> Seen | None:
        path = segmentation.seen
        if path is None:
            return None
        if path not in self._seen:
            try:
                self._seen[path] = read_seen(path, segmentation.features)
            except ModelError as error:
                log.warning("model %s: %s", segmentation.model_id, error)
                self._seen[path] = None
        return self._seen[path]

    def _place(
        self,
        connection: sa.Connection,
        session: _Session,
        measured: MeasuredFrame,
        segmentation: Segmentation,
    ) -> Place | None:
        if segmentation.look is None:
            return None
        return find_place(
            connection,
            segmentation.look,
            segmentation.features,
            _facts(measured),
            session.domain_id,
        )

    def _flaw(
        self,
        session: _Session,
        measured: MeasuredFrame,
        look: FrameLook,
        place: Place | None,
    ) -> str | None:
        usual = stacked(list(session.last))
        if len(usual) < _COMPARED:
            is_near = place is not None and place.distance < _NEAR_ENOUGH
            usual = place.looks if place and is_near else usual
        flaw = flaw_of(look, reading_of(measured), usual)
        if flaw != "defocused":
            session.dull_in_a_row = 0
            return flaw
        session.dull_in_a_row += 1
        return flaw if session.dull_in_a_row <= _DULL_IN_A_ROW else None

    def _remember(
        self, session: _Session, look: FrameLook, domain_id: int | None
    ) -> None:
        is_same = domain_id is not None and domain_id == session.domain_id
        session.in_a_row = session.in_a_row + 1 if is_same else 1
        session.domain_id = domain_id
        session.last.append(look)

    def _tell(
        self,
        connection: sa.Connection,
        session: _Session,
        shift: Shift,
        row: FrameRow,
    ) -> bool:
        """Announce how the session stands if that is news; say whether it is."""
        told = session.told
        if told is None and shift.state == "ok":
            return False
        if told and told.is_like(shift):
            return False
        shift_rows.tell(connection, row.session_id, shift, at=row.at)
        log.log(
            logging.INFO if shift.state == "ok" else logging.WARNING,
            "session %d: %s model=%s reason=%s",
            row.session_id,
            shift.state,
            shift.model_id,
            shift.reason or "-",
        )
        return True

    def _shift_now(self, connection: sa.Connection, session: _Session) -> Shift:
        alarm = session.alarm
        is_in = session.in_a_row >= _ARRIVED
        domain_id = session.domain_id if is_in else None
        if domain_id is None and session.told:
            domain_id = session.told.domain_id
        model_id, selects = shift_rows.model_of(connection, domain_id)
        state, reason, proposal = alarm.state, alarm.reason, None
        if model_id and model_id != alarm.model_id:
            state = "returned"
            reason = reason or "back in a domain that has a model of its own"
            proposal = Proposal("promote", domain_id, model_id, selects)
        elif alarm.state == "shifted":
            proposal = Proposal("adapt", domain_id)
        return Shift(
            state, reason, alarm.model_id, domain_id, proposal, alarm.since_frame_id
        )

    def _select(self, proposal: Proposal) -> None:
        """Turn to the domain's model, as the operator wants; frames do not wait for it."""
        if self._on_return is None:
            return
        if self._returning and not self._returning.done():
            return
        if self._others_run():
            # Each would turn the one live model to its own, for ever.
            log.warning("domain's model is proposed only: another session runs, too")
            return
        self._returning = asyncio.create_task(
            self._return(proposal), name="return to a domain's model"
        )

    def _others_run(self) -> bool:
        """Say whether frames of several sessions come just now."""
        newest = time.monotonic() - _RUNS_S
        return sum(one.heard_at > newest for one in self._sessions.values()) > 1

    async def _return(self, proposal: Proposal) -> None:
        assert self._on_return is not None
        domain_id, model_id = proposal.domain_id, proposal.model_id
        assert domain_id is not None, "only a domain proposes its model"
        assert model_id is not None, "a return names its model"
        with suppress(asyncio.CancelledError):
            try:
                await self._on_return(domain_id, model_id)
            except Exception:
                # The border: the live model stays, and the proposal stands for the operator.
                self.failures += 1
                log.exception("domain %d cannot turn to %s", domain_id, model_id)


def _facts(measured: MeasuredFrame) -> Facts:
    frame = measured.frame
    return Facts.of(
        frame.instrument,
        frame.modality,
        frame.pixel_size_nm,
        detector=frame.detector,
        sample=frame.sample,
    )
