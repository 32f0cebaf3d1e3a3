"""Reads what the page shows: the answers of REST itself, so that the two never disagree."""

import time

import numpy as np

from emcopilot.messages import Convergence, PsdAnswer, SessionAnswer
from emcopilot.psd import measure_psd
from gpu_server.api import agents, results
from gpu_server.api.problems import ProblemError
from gpu_server.api.services import Services
from gpu_server.distribution import psd_answer
from gpu_server.page.view import View, Wanted
from gpu_server.segment import InferenceBackend

TARGET = 0.02
"""The precision of the mean that the page asks for: 2 %."""
_PROBLEMS_SHOWN = 20


def read_view(services: Services, segmenter: InferenceBackend, wanted: Wanted) -> View:
    """Read everything beside the picture; blocks for milliseconds.

    Raises
    ------
    StoreError
        If the database cannot be read just now.
    """
    session = _chosen(results.sessions(services), wanted.session_id)
    psd, convergence = _distribution(services, session, wanted)
    probed = {name: probe() for name, probe in services.probes.items()}
    return View(
        at=time.time(),
        session=session,
        psd=psd,
        convergence=convergence,
        stats=agents.stats(services),
        agents=[agent for agent in agents.agents(services) if agent.enrolled],
        problems=agents.problems(services)[:_PROBLEMS_SHOWN],
        troubles={name: why for name, why in probed.items() if why},
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
        return nothing_yet(), None
    answer, psd = results.distribution_of(services, session.id)
    convergence = results.convergence_of(psd, TARGET, 0.0)
    if wanted.span == "frame" and wanted.frame_id is not None:
        try:
            return results.frame_psd(services, wanted.frame_id), convergence
        except ProblemError:  # replaced or queued again since it was shown
            return answer, convergence
    return answer, convergence


def nothing_yet() -> PsdAnswer:
    """Return the distribution of no particle at all."""
    empty = measure_psd(np.empty(0), unit="nm")
    return psd_answer(
        empty, reason=None, frames=0, excluded_border=0, rejected=0, event=0
    )
