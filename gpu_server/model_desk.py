"""Everything a running server does with models, as its routes find it."""

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from emcopilot.errors import ModelError
from gpu_server.golden import Masks, golden_frames, read_masks, self_test, write_masks
from gpu_server.inference_child import SlowStartError
from gpu_server.model_archive import unpack, write_archive
from gpu_server.model_files import STAGED, UnfitModelError
from gpu_server.promotion import Promotion
from gpu_server.recompute import Recomputation
from gpu_server.registry import Registry
from gpu_server.side_results import SideResults
from gpu_server.side_segmenter import SideSegmenter


@dataclass(frozen=True, slots=True)
class ModelDesk:
    """The registry, and who runs its models."""

    registry: Registry
    promotion: Promotion
    side: SideSegmenter
    side_results: SideResults
    recomputation: Recomputation

    async def import_model(self, archive: Path, who: str) -> str:
        """Take a model from an archive; see `import_model`."""
        return await import_model(self.registry, self.side, archive, who)

    async def golden_masks(self, model_id: str) -> Masks:
        """Return what a model makes of the golden frames; see `golden_masks`."""
        return await golden_masks(self.registry, self.side, model_id)

    async def export_model(self, model_id: str, target: Path) -> None:
        """Write a model to one file; see `export_model`."""
        await export_model(self.registry, self.side, model_id, target)


async def import_model(
    registry: Registry, side: SideSegmenter, archive: Path, who: str
) -> str:
    """Take a model from an archive, once it has passed its self-test; return its id.

    Raises
    ------
    UnfitModelError
        If it is not a whole, working model; nothing of it stays.
    ModelError, StoreError
        If the disk does not take it; nothing of it stays.
    """
    staged = registry.root / f"{uuid.uuid4().hex}{STAGED}"
    try:
        expected = await asyncio.to_thread(unpack, archive, staged)
        masks = await _tested(side, staged, expected)
        model_id = await asyncio.to_thread(
            registry.add, staged, "imported", who, tested_at=registry.wall()
        )
        await asyncio.to_thread(write_masks, registry.golden_file(model_id), masks)
    finally:
        await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
    return model_id


async def export_model(
    registry: Registry, side: SideSegmenter, model_id: str, target: Path
) -> None:
    """Write a model to one file, with what it makes of the golden frames.

    Raises
    ------
    LookupError
        If there never was such a model.
    ModelError
        If its files are gone or do not work, or the disk does not take the file.
    """
    masks = await golden_masks(registry, side, model_id)
    folder = await asyncio.to_thread(registry.folder, model_id)
    await asyncio.to_thread(write_archive, target, folder, masks)


async def golden_masks(registry: Registry, side: SideSegmenter, model_id: str) -> Masks:
    """Return what a model makes of the golden frames, tried now unless that was kept.

    Raises
    ------
    LookupError
        If there never was such a model.
    ModelError
        If its files are gone or do not work.
    """
    folder = await asyncio.to_thread(registry.folder, model_id)
    masks = _kept_masks(registry.golden_file(model_id))
    if masks is None:
        masks = await _tested(side, folder, None)
        await asyncio.to_thread(_note_test, registry, model_id, masks)
    return masks


def _kept_masks(path: Path) -> Masks | None:
    """Return what the last self-test kept; None where it is not there, or damaged."""
    try:
        return read_masks(path.read_bytes())
    except (OSError, UnfitModelError):
        return None


def _note_test(registry: Registry, model_id: str, masks: Masks) -> None:
    write_masks(registry.golden_file(model_id), masks)
    with registry.database.write() as connection:
        registry.passed_test(connection, model_id)


async def _tested(side: SideSegmenter, folder: Path, expected: Masks | None) -> Masks:
    await asyncio.to_thread(golden_frames)  # drawn once, off the event loop
    try:
        async with side.using(folder) as trial:
            return await self_test(trial.segment, expected)
    except (UnfitModelError, SlowStartError):
        raise  # a busy machine is no model's fault
    except ModelError as error:
        raise UnfitModelError(f"self-test: it cannot be loaded: {error}") from error
