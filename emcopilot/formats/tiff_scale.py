"""Pixel sizes in TIFF: every vendor's private place, and the printing resolution.

Strategy: each function knows one writer's tags and answers None when that writer did not
make the file; `page_scale` asks them in order, most specific first. A resolution in inch or
cm comes last, and only when it is finer than any printer's: 72 dpi says nothing about the
specimen.
"""

# Border to a library without types: what comes from it is typed where it leaves this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tifffile import TiffFile, TiffPage

from emcopilot.formats.page import PixelSize
from emcopilot.formats.units import as_float, pixel_size_nm, seconds, why_no_length

FINEST_PRINT_NM = 1000.0
"""Edge of a printed dot that no printer or screen reaches (25,400 dpi)."""

DM_UNIT_X, DM_UNIT_Y, DM_UNIT_Z = 65003, 65004, 65005
DM_SCALE_X, DM_SCALE_Y, DM_SCALE_Z = 65009, 65010, 65011
SIS_TAGS = (33471, 33560)
TESCAN_TAG = 50431


@dataclass(frozen=True, slots=True)
class TiffScale:
    """What a TIFF's metadata say about scale, time and mode."""

    pixel_size_nm: PixelSize | None = None
    frame_step_s: float | None = None
    """Seconds between consecutive pages."""
    modality: str | None = None
    detector: str | None = None
    sample: str | None = None
    magnification: float | None = None
    notes: tuple[str, ...] = ()


def page_scale(tif: TiffFile, page: TiffPage) -> TiffScale:
    """Ask each writer's rule in turn; the first that knows the file answers."""
    for rule in (_fei, _zeiss, _tvips, _olympus, _tescan, _jeol, _gatan, _ome, _imagej):
        found = rule(tif, page)
        if found is not None:
            return found
    return _resolution(page)


