"""A job's real frames with their rough masks, and who learns from which."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from emcopilot.errors import AdaptationError
from models import checkpoint
from models.adapt_settings import AdaptSettings
from models.checkpoint import write_atomically
from models.classical_cut import choose_way, cut
from models.datasets import LabelledFrame
from models.domain_frames import FEWEST, read_domain
from models.job_folder import kept
from models.npssegnet import torch_run
from models.predict import mean_leads
from models.rough_mask import NOTHING_FOUND, Maker, rough_masks
from models.synthesise import Cut, Frame, Mask
from models.training import named_device

log = logging.getLogger(__name__)

NOTE_FILE, MASKS_FILE = "rough.json", "rough.npz"


class _Note(BaseModel):
    """How the rough masks beside it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Maker
    why: str
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class Domain:
    """The frames of one domain."""

    frames: list[LabelledFrame]
    """All of use, with rough masks, in an order drawn once."""
    painted: list[LabelledFrame]
    """Subset 1: pix2pix learns from their masks."""
    held_back: list[Frame]
    """Nothing learns from them, but rough masks tell of their particles' sizes too."""
    cut: Cut
    """A segmentation that never saw a synthetic image."""
    how: str
    """Who made the rough masks."""
    why: str
    left_out: dict[str, str]
    """By name, why a frame is of no use."""

    @property
    def missed(self) -> float:
        """Share of all frames in which nothing was found: empty ones, or too crowded for a cut."""
        missed = sum(reason == NOTHING_FOUND for reason in self.left_out.values())
        return missed / (len(self.frames) + len(self.left_out))

    @property
    def named_held_back(self) -> list[tuple[str, Frame]]:
        """The held-back frames with their names."""
        names = [frame.name for frame in self.frames[: len(self.held_back)]]
        return list(zip(names, self.held_back, strict=True))

    @property
    def real(self) -> list[Frame]:
        """Subset 2: the frames whose look CycleGAN learns."""
        return [frame.pixels.astype(np.float32) for frame in self.shown]

    @property
    def shown(self) -> list[LabelledFrame]:
        """All but the held-back frames."""
        return self.frames[len(self.held_back) :]


def open_domain(
    job: AdaptSettings, files: Sequence[Path], model: str, directory: Path
) -> Domain:
    """Make rough masks, or find them made, and part the frames.

    Raises
    ------
    AdaptationError
        If fewer than 5 frames show particles.
    """
    frames, note = _kept_masks(job, list(files), model, directory)
    # By their names: a frame that one round holds back no other learns from, or nearly so.
    drawn = sorted(frames, key=lambda frame: _draw(job.seed, frame.name))
    # Of few frames a fifth, so that the most is left to learn from.
    held_back = max(2, min(job.held_back, len(drawn) // 5))
    rest = drawn[held_back:]
    return Domain(
        frames=drawn,
        painted=rest[: job.painted],
        held_back=[f.pixels.astype(np.float32) for f in drawn[:held_back]],
        # The job's incumbent: later rounds start from models that saw synthetic images.
        cut=independent_cut(note.how, job.model, rest, job.device),
        how=note.how,
        why=note.why,
        left_out=note.left_out,
    )


def _kept_masks(
    job: AdaptSettings, files: list[Path], model: str, directory: Path
) -> tuple[list[LabelledFrame], _Note]:
    """Return masks and note as they lie in `directory`; both are made anew if either is damaged.

    A note that is not of these masks would let other networks judge them.
    """
    path = directory / NOTE_FILE
    if path.exists():
        try:
            _read_note(path)
        except AdaptationError as error:
            log.warning("rough masks made anew reason=%s", error)
            path.unlink()
    if not path.exists():
        (directory / MASKS_FILE).unlink(missing_ok=True)
    frames = kept(directory / MASKS_FILE, lambda: _masked(job, files, model, directory))
    return frames, _read_note(path)


def _read_note(path: Path) -> _Note:
    try:
        return _Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise AdaptationError(
            f"{path} does not say how the rough masks were made: {error}; remove it, and the job "
            "makes both anew"
        ) from error


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _masked(
    job: AdaptSettings, files: list[Path], model: str, directory: Path
) -> list[LabelledFrame]:
    """Return the frames of use with their rough masks; says beside them how these came about."""
    frames, left_out = read_domain(files)
    rough = rough_masks(
        [frame.pixels for frame in frames],
        job.rough,
        model=model,
        sam_weights=job.sam,
        device=str(named_device(job.device)),
    )
    reasons = zip(frames, rough.leave_out, strict=True)
    left_out |= {frame.file: reason for frame, reason in reasons if reason}
    if len(rough.usable) < FEWEST:
        raise AdaptationError(
            f"{len(rough.usable)} of {len(files)} frames show particles, expected {FEWEST} or "
            f"more ({rough.why}; {_first(left_out)}); give frames of particles in focus, or "
            "another way to rough masks"
        )
    note = _Note(how=rough.how, why=rough.why, left_out=left_out)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / NOTE_FILE, note.model_dump_json(indent=1).encode())
    return [
        LabelledFrame(
            frames[n].name, frames[n].pixels.astype(np.float16), rough.masks[n]
        )
        for n in rough.usable
    ]


def _first(left_out: dict[str, str]) -> str:
    return next((f"{name}: {why}" for name, why in left_out.items()), "none left out")


def independent_cut(
    how: str, model: str, frames: Sequence[LabelledFrame], device: str
) -> Cut:
    """Return a segmentation that never saw a synthetic image, for telling whether masks are true.

    The incumbent where it made the rough masks; else a classical cut, chosen on real frames.
    """
    if how == "incumbent":
        return network_cut(model, device)
    way = choose_way([frame.pixels.astype(np.float32) for frame in frames])
    return lambda frame: cut(frame, way).mask


def network_cut(model: str | Path, device: str) -> Cut:
    """Return what a model makes of a normalised frame, as the live path would look at it."""
    network, _ = checkpoint.load(model)
    run = torch_run(network.to(named_device(device)))
    # One frame has all of the device, however many wait; and each thread in which a network runs
    # on a CPU gets OpenMP threads of its own.
    in_turn = ThreadPoolExecutor(1)

    def masked(frame: Frame) -> Mask:
        return in_turn.submit(lambda: mean_leads([frame], run)[0] >= 0).result()

    return masked
