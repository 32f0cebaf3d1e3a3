"""One frame with the outlines of two models, and a wipe between them, as a page element."""

from nicegui.element import Element

from emcopilot.model_messages import FrameComparison
from gpu_server.page.frame_canvas import API


class CompareView(Element, component="compare_view.js"):
    """Left of the wipe one model, right of it the other; arrow keys move it."""

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
