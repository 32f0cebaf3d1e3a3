"""One frame with the outlines of two models, and a wipe between them, as a page element."""

from collections.abc import Awaitable, Callable

from nicegui.element import Element
from nicegui.events import GenericEventArguments

from emcopilot.model_messages import FrameComparison
from gpu_server.page.frame_canvas import API


class CompareView(Element, component="compare_view.js"):
    """Left of the wipe one model, right of it the other; arrow keys move it.

    Parameters
    ----------
    on_step : callable
        Told by -1 or 1 that the frame before or the next one is asked for by a key.
    """

    def __init__(self, on_step: Callable[[int], Awaitable[None]]) -> None:
        super().__init__()

        async def forward(event: GenericEventArguments) -> None:
            if event.args in (-1, 1):  # browsers are outside
                await on_step(event.args)

        self.on("step", forward)

    def show(self, comparison: FrameComparison) -> None:
        """Show one frame; the picture is fetched by the browser itself."""
        self.props["frame"] = {
            "picture": f"{API}/frames/{comparison.frame_id}/image.png",
            "number": comparison.number,
            "looks": [
                {
                    "name": look.model_id,
                    "particles": look.particles,
                    "offsets": look.outlines.offsets,
                    "points": look.outlines.points,
                }
                for look in comparison.looks
            ],
        }

    def clear_frame(self) -> None:
        """Show nothing."""
        self.props["frame"] = None
