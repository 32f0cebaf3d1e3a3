"""Everything a running server does with models, as its routes find it."""

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from emcopilot.errors import ModelError
from gpu_server.golden import Masks, golden_frames, read_masks, self_test, write_masks
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
        """Take a model from an archive, once it has passed its self-test; return its id.

        Raises
        ------
        UnfitModelError
            If it is not a whole, working model; nothing of it stays.
        ModelError, StoreError
            If the disk does not take it; nothing of it stays.
        """
        registry = self.registry
        staged = registry.root / f"{uuid.uuid4().hex}{STAGED}"
        try:
            expected = await asyncio.to_thread(unpack, archive, staged)
            masks = await self._tested(staged, expected)
            model_id = await asyncio.to_thread(
                registry.add, staged, "imported", who, tested_at=registry.wall()
            )
            await asyncio.to_thread(write_masks, registry.golden_file(model_id), masks)
        finally:
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
        return model_id

    async def export_model(self, model_id: str, target: Path) -> None:
        """Write a model to one file, with what it makes of the golden frames.

        Raises
        ------
        LookupError
            If there never was such a model.
        ModelError
            If its files are gone or do not work, or the disk does not take the file.
        """
        folder = await asyncio.to_thread(self.registry.folder, model_id)
        masks = await self._known_masks(model_id, folder)
        await asyncio.to_thread(write_archive, target, folder, masks)

    async def test_model(self, model_id: str) -> None:
        """Run a model's self-test in the quiet child and write down that it passed.

        Raises
        ------
        LookupError
            If there never was such a model.
        UnfitModelError, ModelError
            If it does not pass.
        """
        folder = await asyncio.to_thread(self.registry.folder, model_id)
        masks = await self._tested(folder, None)
        await asyncio.to_thread(self._note_test, model_id, masks)

    def _note_test(self, model_id: str, masks: Masks) -> None:
        write_masks(self.registry.golden_file(model_id), masks)
        with self.registry.database.write() as connection:
            self.registry.passed_test(connection, model_id)

    async def _known_masks(self, model_id: str, folder: Path) -> Masks:
        kept = self.registry.golden_file(model_id)
        if kept.is_file():
            try:
                return read_masks(await asyncio.to_thread(kept.read_bytes))
            except UnfitModelError:
                pass  # damaged: the test below makes it again
        masks = await self._tested(folder, None)
        await asyncio.to_thread(self._note_test, model_id, masks)
        return masks

    async def _tested(self, folder: Path, expected: Masks | None) -> Masks:
        await asyncio.to_thread(golden_frames)  # drawn once, off the event loop
        try:
            async with self.side.using(folder) as trial:
                return await self_test(trial.segment, expected)
        except UnfitModelError:
            raise
        except ModelError as error:
            raise UnfitModelError(f"self-test: it cannot be loaded: {error}") from error
