"""The domain-shift alarm of one session: whether what comes still is what the live model knows.

Two witnesses. How far a frame's look is from what the model was trained on, in units of how far
that lies apart; and the model's own doubt, a thin rim round particles where it is at home.
A model that names nothing it was trained on is judged by its doubt, and by looks that leave the
session's own past. One frame says nothing: most of the last few must agree, either way.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from emcopilot.domain import USUAL_SCALE, Reading, nearest, stacked
from emcopilot.frame_look import FrameLook
from emcopilot.look_words import Ensemble, usual_look, what_changed
from emcopilot.seen import Seen

State = Literal["ok", "shifted"]

WINDOW, MOST = 6, 5
"""Frames that are looked back on, and how many of them must agree."""
FAR, NEAR = 1.6, 1.25
"""Distance from what was trained on, 1 being its farthest: beyond the first a frame speaks for an
alarm, below the second for its end. See `benchmarks/shift_alarm.py`."""
LEFT = 2.0
"""Distance from the session's own past, in usual scales, at which frames are of another kind."""
FAR_AFTER_LEAVING = 1.15
"""Stands for `FAR` where frames left the session's past: the two witnesses support each other."""
_DOUBT_TIMES, _LEAST_DOUBT = 2.0, 1.0
"""Times the doubt on known frames, and at least as many pixels as are held for particles: less
comes late in films whose particles grow beyond what was trained on."""
_NOTHING_FOUND = 1.2
"""Score of a frame without particles in a session that had them."""
_HOME, _HAD_PARTICLES = 40, 4


@dataclass(frozen=True, slots=True)
class Observation:
    """One frame without flaws."""

    frame_id: int
    look: FrameLook
    reading: Reading


@dataclass(slots=True)
class SessionAlarm:
    """Watches the frames of one session in the order they come, under one live model."""

    model_id: str
    seen: Seen | None
    state: State = "ok"
    reason: str = ""
    since_frame_id: int | None = None
    """The first frame of the state."""
    _scores: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _lately: deque[Observation] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _home: deque[Observation] = field(default_factory=lambda: deque(maxlen=_HOME))
    """Frames that spoke for no alarm: the session as it was."""

    def observe(self, frame: Observation) -> bool:
        """Take in one frame; say whether the state changed with it."""
        score = self.score(frame)
        self._scores.append(score)
        self._lately.append(frame)
        if score < 1 and self.state == "ok":
            self._home.append(frame)
        if self.state == "ok" and self._agree(score >= 1 for score in self._scores):
            self._turn("shifted", self.why())
            return True
        calm = NEAR / FAR
        if self.state == "shifted" and self._agree(s < calm for s in self._scores):
            self._turn("ok", "")
            self._home.extend(self._lately)
            return True
        return False

    def distance(self, look: FrameLook) -> float | None:
        """Return how far a look is from what the model was trained on; None: unknown."""
        return self.seen.distance(look) if self.seen else None

    def score(self, frame: Observation) -> float:
        """Return what a frame says: 1 and above speaks for an alarm."""
        return max(self._strangeness(frame.look), self._doubt(frame.reading))

    def why(self) -> str:
        """Say in words how the last frames differ from what the model, or the session, knew."""
        now = Ensemble(
            stacked([frame.look for frame in self._lately]),
            [frame.reading for frame in self._lately],
        )
        if len(self._home) >= _HAD_PARTICLES:
            before = Ensemble(
                stacked([frame.look for frame in self._home]),
                [frame.reading for frame in self._home],
            )
            return what_changed(before, now)
        if self.seen:
            return f"{what_changed(Ensemble(self.seen.looks), now)}: {usual_look(now.looks)}"
        return f"the model is in doubt: {usual_look(now.looks)}"

    def _strangeness(self, look: FrameLook) -> float:
        left = self._left(look)
        distance = self.distance(look)
        if distance is None:
            return left
        return max(distance / FAR, min(left, distance / FAR_AFTER_LEAVING))

    def _left(self, look: FrameLook) -> float:
        """Return how far a look is from the session's own past; 1 is another kind of frame."""
        if len(self._home) < _HAD_PARTICLES:
            return 0.0
        home = stacked([frame.look for frame in self._home])
        return nearest(look, home) / (LEFT * USUAL_SCALE)

    def _doubt(self, reading: Reading) -> float:
        if reading.particle_count == 0:
            had = sum(frame.reading.particle_count > 0 for frame in self._home)
            return _NOTHING_FOUND if had >= _HAD_PARTICLES else 0.0
        known = self.seen.doubt if self.seen and self.seen.doubt else 0.0
        return reading.doubtful_share / max(_DOUBT_TIMES * known, _LEAST_DOUBT)

    def _agree(self, votes: Iterable[bool]) -> bool:
        return sum(votes) >= MOST

    def _turn(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self.since_frame_id = self._lately[0].frame_id
