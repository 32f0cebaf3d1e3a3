"""What is asked or explained in a window of its own: pixel size, help."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from emcopilot.live_packet import LiveHeader
from gpu_server.page.panels import box, text
from gpu_server.page.wording import frame_size_text

KEYS = (
    ("space", "pause the live view; play and pause a session"),
    ("← →", "one frame back, on; with Shift ten"),
    ("Home End", "first, last frame of the session"),
    ("L", "live: follow the newest frame"),
    ("Z  X", "outlines, masks"),
    ("F  A", "fit the frame, Auto contrast for the part in sight"),
    ("wheel, drag", "zoom where the pointer is, move"),
    ("click", "reject the particle under the pointer, or take it back"),
    ("N  Shift+N", "next, previous particle, the largest first"),
    ("Delete", "reject the chosen particle; with Shift the whole frame"),
    ("Ctrl+Z", "take back your last change"),
    ("Esc", "let go of the chosen particle; close a window"),
    ("M", "model and domain: Adapt, Compare, Promote, Roll back"),
    ("?", "this list"),
)


class HelpDialog:
    """The keys, and what the drawing means."""

    def __init__(self) -> None:
        with ui.dialog() as self._dialog, box("emc-dialog", "help"):
            ui.label("Keys").classes("emc-dialog-title")
            with box("emc-keys"):
                for keys, what in KEYS:
                    with ui.element("kbd"):
                        ui.label(keys)
                    ui.label(what)
            ui.label("What is drawn").classes("emc-dialog-title")
            for line in (
                "Colour is the equivalent diameter: small blue, large yellow.",
                "Grey dashes: cut by the border, seen but not sized.",
                "Grey dots: doubtful, counted like the others.",
                "Pink dots: rejected, not counted.",
                "Drop image files anywhere on the page to measure them.",
            ):
                ui.label(line).classes("emc-note")
            ui.button("Close", on_click=self._dialog.close).props("flat no-caps")

    def toggle(self) -> None:
        """Open it, or close it."""
        self._dialog.set_value(not self._dialog.value)


class PixelSizeDialog:
    """The operator's pixel size for a session."""

    def __init__(self, use: Callable[[int, float | None], Awaitable[None]]) -> None:
        self._use = use
        self._header: LiveHeader | None = None
        with ui.dialog() as self._dialog, box("emc-dialog", "pixel-size"):
            ui.label("Pixel size").classes("emc-dialog-title")
            self._about = text("emc-note")
            self._size = ui.number(
                "nm per pixel", format="%.6g", min=0, on_change=self._preview
            ).mark("pixel-size")
            self._size.props("outlined dense autofocus")
            self._size.on("keydown.enter", self._accept)
            self._seen = text("emc-note", "pixel-size-preview")
            ui.label(
                "It holds for every frame of this session, the ones to come too, and can be "
                "taken back. Without one, sizes are given in px."
            ).classes("emc-note")
            with box("emc-dialog-buttons"):
                self._own = ui.button("Use the files' own", on_click=self._take_back)
                cancel = ui.button("Cancel", on_click=self._dialog.close)
                self._accepts = ui.button("Use", on_click=self._accept)
            for button in (self._own, cancel, self._accepts):
                button.props("flat no-caps")

    def open(self, header: LiveHeader | None) -> None:
        """Ask for the pixel size of the session of the shown frame."""
        if header is None:
            ui.notify("show a frame of the session first")
            return
        self._header = header
        self._about.set_text(f"of session {header.session}")
        self._size.set_value(header.pixel_size_nm[1] if header.pixel_size_nm else None)
        self._preview()
        self._dialog.open()

    @property
    def _given(self) -> float | None:
        value = self._size.value
        return float(value) if value and 0 < float(value) < 1e6 else None

    def _preview(self) -> None:
        given = self._given
        self._accepts.set_enabled(given is not None)
        if self._header and given:
            self._seen.set_text(frame_size_text(self._header, given))
        else:
            self._seen.set_text("a positive number, e.g. 0.21")

    async def _accept(self) -> None:
        if self._header and self._given:
            self._dialog.close()
            await self._use(self._header.session_id, self._given)

    async def _take_back(self) -> None:
        if self._header:
            self._dialog.close()
            await self._use(self._header.session_id, None)
