"""Menus that open and close in the browser alone.

NiceGUI's own menu tells the server that it is open and is told so in turn: where the server
answers late, a menu that was closed opens again and takes the operator's keys.
"""

from nicegui import ui
from nicegui.element import Element


def menu() -> Element:
    """Return a menu for the button that it is made in; a choice closes it.

    What can be chosen is made in it as `ui.item`.
    """
    return ui.element("q-menu").props("auto-close")
