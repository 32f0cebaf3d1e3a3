"""Image files dropped on the page: measured like an agent's, without one."""

from nicegui.element import Element

from gpu_server.page.frame_canvas import API


class FileDrop(Element, component="file_drop.js"):
    """Takes files dropped anywhere on the page.

    Parameters
    ----------
    session : str
        Name of the session that they come into.
    allowed : bool
        Whether this viewer may send files; the server asks again.
    """

    def __init__(self, session: str, *, allowed: bool) -> None:
        super().__init__()
        self._props["address"] = f"{API}/uploads"
        self._props["session"] = session
        self._props["allowed"] = allowed

    def choose(self) -> None:
        """Open the browser's own file chooser."""
        self.run_method("open")
