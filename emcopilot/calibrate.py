"""Where a frame's nanometres come from, when the file itself is not the last word.

Strongest first: the operator's value, the file's metadata, a sidecar file beside the frame,
and a table of magnifications. Nothing at all leaves the frame in px: unknown is never
guessed.

A sidecar is `STEM.json`, `STEM.toml` or `STEM.txt` beside `STEM.tif`:

    {"pixel_size_nm": 0.21}            JSON; [y, x] for pixels that are not square
    pixel_size_nm = 0.21               TOML
    pixel size: 0.21 nm/px             text: any line that names a pixel size with a unit
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast

from pydantic import Field, PositiveFloat

from emcopilot.config import Settings
from emcopilot.decode import METADATA, Frame
from emcopilot.errors import CalibrationError
from emcopilot.formats.page import PixelSize
from emcopilot.formats.units import LARGEST_NM, SMALLEST_NM, length_nm

OPERATOR, SIDECAR, MAGNIFICATION_TABLE = "operator", "sidecar", "magnification table"
SIDECAR_EXTENSIONS = (".json", ".toml", ".txt")
MAX_SIDECAR_BYTES = 1_000_000
MAGNIFICATION_TOLERANCE = 0.005
"""Indicated magnifications are rounded: 39,900 and 40,000 are one setting."""

_KEYS = ("pixel_size_nm", "pixelsize_nm", "pixel_size", "pixelsize", "nm_per_pixel",
         "nm_per_px")  # fmt: skip
_LINE = re.compile(
    r"""^\W*(?P<key>pixel[ _-]?size(?:[ _-]?nm)?|nm[ _-]?per[ _-]?(?:pixel|px)|scale)
        [^\S\n]*(?:[(\[](?P<in>[^\s)\]/]+)[^)\]]*[)\]])?[^\S\n]*[:=\t ][^\S\n]*
        (?P<value>[+-]?[\d.,]+(?:e[+-]?\d+)?)[^\S\n]*
        (?P<unit>[a-zµμÅ]*)(?P<per>[^\S\n]*/[^\S\n]*p)?""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_UNIT_IN_TEXT = re.compile(
    r"^\s*([+-]?[\d.,]+(?:e[+-]?\d+)?)\s*([a-zµμÅ]+)(?=$|\s|/)", re.IGNORECASE
)


class MagnificationRow(Settings):
    """One row of a facility's table: what a pixel is at one magnification."""

    magnification: PositiveFloat
    """As the microscope indicates it, e.g. 40000."""
    pixel_size_nm: Annotated[float, Field(ge=SMALLEST_NM, le=LARGEST_NM)]
    """Edge of a pixel at this magnification and binning 1, in nm."""
    instrument: str | None = None
    """Only for frames whose metadata name this microscope; None is for all."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything outside the file that may say what a pixel is."""

    operator_nm: PixelSize | None = None
    """Edges (y, x) in nm that a person set for the session."""
    sidecar_nm: PixelSize | None = None
    """From the file beside the frame; `sidecar_pixel_size_nm` reads it."""
    table: Sequence[MagnificationRow] = ()
    """The facility's table."""


def calibrate(frame: Frame, known: Calibration) -> Frame:
    """Give a frame its pixel size and say where it comes from.

    Parameters
    ----------
    frame : Frame
        As decoded; its own metadata's pixel size is kept unless the operator says other.
    known : Calibration
        The operator's value, a sidecar's, the table; each may be absent.

    Raises
    ------
    CalibrationError
        If the operator's value is not positive and finite.
    """
    if known.operator_nm is not None:
        _check(known.operator_nm)
        return _sized(frame, known.operator_nm, OPERATOR)
    if frame.pixel_size_nm is not None:
        return replace(frame, pixel_size_source=frame.pixel_size_source or METADATA)
    if known.sidecar_nm is not None:
        return _sized(frame, known.sidecar_nm, SIDECAR)
    row = _matching_row(frame, known.table)
    if row is not None:
        edge = row.pixel_size_nm * (frame.binning or 1.0)
        return _sized(frame, (edge, edge), MAGNIFICATION_TABLE)
    return replace(frame, pixel_size_source=None)


