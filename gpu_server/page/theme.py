"""Colours of the page: near-black, because the microscope room is dark.

Bright colour is kept for what has a meaning: the state of a part, and the size of a particle.
"""

from pathlib import Path

BACKGROUND, PANEL, RAISED, LINE = "#07090b", "#0e1216", "#26313b", "#1e262d"
INK, FAINT = "#e6ebf0", "#8e9aa6"
ACCENT = "#58a6ff"
BAR, FIT, MEAN = "#3f7fc4", "#ffcc66", "#e6ebf0"
GOOD, WARN, BAD, OFF = "#3ddc84", "#ffb020", "#ff5c5c", "#56616b"
LIGHTS = {"green": GOOD, "yellow": WARN, "red": BAD, "off": OFF}

STYLE_SHEET = Path(__file__).with_name("page.css")

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    f'<rect width="32" height="32" rx="7" fill="{PANEL}"/>'
    f'<circle cx="13" cy="13" r="6" fill="none" stroke="{ACCENT}" stroke-width="2.5"/>'
    f'<circle cx="22.5" cy="22" r="3.5" fill="none" stroke="{FIT}" stroke-width="2.5"/></svg>'
)


def variables() -> str:
    """Return the colours as CSS variables, so that the style sheet names none twice."""
    colours = {
        "background": BACKGROUND, "panel": PANEL, "raised": RAISED, "line": LINE,
        "ink": INK, "faint": FAINT, "accent": ACCENT,
        "good": GOOD, "warn": WARN, "bad": BAD, "off": OFF,
    }  # fmt: skip
    declared = "".join(f"--{name}:{value};" for name, value in colours.items())
    return f":root {{{declared}}}"
