"""The folder of a job: all that it needs, so that it runs wherever the folder is taken.

    jobs/ID/frames/*.tif    the domain's frames, in their own dtype
           /start, /live    the model to start from, and the live one where that is another
           /job.toml        settings, with places relative to this folder; written last
           /out             what the job makes: `models.job_folder` owns it

What is there is not made again: frames that the reservoir drops meanwhile stay the job's. A
`job.toml` that is none is kept as `job.damaged`.
"""

import asyncio
import json
import logging
import shutil
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from emcopilot.durable import give_name
from emcopilot.errors import AdaptationError, DecodeError, ModelError
from gpu_server.domains import ReservoirFrame
from gpu_server.job_rows import Job
from gpu_server.model_files import checked_card
from gpu_server.sandbox import Decoder
from gpu_server.trainer import JOB_FILE, OUT

log = logging.getLogger(__name__)

FEWEST_FRAMES = 7
"""Five to learn from, as in the paper, and two that are held back (`models.domain`)."""
FRAMES, START, LIVE, CHOICE_FILE = "frames", "start", "live", "chosen.json"
STATE_BYTES = {
    "quick": 1_100_000_000,
    "standard": 2_600_000_000,
    "paper": 3_600_000_000,
}
"""What a job of a preset leaves at most while it runs: twice the largest GAN's state, for it is
replaced whole (24 to 1,252 MB counted from parameters, for fp32 weights and two moments), or
NPsSegNet's, 18 times its 52 MB; and the sets of frames."""
_MODEL_FILES = ("card.json", "model.safetensors", "seen.safetensors", "replay.npz")
_BEGUN = "job.json"
"""In `out`: which models the job began with, by `models.job_folder`."""
_LONGEST_NAME = 200
_MODELS_KEPT = 3
"""Start, live and candidate."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a job's frames and models come from."""

    frames: list[ReservoirFrame]
    blob_path: Callable[[str], Path]
    start: Path
    live: Path | None
    """The live model's folder, where it is another."""
    domain: str
    """What it is called."""
    domain_key: str = ""
    """What it is told by, whatever it and others are called."""


