"""Gatan dm3 and dm4, EMD and MRC, through rosettasciio, lazily.

Readers by allow-list: rosettasciio also has one (PRZ) that unpickles, which never runs here.
"""

# Border to a library without types: what comes from it is typed where it leaves this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import importlib
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from emcopilot.errors import DecodeError
from emcopilot.formats.hdf5_check import check_hdf5
from emcopilot.formats.page import Contents, Page, Source
from emcopilot.formats.units import (
    as_float,
    is_reciprocal,
    pixel_size_nm,
    seconds,
    why_no_length,
)

Tree = Mapping[str, object]
_DETECTORS = re.compile(
    r"\b(HAADF|MAADF|LAADF|ADF|ABF|BF|DF\d?|iDPC|dDPC|DPC|BSE|SE|TEM|STEM|SEM)\b",
    re.IGNORECASE,
)
"""No longer number behind DF: "DF001" is one of a series."""
_MODES = ("STEM", "TEM", "SEM")
"""Say how, not with which detector."""
_SHORT = ("BF", "DF", "SE")
_SPELT = {"IDPC": "iDPC", "DDPC": "dDPC"}
_CAMERAS = ("Ceta", "Falcon", "Rio", "OneView", "K2", "K3", "CCD")
_DM_TAGS = "ImageList/TagGroup0/ImageTags"
"""Where rosettasciio puts the tags of the image at hand."""
_MAGNIFICATIONS = (
    f"{_DM_TAGS}/Microscope Info/Indicated Magnification",
    "Optics/NominalMagnification",
    "fei_header/magnification",
)
_BINNINGS = (f"{_DM_TAGS}/Acquisition/Parameters/High Level/Binning",)
_INSTRUMENTS = (
    f"{_DM_TAGS}/Microscope Info/Name",
    f"{_DM_TAGS}/Microscope Info/Microscope",
    "Instrument/InstrumentModel",
)
# Not "Session Info/Detector": it is typed once a session, and stays when the detector changes.
_DETECTOR_NAMES = (
    "BinaryResult/Detector",
    f"{_DM_TAGS}/DataBar/Signal Name",
    f"{_DM_TAGS}/Acquisition/Device/Name",
)
# No descriptions: "heated to 300 C" is the same sample, and the same domain.
_SAMPLES = (
    "Sample/SampleId",
    f"{_DM_TAGS}/Session Info/Specimen",
    f"{_DM_TAGS}/Microscope Info/Specimen",
)


