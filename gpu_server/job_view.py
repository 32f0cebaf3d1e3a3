"""What a person sees of a job: its curves, its pictures, its report, all out of its folder.

The folder is the job's process's and anybody's who can write there: what is read is checked, names
are names and never paths.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from emcopilot.job_progress import JobReport
from gpu_server.trainer import OUT, ProgressTail

POINTS = 200
"""Of a curve; more cannot be told apart on a screen."""
_MOST_BYTES = 16 * 2**20
_SAMPLES, _REPORT = "samples", "report"
_NAME = re.compile(r"[a-z0-9-]{1,80}")
_PNG = b"\x89PNG\r\n\x1a\n"
_FIGURES = TypeAdapter(dict[str, JsonValue])


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure over the steps of a stage."""

    stage: str
    figure: str
    step: list[int]
    value: list[float | None]


def curves(folder: Path) -> list[Curve]:
    """Return every figure that a job's stages reported, each with `POINTS` points at most.

    Of a step that was taken again after a kill the last word counts.
    """
    points: dict[tuple[str, str], dict[tuple[int, int], float | None]] = {}
    for report in ProgressTail(folder).new():
        for name, value in report.figures.items():
            of_figure = points.setdefault((report.stage, name), {})
            of_figure[report.round, report.step] = value
    return [
        _thinned(stage, figure, values) for (stage, figure), values in points.items()
    ]


def last_report(folder: Path) -> JobReport | None:
    """Return what a job said last."""
    said = ProgressTail(folder).new()
    return said[-1] if said else None


def pictures(folder: Path) -> list[str]:
    """Return the names of a job's pictures, in the order of the stages; the report's is last."""
    names = sorted(
        path.stem
        for path in (folder / OUT / _SAMPLES).glob("*.png")
        if _NAME.fullmatch(path.stem)
    )
    has_report = _last_round(folder, "report.png") is not None
    return [*names, _REPORT] if has_report else names


def picture(folder: Path, name: str) -> bytes:
    """Return one picture as PNG.

    Raises
    ------
    LookupError
        If there is none of that name.
    """
    path: Path | None = None
    if name == _REPORT:
        path = _last_round(folder, "report.png")
    elif _NAME.fullmatch(name):
        path = folder / OUT / _SAMPLES / f"{name}.png"
    content = _read(path) if path else b""
    if not content.startswith(_PNG):
        raise LookupError(f"this job has no picture {name!r}")
    return content


def report(folder: Path) -> dict[str, JsonValue]:
    """Return the report on a job's candidate.

    Raises
    ------
    LookupError
        If there is none (yet).
    """
    path = _last_round(folder, "report.json")
    content = _read(path) if path else b""
    try:
        return _FIGURES.validate_json(content)
    except ValidationError as error:
        raise LookupError("this job has no report yet") from error


def _thinned(
    stage: str, figure: str, values: dict[tuple[int, int], float | None]
) -> Curve:
    places = sorted(values)
    every = -(-len(places) // POINTS)
    # Counted from the end: the last point is the one that people look for.
    kept = places[::-1][::every][::-1]
    return Curve(stage, figure, [step for _, step in kept], [values[p] for p in kept])


def _last_round(folder: Path, name: str) -> Path | None:
    found = list((folder / OUT).glob(f"round-[1-9]/{name}"))
    return max(found, default=None)


def _read(path: Path) -> bytes:
    """Return a file's bytes, none where it is no plain file of the folder or too large."""
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""
