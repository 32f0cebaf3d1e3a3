"""Adapt, Compare, Promote, Roll back: which can be pressed, which is wanted, and why not."""

from collections.abc import Callable, Mapping

from nicegui import ui

from gpu_server.page.learning_view import Learning
from gpu_server.page.panels import box
from gpu_server.tables import AWAITING_OPERATOR

NO_DOMAIN = "no domain yet: it takes three frames that agree"
_NEEDS_SCOPE = "asks for a token with operator scope"
_ONE_MODEL = "this server has one model for good"
_NAMES = {
    "adapt": "Adapt to this domain",
    "compare": "Compare",
    "promote": "Promote",
    "roll-back": "Roll back",
}


class ActionButtons:
    """The panel's last row.

    Parameters
    ----------
    may_change : bool
        Whether this viewer has operator scope.
    deeds : mapping
        What each button does, by the names of `refusals`.
    """

    def __init__(
        self, deeds: Mapping[str, Callable[[], object]], *, may_change: bool
    ) -> None:
        self._may_change = may_change
        with box("emc-actions", "learning-actions"):
            self._buttons = {name: _button(name, deeds[name]) for name in _NAMES}

    def show(self, learning: Learning) -> None:
        """Let be pressed what can be; say on hovering why not."""
        refused = refusals(learning, may_change=self._may_change)
        wants = wanted(learning)
        for name, button in self._buttons.items():
            _able(button, refused[name])
            is_wanted = name == wants and button.enabled
            button.classes(
                add="wanted" if is_wanted else "", remove="" if is_wanted else "wanted"
            )


def refusals(learning: Learning, *, may_change: bool) -> dict[str, str]:
    """Say of each button why it cannot be pressed; empty where it can."""
    domain, job = learning.domain, learning.job
    learns = bool(job and job.is_open and domain and job.domain_id == domain.id)
    changing = (
        (not learning.has_models, _ONE_MODEL),
        (not may_change, _NEEDS_SCOPE),
        (learning.doing is not None, learning.doing or ""),
    )
    return {
        "adapt": _first_of(
            (not learning.has_jobs, "this server runs no adaptation jobs"),
            (not may_change, _NEEDS_SCOPE),
            (domain is None, NO_DOMAIN),
            (learns, "a job of this domain runs already"),
        ),
        "compare": _first_of((not learning.has_models, _ONE_MODEL)),
        "promote": _first_of(
            *changing, (proposed(learning) is None, "no candidate is ready")
        ),
        "roll-back": _first_of(
            *changing, (learning.rollback_to is None, "there is no promotion to undo")
        ),
    }


def proposed(learning: Learning) -> str | None:
    """Return the model that Promote is about: the candidate, else what the alarm proposes."""
    if learning.candidate:
        return learning.candidate.model.model_id
    asked = learning.shift.proposal if learning.shift else None
    if asked and asked.action == "promote" and asked.model_id != learning.live:
        return asked.model_id
    return None


def wanted(learning: Learning) -> str:
    """Return the button that the operator is most likely to press next, if any."""
    candidate = learning.candidate
    if candidate and (candidate.objection or candidate.model.verdict != "promote"):
        return "compare"
    if proposed(learning):
        return "promote"
    return "adapt" if learning.shift and learning.shift.state == "shifted" else ""


def calls(learning: Learning) -> bool:
    """Say whether something asks for the operator."""
    shift, job = learning.shift, learning.job
    is_changed = shift is not None and shift.state != "ok"
    return is_changed or bool(job and (job.is_open or job.state == AWAITING_OPERATOR))


def _first_of(*reasons: tuple[bool, str]) -> str:
    return next((why for applies, why in reasons if applies), "")


def _able(button: ui.button, why_not: str) -> None:
    if button.enabled == bool(why_not):
        button.set_enabled(not why_not)
    if button.props.get("title", "") != why_not:
        button.props["title"] = why_not


def _button(name: str, then: Callable[[], object]) -> ui.button:
    # No colour of Quasar's: its rules are weightier than any of ours.
    button = ui.button(_NAMES[name], on_click=then, color=None)
    button.props("flat dense no-caps").classes("emc-action").mark(name)
    button.props["data-part"] = name
    return button
