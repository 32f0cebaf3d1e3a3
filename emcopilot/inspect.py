"""`emcopilot inspect PATH...`: what a file is, or why it is refused."""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emcopilot.calibrate import SIDECAR, sidecar_pixel_size_nm
from emcopilot.decode import FileReport, inspect
from emcopilot.errors import CalibrationError
from emcopilot.formats.sniff import EXTENSIONS


@dataclass(frozen=True, slots=True)
class Inspected:
    """A path and what was found there."""

    path: Path
    report: FileReport

    def to_json(self) -> dict[str, object]:
        """Give the keys that scripts rely on (design: `inspect --json`)."""
        report = self.report
        return {
            "path": str(self.path),
            "frames": report.frames,
            "shape": list(report.shape) if report.shape else None,
            "dtype": report.dtype,
            "pixel_size_nm": _number_or_pair(report.pixel_size_nm),
            "pixel_size_source": report.pixel_size_source,
            "modality": report.modality,
            "detector": report.detector,
            "sample": report.sample,
            "refused": report.refused,
            "notes": list(report.notes),
        }

    def to_text(self) -> str:
        """Give one paragraph for a person."""
        report = self.report
        if report.refused:
            return f"{self.path}\n  refused: {report.refused}"
        height, width = report.shape or (0, 0)
        frames = "1 frame" if report.frames == 1 else f"{report.frames} frames"
        lines = [
            f"{self.path}",
            f"  {frames} of {height} x {width} px (height x width), {report.dtype}",
            f"  pixel size: {_say_size(report)}",
            f"  modality: {report.modality or 'not stated'}",
            *([f"  detector: {report.detector}"] if report.detector else []),
            *([f"  sample: {report.sample}"] if report.sample else []),
            *(f"  note: {note}" for note in report.notes),
        ]
        return "\n".join(lines)


def inspect_on_disk(path: Path) -> FileReport:
    """Describe a file where the microscope left it, sidecar included."""
    report = inspect(path)
    if report.refused or report.pixel_size_nm:
        return report
    try:
        size = sidecar_pixel_size_nm(path)
    except CalibrationError as error:
        return replace(report, notes=(*report.notes, str(error)))
    if size is None:
        return report
    return replace(report, pixel_size_nm=size, pixel_size_source=SIDECAR)


def main(argv: Sequence[str]) -> int:
    """Run `emcopilot inspect`; 0 when every file holds a frame, else 1."""
    parser = argparse.ArgumentParser(
        prog="emcopilot inspect",
        description="Say what a file is: frames, shape, type, pixel size and where it "
        "comes from, or why it is refused.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="files, or folders of them"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args(argv)
    found = [Inspected(path, inspect_on_disk(path)) for path in _files(arguments.paths)]
    if arguments.json:
        print(json.dumps([one.to_json() for one in found], indent=2))  # noqa: T201
    else:
        print("\n".join(one.to_text() for one in found))  # noqa: T201
    return 1 if any(one.report.refused for one in found) else 0


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files named, and those in folders whose extension we read."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for inside in sorted(path.rglob("*")):
            if inside.suffix.lower().lstrip(".") in EXTENSIONS and inside.is_file():
                yield inside


def _number_or_pair(size: tuple[float, float] | None) -> float | list[float] | None:
    if size is None:
        return None
    y, x = size
    # Vendors store single precision: a difference in its last digits is no difference.
    return x if math.isclose(y, x, rel_tol=1e-6) else [y, x]


def _say_size(report: FileReport) -> str:
    size = _number_or_pair(report.pixel_size_nm)
    if size is None:
        return "unknown; sizes will be in px"
    source = f"(from {report.pixel_size_source})"
    if isinstance(size, list):
        return f"{size[0]:.6g} nm high, {size[1]:.6g} nm wide {source}"
    return f"{size:.6g} nm {source}"
