"""The live frame as a page element: the browser fetches and draws it without Python."""

from collections.abc import Callable
from typing import TypedDict

from nicegui.element import Element
from nicegui.events import GenericEventArguments

LIVE_FEED = "/api/v1/live"


class ViewOptions(TypedDict, total=False):
    """What the canvas draws."""

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
    """Canvas fed by the live WebSocket; frames never pass through the page's own socket."""

    def __init__(self, on_frame: Callable[[dict[str, object]], None]) -> None:
        super().__init__()
        self._props["feed"] = LIVE_FEED

        def forward(event: GenericEventArguments) -> None:
            on_frame(event.args)

        # Names and figures only, twice a second: the picture is already on the screen.
        self.on("frame", forward, throttle=0.5)

    def fit(self) -> None:
        """Show the whole frame."""
        self.run_method("fit")

    def show(self, options: ViewOptions) -> None:
        """Change what is drawn."""
        self.run_method("set", dict(options))
