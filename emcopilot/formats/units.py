"""Units of files into nm and s; the only place that sees Å, µm and inches."""

import math
import re

from emcopilot.formats.page import PixelSize

SMALLEST_NM = 1e-4
LARGEST_NM = 1e7
"""A pixel below 0.1 pm or above 1 cm is a header's accident, not a calibration.

The widest real one we know is a navigation camera's: 0.26 mm.
"""

_NM = {
    "m": 1e9, "meter": 1e9, "meters": 1e9, "metre": 1e9, "metres": 1e9,
    "cm": 1e7, "centimeter": 1e7, "centimeters": 1e7,
    "mm": 1e6, "millimeter": 1e6, "millimeters": 1e6,
    "µm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3,
    "micrometers": 1e3, "micrometre": 1e3,
    "nm": 1.0, "nanometer": 1.0, "nanometers": 1.0, "nanometre": 1.0,
    "å": 0.1, "angstrom": 0.1, "angstroms": 0.1, "ångström": 0.1, "ang": 0.1,
    "pm": 1e-3, "picometer": 1e-3, "picometers": 1e-3,
    "inch": 2.54e7, "inches": 2.54e7, "in": 2.54e7,
}  # fmt: skip
_SECONDS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "µs": 1e-6,
    "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0,
}  # fmt: skip
_TWO_WAYS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
"""A comma that may part thousands as well as decimals."""


def normal_unit(unit: object) -> str:
    """Spell a unit one way: lower case, one micro sign, ImageJ's escapes undone."""
    text = str(unit or "").strip().strip("\0").strip()
    if text == "A":  # lower-cased it would be nobody's unit
        return "å"
    text = text.replace("\\u00B5", "µ").replace("\\u00C5", "Å").lower()
    # µ (micro sign) and μ (Greek mu) look alike; so do Å (letter) and the Angstrom sign.
    return text.replace("\u03bc", "µ").replace("\u212b", "å")


def length_nm(value: object, unit: object) -> float | None:
    """Convert a pixel's edge to nm; None when it is no usable length.

    Reciprocal units (diffraction), energies, "pixel" and no unit at all give None, and
    so do zero, negative, infinite and absurd values: unknown means px, never a false nm.
    """
    factor = _NM.get(normal_unit(unit))
    number = as_float(value)
    if factor is None or number is None:
        return None
    nm = number * factor
    return nm if SMALLEST_NM <= nm <= LARGEST_NM else None


def pixel_size_nm(
    y: object, x: object, unit_y: object, unit_x: object
) -> PixelSize | None:
    """Convert both edges of a pixel to nm; None unless both are known."""
    y_nm, x_nm = length_nm(y, unit_y), length_nm(x, unit_x)
    return None if y_nm is None or x_nm is None else (y_nm, x_nm)


def seconds(value: object, unit: object) -> float | None:
    """Convert the step of a time axis to s; None when it is no usable time."""
    factor = _SECONDS.get(normal_unit(unit))
    number = as_float(value)
    if factor is None or number is None or number <= 0:
        return None
    return number * factor


def as_float(value: object) -> float | None:
    """Read a header's number, which may be a string with a decimal comma.

    "1,024" gives None: it is 1024 to one writer and 1.024 to another.
    """
    text = str(value).strip()
    if _TWO_WAYS.fullmatch(text):
        return None
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def is_reciprocal(unit: object) -> bool:
    """Say whether an axis is one of reciprocal space, as in a diffraction pattern."""
    name = normal_unit(unit)
    return name.startswith(("1/", "1 /")) or name.endswith("-1")


def why_no_length(value: object, unit: object) -> str:
    """Say for the microscopist why a stated pixel size was not taken."""
    name = normal_unit(unit)
    if not name:
        return ""
    if is_reciprocal(unit):
        return f"axes are in {name}: a diffraction pattern, so sizes stay in px"
    if name not in _NM:
        return f"axes are in {name!r}, which is no length: sizes stay in px"
    return f"pixel size {value} {name} cannot be right: sizes stay in px"
