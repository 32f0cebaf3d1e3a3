"""The page's sentences: figures and states into text that an operator reads at a glance."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from emcopilot.live_packet import LiveHeader
from emcopilot.messages import AgentAnswer, Convergence, PsdAnswer, SessionAnswer, Stats
from gpu_server.page.view import View

NOTHING = "–"
LATE_S = 10.0
"""A frame that waits longer than this turns the queue's light: results are due by then."""
_FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Light:
    """The state of one part: a colour, one figure and what hovering tells."""

    colour: str
    """green | yellow | red | off"""
    figure: str
    tip: str


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure with `digits` significant digits, never with an exponent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    # Of the rounded figure: 9.999 with three digits is 10.0.
    power = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    decimals = digits - 1 - power
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


def with_unit(value: float | None, unit: str, digits: int = 4) -> str:
    """Write a figure and its unit, or a dash without one."""
    text = number(value, digits)
    return text if text == NOTHING else f"{text} {unit}"


def ago(seconds: float) -> str:
    """Say how long ago something was."""
    if seconds < _FRESH_S:
        return "now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / 86400:.0f} days ago"


def duration(seconds: float) -> str:
    """Say how long something took, as h:mm:ss from a minute on."""
    if abs(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, left = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 else ""
    if hours:
        return f"{sign}{hours}:{minutes:02}:{left:02} h"
    return f"{sign}{minutes}:{left:02} min"


def clock_text(ahead_s: float | None) -> list[str]:
    """Say that a microscope's clock is off, where it is."""
    if ahead_s is None or ahead_s < 1.0:
        return []
    return [f"its clock is {duration(ahead_s)} ahead: times are off by that"]


def session_choice(session: SessionAnswer) -> str:
    """Name a session in the list that people pick from."""
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(session.started_at))
    frames = "1 frame" if session.frames == 1 else f"{session.frames:,} frames"
    return f"{session.name}  ·  {session.agent or 'unknown'}  ·  {begun}  ·  {frames}"


def session_text(session: SessionAnswer | None, at: float) -> str:
    """Name the session, with its frames and how fresh it is at Unix time `at`."""
    if session is None:
        return "no session yet"
    frames = "1 frame" if session.frames == 1 else f"{session.frames:,} frames"
    return f"{frames}  ·  last {ago(at - session.last_at)}"


def frame_facts(frame: LiveHeader) -> str:
    """Say what is known of the frame on the canvas, beside its name."""
    facts = [f"{frame.width} × {frame.height} px"]
    if frame.page:
        facts.insert(0, f"page {frame.page}")
    if frame.pixel_size_nm:
        size_y, size_x = frame.pixel_size_nm
        size = f"{size_x:.4g}" if size_x == size_y else f"{size_x:.4g} × {size_y:.4g}"
        facts.append(f"{size} nm/px from {frame.pixel_size_source}")
    else:
        facts.append("no pixel size")
    facts.append(particle_count(frame))
    return "  ·  ".join(facts)


def frame_size_text(frame: LiveHeader, pixel_size_nm: float) -> str:
    """Say what a pixel size makes of a frame: what an operator can check at a glance."""
    width, height = frame.width * pixel_size_nm, frame.height * pixel_size_nm
    field = f"the frame is then {number(width)} × {number(height)} nm"
    if frame.median_diameter is None:
        return field
    edge = 1.0
    if frame.pixel_size_nm:
        edge = math.sqrt(frame.pixel_size_nm[0] * frame.pixel_size_nm[1])
    typical = frame.median_diameter / edge * pixel_size_nm
    return f"{field}, a typical particle {number(typical)} nm"


def particle_count(frame: LiveHeader) -> str:
    """Say how many particles the frame shows, and how many of them are doubtful."""
    count = "1 particle" if frame.particles == 1 else f"{frame.particles:,} particles"
    return f"{count}, {frame.doubtful:,} doubtful" if frame.doubtful else count


def interval(psd: PsdAnswer) -> str:
    """Say how well the mean is known."""
    if psd.ci_low is None or psd.ci_high is None:
        return "too few for an interval"
    return f"95 % in {number(psd.ci_low, 4)} – {number(psd.ci_high, 4)} {psd.unit}"


def known_text(convergence: Convergence | None) -> str:
    """Answer "enough particles yet?"."""
    if convergence is None or convergence.relative_half_width is None:
        return "Enough particles? Too few to say."
    width = 100 * convergence.relative_half_width
    target = f"{100 * convergence.target:.0f} %"
    if convergence.known:
        return f"Enough particles: mean known to {width:.1f} %, asked {target}"
    more = convergence.needed_more
    wanting = f", about {more:,} more for {target}" if more else f", asked {target}"
    return f"Mean known to {width:.1f} %{wanting}"


def known_fraction(convergence: Convergence | None) -> float:
    """Return how far the particles counted are on the way to enough, 0..1."""
    if convergence is None:
        return 0.0
    if convergence.known:
        return 1.0
    if not convergence.needed_more:
        return 0.0
    return convergence.counted / (convergence.counted + convergence.needed_more)


def queue_light(stats: Stats, troubles: dict[str, str]) -> Light:
    """Say how ingest and queue stand."""
    waiting = stats.queued + stats.leased
    tip = (
        f"{stats.processed} processed, {waiting} waiting, {stats.quarantined} quarantined; "
        f"{stats.skipped} display frames skipped, every frame is processed"
    )
    for part in ("ingest", "agents"):
        if part in troubles:
            return Light("red", "takes no files", troubles[part])
    if not stats.balanced:
        return Light("red", "does not balance", tip)
    if stats.lag_s < LATE_S:
        return Light("green", f"{waiting} waiting", tip)
    return Light("yellow", f"{waiting} waiting, {stats.lag_s:.0f} s", tip)


def agents_light(agents: Sequence[AgentAnswer]) -> Light:
    """Say how the agents stand; the worst one decides the colour."""
    if not agents:
        return Light("off", "none enrolled", "run `emcopilot keys new` on the server")
    order = ("red", "yellow", "green")
    worst = min((agent.light for agent in agents), key=order.index)
    silent = sum(agent.light == "red" for agent in agents)
    pending = sum(agent.pending for agent in agents)
    figure = f"{pending} waiting" if pending else "connected"
    if silent:
        figure = "silent" if len(agents) == 1 else f"{silent} of {len(agents)} silent"
    tip = "; ".join(f"{agent.name}: {agent_account(agent)}" for agent in agents)
    return Light(worst, figure, tip)


def agent_account(agent: AgentAnswer) -> str:
    """Say when an agent was heard and what it has sent."""
    seen = agent.last_seen_s
    heard = "never heard" if seen is None else ago(seen)
    return f"{heard}, {agent.pending:,} waiting, {agent.stored:,} stored"


def last_frames(view: View) -> dict[int, str]:
    """Say by agent how long ago its last frame was."""
    latest: dict[int, float] = {}
    for session in view.sessions:
        before = latest.get(session.agent_id, 0.0)
        latest[session.agent_id] = max(before, session.last_at)
    return {agent: f"last frame {ago(view.at - at)}" for agent, at in latest.items()}


def inference_light(device: str, model_id: str, troubles: dict[str, str]) -> Light:
    """Say where frames are segmented, and by which weights."""
    if "pipeline" in troubles:
        return Light("red", "stopped", troubles["pipeline"])
    if not device:
        return Light("off", "starting", "the network is being loaded")
    where = device.partition(" ")[0].upper()
    return Light("green", where, f"model {model_id} on {device}")