class _Lazy(Protocol):
    """The part of a dask array that we use."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def __getitem__(self, index: int) -> "_Lazy": ...
    def compute(self, *, scheduler: str) -> NDArray[np.generic]: ...


def preload() -> None:
    """Import all readers now; a decode worker may not import once it is confined."""
    for name in (
        "dask.array",
        "rsciio.digitalmicrograph",
        "rsciio.emd._emd_ncem",
        "rsciio.emd._emd_velox",
        "rsciio.mrc",
    ):
        importlib.import_module(name)


def open_dm(source: Source, keep: ExitStack) -> Contents:
    """Open a DigitalMicrograph 3 or 4 file, with all images that it holds."""
    from rsciio.digitalmicrograph import file_reader  # noqa: PLC0415  (0.6 s)

    try:
        signals = file_reader(str(source.path), lazy=True)
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        signals = file_reader(str(source.path), lazy=False)
    return _contents("DigitalMicrograph", signals)


def open_emd(source: Source, keep: ExitStack) -> Contents:
    """Open a Velox or Berkeley EMD file; spectra in it are left out."""
    import h5py  # noqa: PLC0415
    from rsciio.emd import file_reader  # noqa: PLC0415

    other = check_hdf5(source)
    file = keep.enter_context(h5py.File(source.path, "r"))
    if "Data" in file and "Version" in file:
        signals = _velox_images(file)
    else:
        signals = file_reader(str(source.path), lazy=True)
    contents = _contents("EMD", signals)
    return Contents(contents.format, contents.pages, (*other, *contents.skipped))


def _velox_images(file: object) -> list[dict[str, object]]:
    """Read the images and element maps of a Velox file, and no spectrum.

    The public reader insists on the library `sparse` (and with it numba) as soon as the
    file holds a spectrum stream, although it has read every image by then.
    """
    from rsciio.emd._emd_velox import FeiEMDReader  # noqa: PLC0415

    reader = FeiEMDReader(lazy=True, select_type="images")
    with suppress(ModuleNotFoundError):
        reader.read_file(file)
    return reader.dictionaries


def open_mrc(source: Source, keep: ExitStack) -> Contents:
    """Open an MRC image or stack, FEI's extended header included."""
    from rsciio.mrc import file_reader  # noqa: PLC0415

    with source.path.open("rb") as file:
        header = file.read(1024)
    if len(header) < 1024:
        raise DecodeError(f"{source.name}: {len(header)} of 1024 header bytes")
    if header[212:214] == b"\x11\x11":
        raise DecodeError(
            f"{source.name} was written by a big-endian machine; save it again as "
            "little-endian MRC"
        )
    nx, ny, nz, _ = cast(tuple[int, ...], struct.unpack("<4i", header[:16]))
    if min(nx, ny, nz) < 1:
        raise DecodeError(f"{source.name}: header states {nx}x{ny}x{nz} px")
    # metadata_file=None: rosettasciio would look for neighbours of files called "movie".
    signals = file_reader(
        str(source.path),
        lazy=True,
        metadata_file=None,  # pyright: ignore[reportArgumentType]
    )
    signals[0]["data"] = signals[0]["data"].reshape((nz, ny, nx))
    if struct.unpack("<3i", header[28:40])[1] == 0:  # no grid: rosettasciio says 1 nm
        signals[0]["axes"] = []
    return _contents("MRC", _with_all_axes(signals))


def _with_all_axes(signals: list[dict[str, object]]) -> list[dict[str, object]]:
    """Give back the axes that rosettasciio squeezed away with their single entry."""
    for signal in signals:
        axes = cast(list[dict[str, object]], signal["axes"])
        plain = {"units": None, "scale": 1.0, "navigate": False}
        image = axes[-2:] if len(axes) >= 2 else [plain, plain]
        signal["axes"] = [{"units": None, "scale": 1.0, "navigate": True}, *image]
    return signals


def _contents(name: str, signals: list[dict[str, object]]) -> Contents:
    pages: list[Page] = []
    skipped: list[str] = []
    for number, signal in enumerate(signals):
        what = _not_an_image(signal)
        if what:
            shape = "x".join(str(n) for n in cast(_Lazy, signal["data"]).shape)
            title = _title(signal) or f"signal {number}"
            skipped.append(f"{title}: {what} ({shape}), left out")
        else:
            pages.extend(_pages(signal))
    return Contents(name, pages, tuple(skipped))


def _not_an_image(signal: dict[str, object]) -> str:
    """Say what a signal is when it is no image and no stack of images."""
    axes = cast(list[Tree], signal["axes"])
    scanned = sum(bool(axis.get("navigate")) for axis in axes)
    imaged = len(axes) - scanned
    tags = _at(signal["original_metadata"], _DM_TAGS)
    if isinstance(tags, Mapping) and len(axes) > 2:
        kind = _at(tags, "Meta Data/Format") or _at(tags, "Meta_Data/Format")
        if "spim" in tags or kind == "Spectrum image":
            return "a spectrum image"
    if imaged == 1:
        return "a spectrum image" if scanned > 1 else "a spectrum or line"
    if imaged == 2 and scanned > 1:
        return "4-D data"
    if imaged == 2 or (imaged == 0 and scanned == 2):
        return ""
    return f"{len(axes)}-D data"