def find_sidecar(path: Path) -> Path | None:
    """Find the sidecar beside a frame's file; the file itself is never its own."""
    for extension in SIDECAR_EXTENSIONS:
        beside = path.with_suffix(extension)
        if beside != path and beside.is_file():
            return beside
    return None


def sidecar_pixel_size_nm(path: Path) -> PixelSize | None:
    """Read the pixel size from the sidecar beside a frame's file; None without one.

    Raises
    ------
    CalibrationError
        If a .json or .toml sidecar states a pixel size that cannot be right.
    """
    beside = find_sidecar(path)
    if beside is None or beside.stat().st_size > MAX_SIDECAR_BYTES:
        return None
    return parse_sidecar(beside.name, beside.read_bytes())


def parse_sidecar(name: str, content: bytes) -> PixelSize | None:
    """Read a pixel size (y, x) in nm from a sidecar's text; None when it states none.

    Camera software writes .json and .txt files of its own beside frames: what cannot be
    parsed or names no pixel size is not a sidecar, and no error.

    Raises
    ------
    CalibrationError
        If the stated pixel size is not a positive, plausible length.
    """
    text = content.decode("utf-8-sig", errors="replace")
    try:
        if name.lower().endswith(".json"):
            return _from_mapping(name, json.loads(text))
        if name.lower().endswith(".toml"):
            return _from_mapping(name, tomllib.loads(text))
    except (ValueError, RecursionError):
        return None
    return _from_lines(name, text)


def _from_mapping(name: str, tree: object) -> PixelSize | None:
    if not isinstance(tree, Mapping):
        return None
    stated = cast(Mapping[str, object], tree)
    for key, value in stated.items():
        spelled = re.sub(r"[ -]+", "_", key.strip().lower())
        if spelled in _KEYS:
            unit = "nm" if "nm" in spelled else stated.get("unit", stated.get("units"))
            return _lengths(name, value, unit)
    return None


def _from_lines(name: str, text: str) -> PixelSize | None:
    for line in _LINE.finditer(text):
        named = re.sub(r"[ _-]", "", line["key"].lower())
        if named == "scale" and not (line["per"] or "/p" in line[0].lower()):
            continue  # "scale: 50 nm" is a scale bar's length more often than a pixel's
        unit = "nm" if "nm" in named else line["in"] or line["unit"]
        if unit:  # a bare number may be anything: µm, px, a camera's pitch
            return _lengths(name, line["value"], unit)
    return None


def _lengths(name: str, value: object, unit: object) -> PixelSize | None:
    pair = isinstance(value, list)
    edges = cast(list[object], value) if pair else [value, value]
    if isinstance(value, str) and (match := _UNIT_IN_TEXT.match(value)):
        edges, unit = [match[1], match[1]], match[2]
    if unit is None:
        return None
    sizes = [length_nm(edge, unit) for edge in edges]
    if len(sizes) != 2 or None in sizes:
        raise CalibrationError(
            f"sidecar {name}: pixel size {value!r} {unit} is no length; expected a "
            "positive number of nm, or [y, x]"
        )
    y, x = sizes
    return None if y is None or x is None else (y, x)


def _matching_row(
    frame: Frame, table: Sequence[MagnificationRow]
) -> MagnificationRow | None:
    """Choose the row of this magnification, one for the frame's instrument first."""
    if frame.magnification is None:
        return None
    near = [
        row
        for row in table
        if row.instrument in {None, frame.instrument}
        and math.isclose(
            row.magnification, frame.magnification, rel_tol=MAGNIFICATION_TOLERANCE
        )
    ]
    return min(near, key=lambda row: row.instrument is None, default=None)


def _sized(frame: Frame, size: PixelSize, source: str) -> Frame:
    return replace(frame, pixel_size_nm=size, pixel_size_source=source)


def _check(size: PixelSize) -> None:
    if not all(math.isfinite(e) and SMALLEST_NM <= e <= LARGEST_NM for e in size):
        raise CalibrationError(
            f"pixel size {size[0]} x {size[1]} nm cannot be right; expected "
            f"{SMALLEST_NM:g} to {LARGEST_NM:g} nm"
        )