def _fei(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """FEI and Thermo Fisher SEM and FIB: metres in the [Scan] section."""
    metadata = tif.fei_metadata if tif.is_fei else None
    if metadata is None:
        return None
    scan, image = _section(metadata, "Scan"), _section(metadata, "Image")
    infrared = _section(metadata, "IRBeam")
    modality = "SEM" if "Scan" in metadata else None
    size = pixel_size_nm(scan.get("PixelHeight"), scan.get("PixelWidth"), "m", "m")
    if size is None and infrared:  # the navigation camera states its field of view
        size = pixel_size_nm(
            _ratio(infrared.get("VFW"), image.get("ResolutionY")),
            _ratio(infrared.get("HFW"), image.get("ResolutionX")),
            "m",
            "m",
        )
    named = _section(metadata, "Detectors").get("Name")
    # No sample: "UserText" is a remark on the picture, of whatever its user thought of.
    return TiffScale(size, modality=modality, detector=str(named) if named else None)


def _zeiss(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """Zeiss SEM: a named pixel size, else the fourth of the unnamed numbers."""
    metadata = tif.sem_metadata if tif.is_sem else None
    if metadata is None:
        return None
    found = TiffScale(
        modality="SEM",
        detector=_zeiss_text(metadata.get("dp_detector_type")),
        sample=_zeiss_text(metadata.get("sv_sample_id")),
    )
    for key in ("ap_image_pixel_size", "ap_pixel_size"):
        named = metadata.get(key)  # (label, number, unit)
        if isinstance(named, tuple) and len(named) == 3:
            size = pixel_size_nm(named[1], named[1], named[2], named[2])
            if size is not None:
                return replace(found, pixel_size_nm=size)
    unnamed = metadata.get("")
    # It is stated for an image 1024 px wide, whatever the width of this one.
    stated = unnamed[3] if isinstance(unnamed, tuple) and len(unnamed) > 3 else None
    metres = _ratio((as_float(stated) or 0.0) * 1024, page.imagewidth)
    return replace(found, pixel_size_nm=pixel_size_nm(metres, metres, "m", "m"))


def _zeiss_text(named: object) -> str | None:
    """Return the text of a (label, text) pair."""
    return str(named[1]) if isinstance(named, tuple) and len(named) == 2 else None


def _tvips(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """TVIPS EM-MENU cameras: nm on the specimen in the version 2 header."""
    metadata = tif.tvips_metadata if tif.is_tvips else None
    if metadata is None:
        return None
    size = pixel_size_nm(
        metadata.get("PixelSizeY"), metadata.get("PixelSizeX"), "nm", "nm"
    )
    if size is None:
        size = _resolution(page).pixel_size_nm
    return TiffScale(size, modality="TEM")


def _olympus(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """Olympus SIS (iTEM, Analysis): metres in a private tag."""
    for code in SIS_TAGS:
        tag = page.tags.get(code)
        metadata = tag.value if tag is not None else None
        if isinstance(metadata, Mapping) and "pixelsizex" in metadata:
            x, y = metadata["pixelsizex"], metadata.get("pixelsizey")
            return TiffScale(
                pixel_size_nm(y, x, "m", "m"),
                magnification=_positive(metadata.get("magnification")),
            )
    return None


def _tescan(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """Tescan SEM: `PixelSizeX=` in metres, text inside a private tag."""
    tag = page.tags.get(TESCAN_TAG)
    if tag is None or not isinstance(tag.value, bytes | str):
        return None
    text = tag.value if isinstance(tag.value, str) else tag.value.decode("latin-1")
    x, y = _named(text, r"PixelSizeX"), _named(text, r"PixelSizeY")
    detector = re.search(r"^Detector0?\s*=\s*(\S.*)$", text, re.MULTILINE)
    return TiffScale(
        pixel_size_nm(y, x, "m", "m"),
        modality="SEM",
        detector=detector[1].strip() if detector else None,
    )


def _jeol(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """JEOL SightX: the camera's resolution over the magnification, in MAG mode."""
    maker = page.tags.get("Make")
    if maker is None or not str(maker.value).startswith("JEOL"):
        return None
    text = page.description
    mode = re.search(r"<ModeString>\s*(\w+)", text)
    stated = re.search(r"<SelectorValue>\s*([\d.eE+]+)", text)
    magnification = as_float(stated[1]) if stated else None
    if mode is None or mode[1] != "MAG" or not magnification or "eosTEM" not in text:
        return TiffScale(notes=("not a JEOL image in MAG mode: sizes stay in px",))
    edges = _resolution_nm(page)
    size = None
    if edges is not None:
        y, x = edges
        size = pixel_size_nm(y / magnification, x / magnification, "nm", "nm")
    return TiffScale(size, modality="TEM", magnification=magnification)


def _gatan(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """Gatan DigitalMicrograph's export: one tag an axis, units as text."""
    tags = page.tags if DM_SCALE_X in page.tags else tif.pages.first.tags
    if DM_SCALE_X not in tags or DM_SCALE_Y not in tags:
        return None
    x, y, z = (tags.valueof(t) for t in (DM_SCALE_X, DM_SCALE_Y, DM_SCALE_Z))
    unit_x, unit_y = tags.valueof(DM_UNIT_X), tags.valueof(DM_UNIT_Y)
    size = pixel_size_nm(y, x, unit_y, unit_x)
    problem = "" if size else why_no_length(x, unit_x)
    step = seconds(z, tags.valueof(DM_UNIT_Z))
    return TiffScale(size, step, notes=(problem,) if problem else ())


def _ome(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """OME-XML: PhysicalSizeX and Y of <Pixels>, µm unless a unit is given.

    Read with a pattern rather than an XML parser: the file may be hostile, and an entity
    bomb needs a parser to go off.
    """
    text = tif.ome_metadata if tif.is_ome else None
    heads = re.findall(r"<(?:\w+:)?Pixels\s([^>]*)>", text) if text else []
    if not heads:
        return None
    found = {_ome_pixels(head) for head in heads}
    if len(found) > 1:
        note = "the OME images state different pixel sizes: sizes stay in px"
        return TiffScale(notes=(note,))
    return found.pop()


def _ome_pixels(head: str) -> TiffScale:
    attributes = dict(re.findall(r"""([\w:]+)\s*=\s*["']([^"']*)["']""", head))
    unit_x = attributes.get("PhysicalSizeXUnit", "µm")
    unit_y = attributes.get("PhysicalSizeYUnit", "µm")
    x = attributes.get("PhysicalSizeX")
    size = pixel_size_nm(attributes.get("PhysicalSizeY"), x, unit_y, unit_x)
    step = seconds(
        attributes.get("TimeIncrement"), attributes.get("TimeIncrementUnit", "s")
    )
    problem = why_no_length(x, unit_x) if x and size is None else ""
    only_time = attributes.get("SizeZ", "1") == "1" == attributes.get("SizeC", "1")
    return TiffScale(size, step if only_time else None, notes=_some(problem))


def _imagej(tif: TiffFile, page: TiffPage) -> TiffScale | None:
    """ImageJ: pixels per `unit` in the resolution tags; no unit, no calibration."""
    metadata = tif.imagej_metadata if tif.is_imagej else None
    if metadata is None:
        return None
    step = as_float(metadata.get("finterval"))
    rate = as_float(metadata.get("fps"))
    step = step if step else (1.0 / rate if rate else None)
    # Pages of a hyperstack go through channels and slices before the next frame.
    others = (as_float(metadata.get(axis)) or 1.0 for axis in ("channels", "slices"))
    only_time = bool(metadata.get("frames")) and max(others) <= 1.0
    scale = TiffScale(frame_step_s=step if only_time else None)
    unit = str(metadata.get("unit", ""))
    per_unit = _pixels_per_unit(tif.pages.first)
    if not unit or per_unit is None:
        return scale
    if unit.lower() in {"inch", "inches", "cm"}:
        # ImageJ turns any picture's 72 dpi into inches: it is printing, not the specimen.
        found = _finer_than_print(page)
        return replace(scale, pixel_size_nm=found.pixel_size_nm, notes=found.notes)
    y, x = per_unit
    size = pixel_size_nm(1 / y, 1 / x, str(metadata.get("yunit", unit)), unit)
    problem = "" if size else why_no_length(1 / x, unit)
    return replace(scale, pixel_size_nm=size, notes=_some(problem))


def _resolution(page: TiffPage) -> TiffScale:
    return _finer_than_print(page)


def _finer_than_print(page: TiffPage) -> TiffScale:
    edges = _resolution_nm(page)
    if edges is None or max(edges) >= FINEST_PRINT_NM:
        return TiffScale()
    size = pixel_size_nm(*edges, "nm", "nm")
    if size is None:
        return TiffScale()
    return TiffScale(
        size, notes=("pixel size from the resolution tags, finer than any printer",)
    )


def _resolution_nm(page: TiffPage) -> PixelSize | None:
    unit = page.tags.valueof("ResolutionUnit")
    inch_or_cm = {2: 2.54e7, 3: 1e7}.get(int(unit) if isinstance(unit, int) else 0)
    per_unit = _pixels_per_unit(page)
    if inch_or_cm is None or per_unit is None:
        return None
    return inch_or_cm / per_unit[0], inch_or_cm / per_unit[1]


def _pixels_per_unit(page: TiffPage) -> tuple[float, float] | None:
    """(y, x) of the resolution tags; None when absent, zero or a filled register."""
    both: list[float] = []
    for name in ("YResolution", "XResolution"):
        value = page.tags.valueof(name)
        if not isinstance(value, tuple) or len(value) != 2:
            return None
        above, below = (int(part) for part in value)
        if above <= 0 or below <= 0 or above == 0xFFFFFFFF:
            return None
        both.append(above / below)
    return both[0], both[1]


def _section(metadata: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = metadata.get(name)
    return section if isinstance(section, Mapping) else {}  # pyright: ignore[reportUnknownVariableType]


def _ratio(above: object, below: object) -> float | None:
    top, bottom = as_float(above), as_float(below)
    return top / bottom if top and bottom else None


def _positive(value: object) -> float | None:
    number = as_float(value)
    return number if number and number > 0 else None


def _named(text: str, key: str) -> str | None:
    match = re.search(key + r"\s*=\s*([-+.\deE]+)", text)
    return match[1] if match else None


def _some(note: str) -> tuple[str, ...]:
    return (note,) if note else ()
