"""Files dropped on the page: images to be measured, a model's archive to be imported."""

from collections.abc import Awaitable, Callable

from nicegui.element import Element
from pydantic import BaseModel, ConfigDict, Field

from gpu_server.page.frame_canvas import API, checked


class ArchiveNews(BaseModel):
    """How far a model's archive is on its way into the registry, as the browser tells."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str = Field(max_length=1000)
    """Of the file."""
    model_id: str = ""
    """What it is here; empty while it is on its way, and where it was refused."""
    refused: str = ""
    """Why it was not taken."""


class FileDrop(Element, component="file_drop.js"):
    """Takes files dropped anywhere on the page.

    Parameters
    ----------
    session : str
        Name of the session that images come into.
    allowed : bool
        Whether this viewer may send files; the server asks again.
    on_archive : callable
        Told what becomes of a model's archive, which is any `.zip`.
    """

    def __init__(
        self,
        session: str,
        *,
        allowed: bool,
        on_archive: Callable[[ArchiveNews], Awaitable[None]],
    ) -> None:
        super().__init__()
        self._props["images"] = f"{API}/uploads"
        self._props["models"] = f"{API}/models/import"
        self._props["session"] = session
        self._props["allowed"] = allowed
        self.on("archive", checked(ArchiveNews, on_archive))

    def choose(self) -> None:
        """Open the browser's own chooser for images."""
        self.run_method("open", "")

    def choose_archive(self) -> None:
        """Open the browser's own chooser for models' archives."""
        self.run_method("open", ".zip")
