"""Reads what the page shows: the answers of REST itself, so that the two never disagree."""

from emcopilot.messages import Convergence, PsdAnswer, SessionAnswer
from emcopilot.psd import measure_psd
from gpu_server.api import agents, results
from gpu_server.api.problems import ProblemError
from gpu_server.api.services import Services
from gpu_server.distribution import psd_answer
from gpu_server.page.layout import View, Wanted
from gpu_server.segment import InferenceBackend

TARGET = 0.02
"""The precision of the mean that the page asks for: 2 %."""
_PROBLEMS_SHOWN = 20


def read_view(services: Services, segmenter: InferenceBackend, wanted: Wanted) -> View:
    """Read everything beside the picture; blocks for milliseconds."""
    sessions = results.sessions(services)
    session = _chosen(sessions, wanted.session_id)
    psd, convergence = _distribution(services, session, wanted)
    return View(
        sessions=sessions,
        session=session,
        psd=psd,
        convergence=convergence,
        stats=agents.stats(services),
        agents=agents.agents(services),
        problems=agents.problems(services)[:_PROBLEMS_SHOWN],
        device=segmenter.device,
        model_id=segmenter.model_id,
    )


def _chosen(sessions: list[SessionAnswer], wanted: int | None) -> SessionAnswer | None:
    """Return the session asked for, else the one that was active last."""
    asked = (session for session in sessions if session.id == wanted)
    return next(asked, sessions[0] if sessions else None)


def _distribution(
    services: Services, session: SessionAnswer | None, wanted: Wanted
) -> tuple[PsdAnswer, Convergence | None]:
    if session is None:
        return _nothing_yet(), None
    answer, psd = results.distribution_of(services, session.id)
    convergence = results.convergence_of(psd, TARGET, 0.0)
    if wanted.span == "frame" and wanted.frame_id is not None:
        try:
            return results.frame_psd(services, wanted.frame_id), convergence
        except ProblemError:  # replaced or queued again since it was shown
            return answer, convergence
    return answer, convergence


def _nothing_yet() -> PsdAnswer:
    empty = measure_psd([], unit="nm")
    return psd_answer(
        empty, reason=None, frames=0, excluded_border=0, rejected=0, event=0
    )
