"""Colours of the page: near-black by default, because the microscope room is dark.

Bright colour is kept for what has a meaning: the state of a part, and the size of a particle.
Text stands out from its ground by 4.5 to 1 or more in both themes; states differ in lightness
too and are said in words, so that nothing rests on telling red from green.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

STYLE_SHEET = Path(__file__).with_name("page.css")
LEARNING_SHEET = Path(__file__).with_name("learning.css")
THEME_COOKIE = "emc_theme"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one theme, as CSS writes them."""

    background: str
    panel: str
    raised: str
    line: str
    ink: str
    faint: str
    accent: str
    bar: str
    fit: str
    mean: str
    count: str
    spread: str
    latency: str
    good: str
    warn: str
    bad: str
    off: str


DARK = Palette(
    background="#07090b", panel="#0e1216", raised="#26313b", line="#1e262d",
    ink="#e6ebf0", faint="#93a0ad", accent="#58a6ff",
    bar="#3f7fc4", fit="#ffcc66", mean="#e6ebf0",
    count="#56b4e9", spread="#cc9cf0", latency="#f0a35c",
    good="#3ddc84", warn="#ffb020", bad="#ff6b6b", off="#6b7680",
)  # fmt: skip
LIGHT = Palette(
    background="#eef1f4", panel="#ffffff", raised="#dbe3ea", line="#d3dae1",
    ink="#14191e", faint="#54616e", accent="#0b62c4",
    bar="#3f7fc4", fit="#b45309", mean="#14191e",
    count="#0072b2", spread="#7b3fb5", latency="#b45309",
    good="#0a7d43", warn="#9a5b00", bad="#c62828", off="#7d8894",
)  # fmt: skip

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    f'<rect width="32" height="32" rx="7" fill="{DARK.panel}"/>'
    f'<circle cx="13" cy="13" r="6" fill="none" stroke="{DARK.accent}" stroke-width="2.5"/>'
    f'<circle cx="22.5" cy="22" r="3.5" fill="none" stroke="{DARK.fit}" stroke-width="2.5"/></svg>'
)


def palette(*, light: bool) -> Palette:
    """Return the colours of a theme."""
    return LIGHT if light else DARK


def variables() -> str:
    """Return the colours as CSS variables, so that the style sheet names none twice."""
    return f":root {{{_declared(DARK)}}} body.body--light {{{_declared(LIGHT)}}}"


def _declared(colours: Palette) -> str:
    return "".join(f"--{name}:{value};" for name, value in asdict(colours).items())
