"""`emcopilot segment`: outline and measure files on disk, without a server.

The same decode, network and measurement as the live path; for each frame a label image and a
particle table, and one summary of the run.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emcopilot.calibrate import Calibration, calibrate, sidecar_pixel_size_nm
from emcopilot.errors import ConfigError, EMcopilotError
from emcopilot.particle_table import countable
from emcopilot.psd import measure_psd
from gpu_server.config import DecodeSettings, ServerSettings
from gpu_server.measure import MeasuredFrame, measure
from gpu_server.particle_rows import Origin, as_csv, contract_columns
from gpu_server.sandbox import DecodePool
from gpu_server.segment import InferenceSpec, Segmenter

SUFFIXES = frozenset(
    f".{name}"
    for name in "dm3 dm4 emd ser emi mrc mrcs tif tiff png jpg jpeg tvips".split()  # noqa: SIM905
)
"""What a folder is searched for; a file named on the command line is always tried."""

Summary = dict[str, object]


def main(argv: list[str]) -> int:
    """Segment files; returns 1 if any of them gave no result."""
    options = _parser().parse_args(argv)
    paths = list(find_files(options.paths))
    options.out.mkdir(parents=True, exist_ok=True)
    spec = InferenceSpec(model=options.model, device=options.device, warm_px=0)
    run = OfflineRun(options.out, options.min_area, quiet=options.json)
    summary = asyncio.run(run.segment_all(paths, spec))
    if options.json:
        sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if run.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot segment",
        description="Outline and measure nanoparticles in files; nothing is sent anywhere.",
    )
    parser.add_argument("paths", nargs="+", type=Path, help="image files or folders")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for the results"
    )
    parser.add_argument("--model", default="base", help="model name or directory")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--min-area",
        type=int,
        default=ServerSettings().min_area_px,
        metavar="PX",
        help="smaller specks are noise (default: %(default)s px)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named, and the image files in the folders named, in order.

    Raises
    ------
    ConfigError
        If a path is not there, or a folder holds no image.
    """
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise ConfigError(
                    f"no image file in {path}; expected one of {' '.join(sorted(SUFFIXES))}"
                )
            yield from found
        elif path.is_file():
            yield path
        else:
            raise ConfigError(f"no such file or folder: {path}")


@dataclass(slots=True)
class OfflineRun:
    """One run over many files: what was written, what failed."""

    out: Path
    min_area_px: int
    quiet: bool = False
    frames: list[Summary] = field(default_factory=list)
    failures: list[Summary] = field(default_factory=list)
    sizes: dict[str, list[float]] = field(default_factory=lambda: {"nm": [], "px": []})

    async def segment_all(self, paths: list[Path], spec: InferenceSpec) -> Summary:
        """Segment every file; a bad one is reported and the next one works."""
        limits = DecodeSettings()
        async with DecodePool(limits) as decoder, Segmenter(spec) as segmenter:
            for number, path in enumerate(paths, 1):
                try:
                    await self._segment_file(path, decoder, segmenter)
                except EMcopilotError as error:
                    self.failures.append({"path": str(path), "reason": str(error)})
                    sys.stderr.write(f"[{number}/{len(paths)}] {path.name}: {error}\n")
                else:
                    self._say(f"[{number}/{len(paths)}] {path.name}: {self._last()}")
            summary = self._summary(segmenter)
        (self.out / "summary.json").write_text(
            json.dumps(summary, indent=2) + "\n", encoding="utf-8"
        )
        return summary

    async def _segment_file(
        self, path: Path, decoder: DecodePool, segmenter: Segmenter
    ) -> None:
        report = await decoder.report(path, path.name)
        if report.refused:
            raise EMcopilotError(report.refused)
        known = Calibration(sidecar_nm=sidecar_pixel_size_nm(path))
        for page in range(report.frames):
            frame = await decoder.decode(path, path.name, page)
            frame = calibrate(frame, known)
            segmentation = await segmenter.segment(frame.pixels)
            measured = measure(frame, segmentation, min_area_px=self.min_area_px)
            stem = path.stem if report.frames == 1 else f"{path.stem}.p{page:04d}"
            self._write(self._unused(stem), path, page, measured)

    def _unused(self, stem: str) -> str:
        """Two folders may hold files of one stem: neither result may overwrite the other."""
        taken = {entry["stem"] for entry in self.frames}
        candidates = (stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3)))
        return next(name for name in candidates if name not in taken)

    def _write(self, stem: str, path: Path, page: int, measured: MeasuredFrame) -> None:
        (self.out / f"{stem}.labels.tif").write_bytes(measured.labels_tiff())
        origin = Origin(
            session=path.parent.name,
            frame=len(self.frames),
            time_s=measured.frame.time_s,
            model_id=measured.model_id,
            calibration_source=measured.frame.pixel_size_source,
        )
        nobody_rejected = np.zeros(len(measured.particles), np.bool_)
        columns = contract_columns(measured.particles, origin, nobody_rejected)
        (self.out / f"{stem}.particles.csv").write_text(
            as_csv(columns), encoding="utf-8"
        )
        counted = measured.particles.diameters()[countable(measured.particles)]
        self.sizes[measured.unit].extend(counted.tolist())
        size = measured.frame.pixel_size_nm
        self.frames.append(
            {
                "stem": stem,
                "path": str(path),
                "page": page,
                "shape": list(measured.labels.shape),
                "pixel_size_nm": list(size) if size else None,
                "pixel_size_source": measured.frame.pixel_size_source,
                **measured.summary(),
                "notes": list(measured.frame.notes),
            }
        )

    def _summary(self, segmenter: Segmenter) -> Summary:
        unit = "nm" if self.sizes["nm"] and not self.sizes["px"] else "px"
        mixed = bool(self.sizes["nm"] and self.sizes["px"])
        psd = measure_psd(np.asarray(self.sizes[unit]), unit=unit)
        return {
            "model_id": segmenter.model_id,
            "device": segmenter.device,
            "frames": self.frames,
            "failures": self.failures,
            "psd": psd.to_json(),
            "psd_covers": "uncalibrated frames only: units are mixed"
            if mixed
            else "all frames",
        }

    def _last(self) -> str:
        frame = self.frames[-1]
        mean = frame["mean_diameter"]
        size = (
            f"mean {mean:.4g} {frame['unit']}" if isinstance(mean, float) else "no size"
        )
        doubtful = f" ({frame['doubtful']} doubtful)" if frame["doubtful"] else ""
        return f"{frame['particles']} particles{doubtful}, {size}"

    def _say(self, text: str) -> None:
        if not self.quiet:
            sys.stdout.write(text + "\n")
