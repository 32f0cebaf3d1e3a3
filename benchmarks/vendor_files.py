"""Decode every vendor file of EMCOPILOT_DATA against its reference.

    EMCOPILOT_DATA=... python benchmarks/vendor_files.py [--json FILE]

`vendor/reference.csv` holds what rosettasciio 0.15.0 read: shape, type and axes of each signal.
Every 2-D image signal, and every page of a stack, must come out of `emcopilot.decode` with
that shape, type and pixel size; only spectra and 4-D data may be left out.
"""

import argparse
import csv
import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emcopilot.decode import Frame, open_frames
from emcopilot.errors import DecodeError
from emcopilot.formats.units import pixel_size_nm

TOLERANCE = 1e-5
"""The reference gives six significant digits."""
CONVERTED = {"complex64": "float32"}
"""Types that decode converts on purpose; RGB fields are told by their form."""


@dataclass(frozen=True)
class Signal:
    """One row of the reference that is an image or a stack of images."""

    pages: int
    shape: tuple[int, int]
    dtype: str
    pixel_size_nm: tuple[float, float] | None


def image_signal(row: dict[str, str]) -> Signal | None:
    """Read a row of the reference; None for spectra, spectrum images and archives."""
    if not row["shape"]:
        return None
    shape = [int(side) for side in row["shape"].split("x")]
    axes = [_axis(text) for text in row["axes_scale_units(rsciio 0.15.0)"].split("; ")]
    energies = any("eV" in unit for _, unit in axes)
    if len(shape) not in (2, 3) or energies:
        return None
    (y, unit_y), (x, unit_x) = axes[-2:]
    dtype = "uint8" if row["dtype"].startswith("[") else row["dtype"]
    return Signal(
        pages=shape[0] if len(shape) == 3 else 1,
        shape=(shape[-2], shape[-1]),
        dtype=CONVERTED.get(dtype, dtype),
        pixel_size_nm=pixel_size_nm(y, x, unit_y, unit_x),
    )


def _axis(text: str) -> tuple[str, str]:
    number, _, unit = text.rpartition(":")[2].strip().partition(" ")
    return number, unit


def reference(vendor: Path) -> dict[str, list[dict[str, str]]]:
    """Group the reference's rows by file."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (vendor / "reference.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["file"]].append(row)
    return rows


def compare(path: Path, rows: Sequence[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield ("agrees" | "differs" | "refused as it should" | "missing", what) a signal."""
    signals = [signal for row in rows if (signal := image_signal(row))]
    try:
        with open_frames(path) as file:
            frames = [file.read(page) for page in range(len(file))]
    except DecodeError as error:
        outcome = "missing" if signals else "refused as it should"
        yield from ((outcome, str(error)) for _ in signals or [None])
        return
    expected = [signal for signal in signals for _ in range(signal.pages)]
    if len(frames) != len(expected):
        yield "differs", f"{len(frames)} frames, expected {len(expected)}"
        return
    first = 0
    for signal in signals:
        of_signal = frames[first : first + signal.pages]
        first += signal.pages
        wrong = [text for frame in of_signal if (text := difference(frame, signal))]
        height, width = signal.shape
        what = f"{signal.pages} x {height}x{width} {signal.dtype} {_nm(signal)}"
        yield ("differs", wrong[0]) if wrong else ("agrees", what)


def difference(frame: Frame, signal: Signal) -> str:
    """Say how a frame differs from the reference; empty when it agrees."""
    if frame.pixels.shape != signal.shape:
        return f"shape {frame.pixels.shape}, expected {signal.shape}"
    if frame.pixels.dtype.name != signal.dtype:
        return f"type {frame.pixels.dtype}, expected {signal.dtype}"
    got, want = frame.pixel_size_nm, signal.pixel_size_nm
    if (got is None) != (want is None):
        return f"pixel size {got}, expected {want}"
    if got and want:
        close = (
            math.isclose(a, b, rel_tol=TOLERANCE)
            for a, b in zip(got, want, strict=True)
        )
        if not all(close):
            return f"pixel size {got} nm, expected {want} nm"
    return ""


def _nm(signal: Signal) -> str:
    if signal.pixel_size_nm is None:
        return "no pixel size"
    y, x = signal.pixel_size_nm
    return (
        f"{y:.6g} nm" if math.isclose(y, x, rel_tol=1e-4) else f"{y:.6g} x {x:.6g} nm"
    )


def main(argv: Sequence[str]) -> int:
    """Print one line a signal and the counts; 0 when none is missing or different."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    arguments = parser.parse_args(argv)
    if "EMCOPILOT_DATA" not in os.environ:
        print("EMCOPILOT_DATA is unset: it names the folder of real micrographs")
        return 2
    vendor = Path(os.environ["EMCOPILOT_DATA"]) / "vendor"
    counts: dict[str, int] = defaultdict(int)
    rows_by_file = reference(vendor)
    for name, rows in rows_by_file.items():
        for outcome, what in compare(vendor / name, rows):
            counts[outcome] += 1
            print(f"{outcome:21} {re.sub('^rosettasciio/', '', name)}: {what}")
    total = counts["agrees"] + counts["differs"] + counts["missing"]
    print(
        f"\n{len(rows_by_file)} files; {counts['agrees']} of {total} image signals agree "
        f"with the reference in shape, type and pixel size; "
        f"{counts['refused as it should']} files refused as they should be"
    )
    if arguments.json:
        figures = {"files": len(rows_by_file), "image_signals": total, **counts}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if counts["agrees"] == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
