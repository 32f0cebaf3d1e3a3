"""`emcopilot simulate DIR`: frames of a film, written as camera software writes."""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from emcopilot.config import Settings, load_settings
from emcopilot.errors import ConfigError, EMcopilotError
from emcopilot.frame_files import Delivery, Pages, deliver, mrc_bytes, tiff_bytes
from emcopilot.simulate import Micrograph, Mode, demo_scene, film
from emcopilot.truth import append_truth, frame_truth, mean_diameter_nm, read_truth

FileFormat = Literal["tif", "mrc", "stack-tif", "stack-mrc"]
Wait = Callable[[int], None]
"""Called after each file with the number written so far; the next waits for its return."""

OK, FAILED, BAD_USAGE = 0, 1, 2


class MicroscopeSettings(Settings):
    """What is acquired and how it reaches the disk."""

    mode: Mode = "haadf"
    frames: int = Field(default=20, ge=1)
    fps: float = Field(default=1.0, gt=0)
    """Frames a second; inf writes as fast as the disk takes them."""
    size: int = Field(default=1024, ge=64, le=8192)
    """Edge of the square frame, in px."""
    pixel_size_nm: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    format: FileFormat = "tif"
    pages: int = Field(default=5, ge=1)
    """Frames in one stack."""
    writing: Literal["rename", "slow", "mixed"] = "mixed"
    """"rename": temporary name first; "slow": in two parts; "mixed": in turn."""
    pause_s: float = Field(default=0.3, ge=0)
    """Between the two parts of a slow write."""
    seed: int = Field(default=0, ge=0)
    """The same seed gives the same film."""
    name: str = Field(default="frame", pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$")
    """Files are called NAME_0001.tif and so on."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A complete file and the frames of the film that it holds."""

    path: Path
    frames: range
    written_s: float
    """Unix time at which its last byte was written or its name became final."""


def acquire(
    directory: Path,
    *,
    mode: Mode = "haadf",
    frames: int = 20,
    fps: float = 1.0,
    size: int = 1024,
    seed: int = 0,
    truth_path: Path | None = None,
    wait: Wait | None = None,
) -> list[WrittenFile]:
    """Write a film as a file per frame, and return when the last file is complete.

    Parameters
    ----------
    directory, truth_path
        As for `exposures`.
    mode, frames, fps, size, seed
        As in `MicroscopeSettings`.
    wait : callable, optional
        Called after each file with the number written so far, so that whoever watches
        can hold the microscope back.

    Raises
    ------
    ConfigError
        As `exposures`, or if a value is out of range.
    """
    settings = load_settings(
        MicroscopeSettings,
        overrides={
            "mode": mode, "frames": frames, "fps": fps, "size": size, "seed": seed,
        },
    )  # fmt: skip
    written: list[WrittenFile] = []
    for file in exposures(directory, settings, truth_path=truth_path):
        written.append(file)
        if wait:
            wait(len(written))
    return written


def exposures(
    directory: Path, settings: MicroscopeSettings, *, truth_path: Path | None = None
) -> Iterator[WrittenFile]:
    """Run the virtual microscope; each file is complete when it is yielded.

    Parameters
    ----------
    directory : Path
        Where the files go; made when missing. Numbering goes on after files already there.
    settings : MicroscopeSettings
    truth_path : Path, optional
        JSON lines, appended to; beside `directory` when not given.

    Raises
    ------
    ConfigError
        At once, if the truth would lie where it is watched, or a folder cannot be made.
    """
    truth_path = truth_path or default_truth_path(directory)
    if truth_path.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(
            f"the truth file {truth_path} lies inside the acquisition folder {directory}, "
            "where the agent would see it; name a place outside with --truth"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        truth_path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make a folder to write to: {error}") from error
    return _expose(directory, settings, truth_path)


def default_truth_path(directory: Path) -> Path:
    """Return DIR/../NAME.truth.jsonl."""
    directory = directory.resolve()
    return directory.with_name(f"{directory.name}.truth.jsonl")


def _expose(
    directory: Path, settings: MicroscopeSettings, truth_path: Path
) -> Iterator[WrittenFile]:
    first, step_s = _next_number(directory, settings), 1 / settings.fps
    started_s = time.monotonic()
    with truth_path.open("ab") as truth_file:
        for number, (frames, micrographs) in enumerate(_film_by_file(settings)):
            path = directory / _file_name(settings, first + number)
            content = _encode(micrographs, settings)
            truths = [
                frame_truth(seen, file=path.name, page=page, frame=frame, time_s=frame * step_s)
                for page, (frame, seen) in enumerate(zip(frames, micrographs, strict=True))
            ]  # fmt: skip
            _sleep_until(started_s + frames[-1] * step_s)
            # Before the frame: a kill in between leaves a truth too many, never one too few.
            append_truth(truth_file, truths)
            deliver(path, content, _delivery(settings, number), settings.pause_s)
            yield WrittenFile(path, frames, time.time())


def _film_by_file(
    settings: MicroscopeSettings,
) -> Iterator[tuple[range, list[Micrograph]]]:
    scene = demo_scene(
        settings.mode, size=settings.size, pixel_size_nm=settings.pixel_size_nm
    )
    frames = film(scene, settings.seed)
    step = settings.pages if settings.format.startswith("stack") else 1
    for start in range(0, settings.frames, step):
        numbers = range(start, min(start + step, settings.frames))
        yield numbers, list(islice(frames, len(numbers)))


def _encode(micrographs: list[Micrograph], settings: MicroscopeSettings) -> bytes:
    modality = settings.mode.upper()
    pages: Pages = micrographs[0].pixels
    if settings.format.startswith("stack"):
        pages = np.stack([micrograph.pixels for micrograph in micrographs])
    if settings.format.endswith("mrc"):
        return mrc_bytes(pages, settings.pixel_size_nm, modality)
    return tiff_bytes(pages, settings.pixel_size_nm, modality, 1 / settings.fps)


def _delivery(settings: MicroscopeSettings, number: int) -> Delivery:
    if settings.writing == "mixed":
        return "slow" if number % 2 else "rename"
    return settings.writing


def _file_name(settings: MicroscopeSettings, number: int) -> str:
    return f"{settings.name}_{number:04d}.{settings.format.removeprefix('stack-')}"


def _next_number(directory: Path, settings: MicroscopeSettings) -> int:
    """Return the number after the highest in use: a camera never overwrites."""
    known = re.compile(rf"{re.escape(settings.name)}_(\d+)\.", re.IGNORECASE)
    found = (known.match(path.name) for path in directory.iterdir())
    return max((int(match[1]) for match in found if match), default=0) + 1


def _sleep_until(due_s: float) -> None:
    """Keep the camera's clock: a film has no one to tell it that the time has come."""
    time.sleep(max(due_s - time.monotonic(), 0))


def main(argv: list[str]) -> int:
    """Run `emcopilot simulate`; returns the exit status."""
    options = _parser().parse_args(argv)
    chosen = {name: getattr(options, name) for name in MicroscopeSettings.model_fields}
    written: list[WrittenFile] = []
    try:
        settings = load_settings(MicroscopeSettings, overrides=chosen)
        files = exposures(options.directory, settings, truth_path=options.truth)
        with suppress(KeyboardInterrupt):  # the last file is complete all the same
            for file in files:
                written.append(file)
                _say_progress(written, settings)
    except ConfigError as error:
        sys.stderr.write(f"emcopilot simulate: {error}\n")
        return BAD_USAGE
    except (EMcopilotError, OSError) as error:
        sys.stderr.write(f"emcopilot simulate: {error}\n")
        return FAILED
    summary = _summary(written, options.truth or default_truth_path(options.directory))
    text = json.dumps(summary) if options.json else _in_words(summary)
    sys.stdout.write(text + "\n")
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot simulate",
        description="Write frames of an in-situ film as camera software does, "
        "with a truth file outside the folder.",
    )
    add = parser.add_argument
    defaults = {n: f.default for n, f in MicroscopeSettings.model_fields.items()}
    add("directory", type=Path, metavar="DIR", help="where the frames go")
    add("--mode", choices=["haadf", "bf"], help="bright or dark particles (haadf)")
    add("--frames", type=int, metavar="N", help=f"how many ({defaults['frames']})")
    add("--fps", type=float, metavar="F", help="frames a second (1); inf: full speed")
    add("--size", type=int, metavar="PX", help=f"edge ({defaults['size']})")
    add("--pixel-size-nm", type=float, metavar="NM", help="edge of a pixel (0.2)")
    formats = ["tif", "mrc", "stack-tif", "stack-mrc"]
    add("--format", choices=formats, help="a file per frame, or stacks (tif)")
    add("--pages", type=int, metavar="N", help="frames in a stack (5)")
    add(
        "--writing",
        choices=["rename", "slow", "mixed"],
        help="how files appear (mixed)",
    )
    add("--pause-s", type=float, metavar="S", help="between a slow file's parts (0.3)")
    add("--seed", type=int, help="same seed, same film (0)")
    add("--name", help="files are NAME_0001.tif and so on (frame)")
    add("--truth", type=Path, metavar="FILE", help="default: DIR/../NAME.truth.jsonl")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


def _say_progress(written: list[WrittenFile], settings: MicroscopeSettings) -> None:
    if sys.stderr.isatty():
        done = written[-1].frames.stop
        end = "\n" if done == settings.frames else ""
        sys.stderr.write(f"\r{done} of {settings.frames} frames{end}")
        sys.stderr.flush()


def _summary(written: list[WrittenFile], truth_path: Path) -> dict[str, object]:
    names = {file.path.name for file in written}
    truths = [truth for truth in read_truth(truth_path) if truth.file in names]
    mean_nm = mean_diameter_nm(truths)
    return {
        "frames": len(truths),
        "files": [str(file.path) for file in written],
        "truth": str(truth_path),
        "mean_diameter_nm": mean_nm if math.isfinite(mean_nm) else None,
    }


def _in_words(summary: dict[str, object]) -> str:
    return "\n".join(
        f"{name.replace('_', ' ')}: {'none' if value is None else value}"
        for name, value in summary.items()
        if name != "files"
    )
