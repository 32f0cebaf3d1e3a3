"""The live frame as a page element: the browser fetches and draws it without Python."""

import logging
from collections.abc import Callable
from typing import TypedDict

from nicegui.element import Element
from nicegui.events import GenericEventArguments
from pydantic import ValidationError

from emcopilot.live_packet import LiveHeader

log = logging.getLogger(__name__)

LIVE_FEED = "/api/v1/live"


class ViewOptions(TypedDict):
    """What the canvas draws over and around the picture."""

    outlines: bool
    masks: bool
    opacity: float
    """Of the masks, 0..1."""
    brightness: float
    """1 leaves the picture as it is."""
    contrast: float


class FrameCanvas(
    Element,
    component="frame_canvas.js",
    esm={"emcopilot-frame-viewer": "frame_viewer"},
):
    """Canvas fed by the live WebSocket; frames never pass through the page's own socket.

    Parameters
    ----------
    on_frame : callable
        Told which frame is on the screen, at most twice a second; the last one always comes.
    """

    def __init__(self, on_frame: Callable[[LiveHeader], None]) -> None:
        super().__init__()
        self._props["feed"] = LIVE_FEED

        def forward(event: GenericEventArguments) -> None:
            try:
                header = LiveHeader.model_validate(event.args)
            except ValidationError as error:
                log.warning("frame event refused errors=%d", error.error_count())
                return
            on_frame(header)

        self.on("frame", forward, throttle=0.5)

    def fit(self) -> None:
        """Show the whole frame."""
        self.run_method("fit")

    def show(self, options: ViewOptions) -> None:
        """Change what is drawn."""
        self.props["options"] = dict(options)
