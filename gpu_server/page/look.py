"""Reads what the page shows: the answers of REST itself, so that the two never disagree.

Every open page asks twice a second. What is the same for all is read once for all, and what
takes long is not begun again before nine times as long has passed: a session of millions of
particles costs a tenth of a core, however many look at it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emcopilot.messages import (
    AgentAnswer,
    ProblemFile,
    PsdAnswer,
    SessionAnswer,
    Stats,
    TimelineAnswer,
)
from emcopilot.psd import Psd, measure_psd
from emcopilot.review_messages import Mark
from gpu_server.accounts import last_event
from gpu_server.api import agents, results
from gpu_server.api.problems import ProblemError
from gpu_server.api.services import Services
from gpu_server.clocks import clocks_ahead_s
from gpu_server.course import read_course
from gpu_server.distribution import measured, of_course, psd_answer, timeline_of
from gpu_server.marks import session_marks
from gpu_server.page.view import Measured, View, Wanted
from gpu_server.queries import frame, last_number, session_start, written_frames
from gpu_server.segment import InferenceBackend

TARGET = 0.02
"""The precision of the mean that the page asks for: 2 %."""
TIMELINE_POINTS = 800
"""A chart of a few hundred pixels shows no more."""
_MINUTE_S = 60.0
_FRESH_S = 0.3
_PROBLEMS_SHOWN = 50
_SESSIONS_KEPT = 8
_REST_SHARE = 9.0


@dataclass(frozen=True, slots=True)
class _Common:
    """What every page shows alike."""

    sessions: list[SessionAnswer]
    stats: Stats
    agents: list[AgentAnswer]
    clocks_s: dict[int, float]
    problems: list[ProblemFile]
    until: float
    """Monotonic time at which it is read anew."""


@dataclass(frozen=True, slots=True)
class _Course:
    """What a whole session says."""

    psd: PsdAnswer
    figures: Psd
    timeline: TimelineAnswer
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class _Kept:
    course: _Course
    event: int
    until: float
    """Monotonic time before which it is not measured anew."""


class StoreLooker:
    """Looks at a running server's store for every page."""

    def __init__(
        self,
        services: Callable[[], Services],
        segmenter: Callable[[], InferenceBackend],
    ) -> None:
        self._services = services
        self._segmenter = segmenter
        self._lock = threading.Lock()
        self._measuring = threading.Lock()
        self._reading = threading.Lock()
        self._common: _Common | None = None
        self._courses: OrderedDict[tuple[int, int | None], _Kept] = OrderedDict()

    def view(self, wanted: Wanted) -> View:
        """Read everything beside picture and charts; blocks for milliseconds.

        Raises
        ------
        StoreError
            If the database cannot be read just now.
        """
        services, segmenter = self._services(), self._segmenter()
        common = self._common_now(services)
        session = _chosen(common.sessions, wanted.session_id)
        probed = {name: probe() for name, probe in services.probes.items()}
        return View(
            at=time.time(),
            sessions=common.sessions,
            session=session,
            last_number=self.last_number(session.id) if session else 0,
            stats=common.stats,
            agents=common.agents,
            clocks_s=common.clocks_s,
            problems=common.problems,
            troubles={name: why for name, why in probed.items() if why},
            device=segmenter.device,
            model_id=segmenter.model_id,
        )

    def last_number(self, session_id: int) -> int:
        """Return the number of a session's newest frame; 0 without any."""
        with self._services().store.read() as connection:
            return last_number(connection, session_id)

    def measured(self, wanted: Wanted) -> Measured:
        """Read distribution, convergence and curves; blocks longer for long sessions.

        Raises
        ------
        StoreError
            If the database cannot be read just now.
        """
        services = self._services()
        session = _chosen(self._common_now(services).sessions, wanted.session_id)
        if session is None:
            return Measured(nothing_yet(), None, None, [])
        course = self._course(services, session.id, wanted.bins)
        psd = course.psd
        if wanted.span != "session" and wanted.frame_id is not None:
            psd = _part(services, wanted, wanted.frame_id) or psd
        convergence = results.convergence_of(course.figures, TARGET, 0.0)
        return Measured(psd, convergence, course.timeline, course.marks)

    def _common_now(self, services: Services) -> _Common:
        """Return what is the same for every page, read for all of them at once."""
        with self._reading:
            if self._common is None or time.monotonic() >= self._common.until:
                self._common = _read_common(services)
            return self._common

    def _course(self, services: Services, session_id: int, bins: int | None) -> _Course:
        key = session_id, bins
        found = self._still_good(services, key)
        if found:
            return found
        with self._measuring:
            found = self._still_good(services, key)  # another page may have read it
            return found or self._measure(services, key)

    def _still_good(
        self, services: Services, key: tuple[int, int | None]
    ) -> _Course | None:
        with self._lock:
            kept = self._courses.get(key)
        if kept is None:
            return None
        if time.monotonic() < kept.until:
            return kept.course
        with services.store.read() as connection:
            event = last_event(connection)
        return kept.course if kept.event == event else None

    def _measure(self, services: Services, key: tuple[int, int | None]) -> _Course:
        session_id, bins = key
        began = time.monotonic()
        with services.store.read() as connection:
            event = last_event(connection)
            columns = read_course(connection, session_id)
            start = session_start(connection, session_id)
            marks = session_marks(connection, session_id).marks
        psd, figures = of_course(columns, event, bins=bins)
        line = timeline_of(columns, session_id, start, TIMELINE_POINTS)
        course = _Course(psd, figures, line, marks)
        ended = time.monotonic()
        kept = _Kept(course, event, ended + _REST_SHARE * (ended - began))
        with self._lock:
            self._courses[key] = kept
            self._courses.move_to_end(key)
            while len(self._courses) > _SESSIONS_KEPT:
                self._courses.popitem(last=False)
        return course


def _read_common(services: Services) -> _Common:
    began = time.monotonic()
    with services.store.read() as connection:
        clocks_s = clocks_ahead_s(connection)
    sessions, stats = results.sessions(services), agents.stats(services)
    enrolled = [agent for agent in agents.agents(services) if agent.enrolled]
    problems = agents.problems(services)[:_PROBLEMS_SHOWN]
    ended = time.monotonic()
    rest_s = max(_FRESH_S, _REST_SHARE * (ended - began))
    return _Common(sessions, stats, enrolled, clocks_s, problems, ended + rest_s)


def _chosen(sessions: list[SessionAnswer], wanted: int | None) -> SessionAnswer | None:
    """Return the session asked for, else the one that was active last."""
    asked = (session for session in sessions if session.id == wanted)
    return next(asked, sessions[0] if sessions else None)


def _part(services: Services, wanted: Wanted, frame_id: int) -> PsdAnswer | None:
    """Return the distribution of one frame, or of the minute that ends with it."""
    try:
        with services.store.read() as connection:
            found = frame(connection, frame_id)
            if found is None or (wanted.span == "frame" and found.result is None):
                return None
            chosen = [found]
            if wanted.span == "minute":
                chosen = written_frames(connection, found, _MINUTE_S)
            return measured(chosen, last_event(connection), bins=wanted.bins)[0]
    except ProblemError:  # replaced or queued again since it was shown
        return None


def nothing_yet() -> PsdAnswer:
    """Return the distribution of no particle at all."""
    empty = measure_psd(np.empty(0), unit="nm")
    return psd_answer(
        empty, reason=None, frames=0, excluded_border=0, rejected=0, event=0
    )