class _Chosen(BaseModel):
    """A frame as the file of the choice names it; a hand may have been at it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    frame_id: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # it becomes part of a path
    name: str
    page: int = Field(ge=0)


_CHOICE = TypeAdapter(list[_Chosen])


async def lay_out(
    folder: Path,
    job: Job,
    places: Callable[[], Places],
    decoder: Decoder,
    *,
    overrides: Mapping[str, object],
    device: str,
    pause: Callable[[], Awaitable[None]],
) -> None:
    """Put into a job's folder what it needs; what is there stays.

    Parameters
    ----------
    folder : Path
    job : Job
    places : callable
        Asked only if something is missing.
    decoder : Decoder
        The sandboxed one: the files come from anywhere.
    overrides : mapping
        Laid over the preset, as in a job's TOML file.
    device : str
        auto, cpu or cuda.
    pause : callable
        Awaited before each frame: returns when no live frame is in the way, and raises to stop.

    Raises
    ------
    AdaptationError
        If too few frames can be read, or the disk does not take them, or give `job.toml`.
    """
    if _is_laid_out(folder):
        return
    found = await asyncio.to_thread(places)
    try:
        (folder / FRAMES).mkdir(parents=True, exist_ok=True)
        chosen = await asyncio.to_thread(_choice, folder, found.frames)
        await _write_frames(folder / FRAMES, chosen, found.blob_path, decoder, pause)
        await asyncio.to_thread(_copy_models, folder, found)
        text = job_toml(
            job,
            overrides,
            device=device,
            domain=found.domain,
            domain_key=found.domain_key,
            has_live=(folder / LIVE).is_dir(),
        )
        await asyncio.to_thread(_replace, folder / JOB_FILE, text.encode())
    except OSError as error:
        raise AdaptationError(
            f"cannot write {folder}: {error.strerror or error}; free some room and resume the job"
        ) from error


def _is_laid_out(folder: Path) -> bool:
    """Say whether the job's file is there; one that is none is set aside."""
    path = folder / JOB_FILE
    try:
        if "frames" in tomllib.loads(path.read_bytes().decode()):
            return True
        why = "it names no frames"
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise AdaptationError(
            f"cannot read {path}: {error.strerror or error}; see to the disk and resume the job"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        why = str(error)
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    log.warning(
        "job file damaged path=%s reason=%s: it is written anew, the old one is kept as %s",
        path,
        why,
        aside.name,
    )
    return False


def job_toml(
    job: Job,
    overrides: Mapping[str, object],
    *,
    device: str,
    domain: str = "",
    domain_key: str = "",
    has_live: bool = False,
) -> str:
    """Return a job's settings as TOML, with places relative to its folder."""
    settings: dict[str, object] = {
        "frames": FRAMES,
        "out": OUT,
        "domain": domain[:_LONGEST_NAME],
        "preset": job.preset,
        "model": START,
        "most_frames": job.frame_count,
        "device": device,
        "seed": job.seed,
    }
    if domain_key:
        settings["domain_key"] = domain_key
    if has_live:
        settings["incumbent"] = LIVE
    return "".join(f"{line}\n" for line in _toml("", {**settings, **overrides}))


def _toml(prefix: str, table: Mapping[str, object]) -> list[str]:
    """Return a table's lines; JSON's way with plain values is TOML's, but for one sign."""
    lines: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _toml(f"{prefix}{key}.", {str(k): v for k, v in value.items()})
        elif value is not None:
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{prefix}{key} = {text}")
    return lines


def needed_bytes(frames_bytes: int, model_bytes: int, preset: str) -> int:
    """Estimate what a job needs on the disk."""
    return frames_bytes + _MODELS_KEPT * model_bytes + STATE_BYTES[preset]


def model_bytes(folder: Path) -> int:
    """Return the size of a model's files."""
    files = (folder / name for name in _MODEL_FILES)
    return sum(file.stat().st_size for file in files if file.is_file())


def drop_work(folder: Path) -> None:
    """Remove what only a job that still runs needs: gigabytes; pictures and figures stay.

    The frames lie in the store and the candidate in the registry, so both are copies here.
    """
    for name in (FRAMES, START, LIVE):
        shutil.rmtree(folder / name, ignore_errors=True)
    for kind in ("round-*/*/state.*", "round-*/*.npz", "**/*.safetensors"):
        for file in (folder / OUT).glob(kind):
            file.unlink(missing_ok=True)


def _choice(folder: Path, frames: list[ReservoirFrame]) -> list[ReservoirFrame]:
    """Return the frames that were chosen first: a later choice would be another job."""
    path = folder / CHOICE_FILE
    if path.exists():
        try:
            rows = _CHOICE.validate_json(path.read_bytes())
        except ValidationError as error:
            raise AdaptationError(
                f"{path} cannot be read: {_first_of(error)}; somebody changed it: start a new job"
            ) from error
        return [ReservoirFrame(**row.model_dump()) for row in rows]
    _replace(path, json.dumps([asdict(frame) for frame in frames], indent=1).encode())
    return frames


def _first_of(error: ValidationError) -> str:
    """Say where a file breaks its rules first, what stands there and what should."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}, got {str(first['input'])[:80]!r}"


async def _write_frames(
    target: Path,
    frames: list[ReservoirFrame],
    blob_path: Callable[[str], Path],
    decoder: Decoder,
    pause: Callable[[], Awaitable[None]],
) -> None:
    unread: list[str] = []
    for frame in frames:
        path = target / f"frame-{frame.frame_id:08}.tif"
        if path.exists():
            continue
        await pause()
        try:
            decoded = await decoder.decode(
                blob_path(frame.sha256), frame.name, frame.page
            )
        except DecodeError as error:
            log.warning("job frame unread id=%d reason=%s", frame.frame_id, error)
            unread.append(f"{frame.name}: {error}")
            continue
        await asyncio.to_thread(_write_tiff, path, decoded.pixels)
    if len(frames) - len(unread) < FEWEST_FRAMES:
        why = f"; {unread[0]}" if unread else ""
        raise AdaptationError(
            f"{len(frames) - len(unread)} frames of the domain can be read, expected "
            f"{FEWEST_FRAMES} or more{why}; acquire some more of it"
        )


def _write_tiff(path: Path, pixels: NDArray[np.generic]) -> None:
    part = path.with_suffix(".part")
    tifffile.imwrite(part, pixels, photometric="minisblack")
    give_name(part, path)


def _copy_models(folder: Path, places: Places) -> None:
    if _has_begun_with_its_models(folder):
        return  # the live model may be another by now: then it would be another job
    for source, name in ((places.start, START), (places.live, LIVE)):
        # Anew: what a kill left here may be of the model that was live then.
        shutil.rmtree(folder / name, ignore_errors=True)
        if source is None:
            continue
        (folder / name).mkdir()
        for file in _MODEL_FILES:
            if (source / file).is_file():
                part = folder / name / f"{file}.part"
                shutil.copyfile(source / file, part)
                give_name(part, folder / name / file)


def _has_begun_with_its_models(folder: Path) -> bool:
    if not (folder / OUT / _BEGUN).exists():
        return False
    is_live_whole = not (folder / LIVE).exists() or _is_whole(folder / LIVE)
    return _is_whole(folder / START) and is_live_whole


def _is_whole(model: Path) -> bool:
    try:
        checked_card(model)
    except ModelError:
        return False
    return True


def _replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    give_name(part, path)