def _pages(signal: dict[str, object]) -> list[Page]:
    data = cast(_Lazy, signal["data"])
    axes = cast(list[Tree], signal["axes"])
    y, x = axes[-2], axes[-1]
    size = pixel_size_nm(y["scale"], x["scale"], y["units"], x["units"])
    problem = "" if size else why_no_length(x["scale"], x["units"])
    # A pattern's header keeps the magnification of the last image: no table may use it.
    magnification = (
        None if is_reciprocal(x["units"]) else _number(signal, _MAGNIFICATIONS)
    )
    step = seconds(axes[0]["scale"], axes[0]["units"]) if len(axes) == 3 else None
    count = data.shape[0] if len(axes) == 3 else 1
    return [
        Page(
            shape=_shape(data),
            dtype=data.dtype,
            read=partial(_read, data, index if len(axes) == 3 else None),
            pixel_size_nm=size,
            modality=_modality(signal),
            time_s=None if step is None else index * step,
            magnification=magnification,
            binning=_number(signal, _BINNINGS),
            instrument=_text(signal, _INSTRUMENTS),
            detector=_detector(signal),
            sample=_text(signal, _SAMPLES),
            notes=(problem,) if problem else (),
        )
        for index in range(count)
    ]


def _shape(data: _Lazy) -> tuple[int, ...]:
    height, width = data.shape[-2:]
    samples = len(data.dtype.names) if data.dtype.names else 1
    return (height, width) if samples == 1 else (height, width, samples)


def _read(data: _Lazy, index: int | None) -> NDArray[np.generic]:
    page = data if index is None else data[index]
    if isinstance(page, np.ndarray):
        return page
    # No threads: the decode worker may start none.
    return page.compute(scheduler="synchronous")


def _title(signal: dict[str, object]) -> str:
    return str(_at(signal["metadata"], "General/title") or "")


def _modality(signal: dict[str, object]) -> str | None:
    """Name the detector or mode when the title or the microscope's tags do."""
    title = _title(signal)
    if any(title.startswith(camera) for camera in _CAMERAS):
        return "TEM"
    named = _named_in(title)
    if named:
        return named
    mode = _at(
        signal["original_metadata"],
        f"{_DM_TAGS}/Microscope Info/Illumination Mode",
    )
    text = str(mode or "").upper()
    return "STEM" if "STEM" in text else "TEM" if "TEM" in text else None


def _detector(signal: dict[str, object]) -> str | None:
    """Name the detector where the tags do, else where the title does."""
    said = _text(signal, _DETECTOR_NAMES)
    if said:
        return said
    title = _title(signal)
    camera = next((name for name in _CAMERAS if title.startswith(name)), None)
    named = camera or _named_in(title)
    return None if named in _MODES else named


def _named_in(title: str) -> str | None:
    """Return the detector that a title names, else the mode: "STEM HAADF 12" shows HAADF.

    Of a TEM, "BF" and "DF" say which beams pass, and the camera is the same.
    """
    words: list[str] = _DETECTORS.findall(title.replace("_", " "))
    spelt = [_SPELT.get(word.upper(), word.upper()) for word in words]
    if not {"STEM", "SEM"} & set(spelt):
        # Alone, "Se" is an element; with what scans, "bf" is spelt by a user in haste.
        may_be_short = "TEM" not in spelt
        sure = (
            one
            for one in spelt
            if one[:2] not in _SHORT or (may_be_short and one in words)
        )
        return next(sure, None)
    return next((one for one in spelt if one not in _MODES), spelt[0])


def _number(signal: dict[str, object], paths: tuple[str, ...]) -> float | None:
    for path in paths:
        found = _at(signal["original_metadata"], path)
        number = as_float(found[0] if isinstance(found, tuple | list) else found)
        if number and number > 0:
            return number
    return None


def _text(signal: dict[str, object], paths: tuple[str, ...]) -> str | None:
    for path in paths:
        found = _at(signal["original_metadata"], path)
        if isinstance(found, str) and found.strip():
            return found.strip()
    return None


def _at(tree: object, path: str) -> object:
    """Walk nested dictionaries; None where the path ends early."""
    for key in path.split("/"):
        if hasattr(tree, "as_dictionary"):
            tree = cast(Callable[[], object], getattr(tree, "as_dictionary"))()  # noqa: B009
        if not isinstance(tree, Mapping):
            return None
        tree = cast(Tree, tree).get(key)
    return tree
