"""Frame and film as a page element: the browser fetches and draws them without Python."""

import logging
from collections.abc import Awaitable, Callable
from typing import Literal, TypedDict, TypeVar

from nicegui.element import Element
from nicegui.events import GenericEventArguments
from pydantic import BaseModel, ConfigDict, ValidationError

from emcopilot.live_packet import LiveHeader

log = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)

API = "/api/v1"
LIVE_FEED = f"{API}/live"


class ViewOptions(TypedDict):
    """What the canvas draws over and around the picture."""

    outlines: bool
    masks: bool
    opacity: float
    """Of the masks, 0..1."""
    brightness: float
    """1 leaves the picture as it is."""
    contrast: float


class FilmState(BaseModel):
    """Which film the canvas shows."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["live", "review"] = "live"
    session: int = 0
    """0: no frame was shown yet."""
    number: int = 0
    count: int = 0
    playing: bool = False


class Levels(BaseModel):
    """Brightness and contrast that suit the part of the frame in sight."""

    model_config = ConfigDict(frozen=True)

    brightness: float
    contrast: float


class FrameCanvas(
    Element,
    component="frame_canvas.js",
    esm={"emcopilot-frame-viewer": "frame_viewer"},
):
    """Canvas and scrubber; frames never pass through the page's own socket.

    Parameters
    ----------
    may_change : bool
        Whether the viewer may reject; the server asks again at every change.
    on_frame : callable
        Told which frame is on the screen, at most twice a second; the last one always comes.
    on_film : callable
        Told when live becomes review or the session another one.
    on_levels : callable
        Told what Auto contrast found.
    """

    def __init__(
        self,
        *,
        may_change: bool,
        on_frame: Callable[[LiveHeader], None],
        on_film: Callable[[FilmState], None],
        on_levels: Callable[[Levels], None],
    ) -> None:
        super().__init__()
        self._props["feed"] = LIVE_FEED
        self._props["api"] = API
        self._props["mayChange"] = may_change
        self._counts = (0, 0)
        self.on("frame", checked(LiveHeader, on_frame), throttle=0.5)
        self.on("film", checked(FilmState, on_film))
        self.on("levels", checked(Levels, on_levels))

    def fit(self) -> None:
        """Show the whole frame."""
        self.run_method("fit")

    def auto(self) -> None:
        """Ask for levels that suit what is in sight; `on_levels` hears them."""
        self.run_method("auto")

    def go_live(self) -> None:
        """Follow the newest frame."""
        self.run_method("goLive")

    def go_to(self, session_id: int, number: int, count: int) -> None:
        """Show a stored frame of a session that has `count` frames."""
        self.run_method("goTo", session_id, number, count)

    def tell_count(self, session_id: int, count: int) -> None:
        """Say how many frames the shown session has by now."""
        if (session_id, count) != self._counts:
            self._counts = session_id, count
            self.run_method("setCount", session_id, count)

    def refresh(self) -> None:
        """Fetch the shown stored frame anew, after a calibration say."""
        self.run_method("refresh")

    def redraw(self) -> None:
        """Draw again, in other colours of the page."""
        self.run_method("redraw")

    def show(self, options: ViewOptions) -> None:
        """Change what is drawn."""
        self.props["options"] = dict(options)


def checked(
    kind: type[ModelT], then: Callable[[ModelT], Awaitable[None] | None]
) -> Callable[[GenericEventArguments], Awaitable[None] | None]:
    """Take an event's value only if it is what it should be: browsers are outside."""

    def forward(event: GenericEventArguments) -> Awaitable[None] | None:
        try:
            value = kind.model_validate(event.args)
        except ValidationError as error:
            log.warning(
                "%s event refused errors=%d", kind.__name__, error.error_count()
            )
            return None
        return then(value)

    return forward
