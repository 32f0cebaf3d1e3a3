"""The row under the film: what is drawn over the frame, and how bright it is."""

from collections.abc import Callable

from nicegui import ui

from gpu_server.page.frame_canvas import FrameCanvas, Levels
from gpu_server.page.panels import box

_LOWEST, _HIGHEST = 0.2, 6.0


class ViewTools:
    """Outlines, masks, opacity, brightness and contrast of one canvas."""

    def __init__(self, canvas: FrameCanvas) -> None:
        self._canvas = canvas
        with box("emc-tools"):
            self.outlines = _switch("Outlines", "Z", value=True, then=self._restyle)
            self.masks = _switch("Masks", "X", value=False, then=self._restyle)
            self._opacity = _knob("Opacity", (0.05, 1.0), 0.35, self._restyle)
            bounds = (_LOWEST, _HIGHEST)
            self._brightness = _knob("Brightness", bounds, 1.0, self._restyle)
            self._contrast = _knob("Contrast", bounds, 1.0, self._restyle)
            box("emc-gap")
            _button("Auto", "A", canvas.auto, "contrast for the part in sight")
            _button("Reset", "", self._reset, "as it was acquired")
            _button("Fit", "F", canvas.fit, "show the whole frame")

    def take(self, levels: Levels) -> None:
        """Set what Auto contrast found."""
        self._brightness.set_value(_within(levels.brightness))
        self._contrast.set_value(_within(levels.contrast))

    def _reset(self) -> None:
        self._opacity.set_value(0.35)
        self._brightness.set_value(1.0)
        self._contrast.set_value(1.0)

    def _restyle(self) -> None:
        self._canvas.show(
            {
                "outlines": bool(self.outlines.value),
                "masks": bool(self.masks.value),
                "opacity": _value(self._opacity),
                "brightness": _value(self._brightness),
                "contrast": _value(self._contrast),
            }
        )


def _within(value: float) -> float:
    return min(max(round(value, 2), _LOWEST), _HIGHEST)


def _switch(name: str, key: str, *, value: bool, then: Callable[[], None]) -> ui.switch:
    with box("emc-knob"):
        switch = ui.switch(name, value=value, on_change=then).props("dense size=sm")
        switch.props["aria-label"] = name
        _key_cap(key)
    return switch


def _knob(
    name: str, bounds: tuple[float, float], value: float, then: Callable[[], None]
) -> ui.slider:
    with box("emc-knob lesser"):
        ui.label(name)
        low, high = bounds
        slider = ui.slider(min=low, max=high, step=0.05, value=value, on_change=then)
        slider.props["aria-label"] = name
    return slider


def _value(slider: ui.slider) -> float:
    return 1.0 if slider.value is None else float(slider.value)


def _button(name: str, key: str, then: Callable[[], None], tip: str) -> None:
    with box("emc-knob"):
        button = ui.button(name, on_click=then).props("flat dense no-caps")
        button.props["title"] = tip
        if key:
            _key_cap(key)


def _key_cap(key: str) -> None:
    with ui.element("kbd"):
        ui.label(key)
