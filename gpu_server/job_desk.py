"""What people ask of adaptation jobs: to weigh, order, stop, resume, turn down and discard one.

Each call is one transaction and blocks for it. Jobs run elsewhere (`gpu_server.adaptation`).
"""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from emcopilot.errors import AdaptationError
from gpu_server import job_clearing, job_folders, job_rows, jobs
from gpu_server.domains import domain, reservoir_frames
from gpu_server.job_estimate import USUAL_FRAMES, Estimate, estimate
from gpu_server.job_rows import Job, Order, Preset
from gpu_server.registry import Registry
from gpu_server.store import Store
from gpu_server.tables import frames

log = logging.getLogger(__name__)

T = TypeVar("T")


class TooFewFramesError(AdaptationError):
    """A domain has not enough frames that show something to learn."""


class NoSpaceError(AdaptationError):
    """The disk cannot hold a job."""


class JobDesk:
    """Takes orders for jobs.

    Parameters
    ----------
    store : Store
    registry : Registry
    disk_reserve_bytes : int
        What a job must leave free.
    device : callable
        What runs the network, for people; says whether there is a GPU.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        disk_reserve_bytes: int = 0,
        device: Callable[[], str] = lambda: "cpu",
    ) -> None:
        self._store, self._registry = store, registry
        self._reserve_bytes, self._device = disk_reserve_bytes, device

    def folder(self, job_id: int) -> Path:
        """Return where a job's folder is, or will be."""
        return self._store.data_dir / "jobs" / str(job_id)

    def usual_preset(self) -> Preset:
        """Return the preset for this machine, where none is asked for."""
        return "standard" if self._device().startswith("cuda") else "quick"

    def estimate(self, domain_id: int, preset: Preset, wanted: int | None) -> Estimate:
        """Estimate a job's seconds; raises as `order` does for frames."""
        with self._store.read() as connection:
            count = _frame_count(connection, domain_id, preset, wanted)
            earlier = job_rows.earlier_seconds(connection, preset)
        return estimate(preset, count, earlier)

    def order(
        self,
        domain_id: int,
        who: str,
        *,
        preset: Preset,
        model: str | None = None,
        wanted: int | None = None,
        seed: int = 0,
    ) -> Job:
        """Queue a job; ring `Adaptation` afterwards.

        Parameters
        ----------
        domain_id : int
        who : str
        preset : {"quick", "standard", "paper"}
        model : str, optional
            Where it starts; by default the live model.
        wanted : int, optional
            Frames at most; by default as many as the preset takes.
        seed : int

        Raises
        ------
        LookupError
            If there is no such domain or model.
        ModelError
            If the model is deleted or its files are gone.
        JobConflictError
            If a job of the domain is open.
        TooFewFramesError, NoSpaceError
        """
        with self._store.read() as connection:
            if other := job_rows.open_job(connection, domain_id):
                raise jobs.open_conflict(other)
            count = _frame_count(connection, domain_id, preset, wanted)
            start = model or self._live(connection)
        folder = self._registry.folder(start)
        self.require_space(domain_id, count, folder, preset)
        order = Order(domain_id, preset, start, count, seed)
        return self._write(lambda c: jobs.add(c, order, who, at=time.time()))

    def cancel(self, job_id: int, who: str) -> Job:
        """Wish a job to stop; raises as `jobs.cancel` does."""
        return self._write(lambda c: jobs.cancel(c, job_id, who, at=time.time()))

    def resume(self, job_id: int, who: str) -> Job:
        """Let a job go on; raises as `jobs.resume` does."""
        return self._write(lambda c: jobs.resume(c, job_id, who, at=time.time()))

    def reject(self, job_id: int, who: str) -> Job:
        """Turn a candidate down; raises as `jobs.reject` does."""
        return self._write(lambda c: jobs.reject(c, job_id, who, at=time.time()))

    def discard(self, job_id: int, who: str) -> Job:
        """Give up a job for good and free its room; raises as `jobs.discard` does.

        Raises
        ------
        WorkLeftError
            If the disk does not let go of its files; it is discarded nevertheless.
        """
        job = self._write(lambda c: jobs.discard(c, job_id, who, at=time.time()))
        # After the row: killed in between, the job has its folder and no way back to it.
        job_clearing.clear(self.folder(job_id))
        return job

    def clear_discarded(self) -> None:
        """Clear the folders of discarded jobs: a kill, or the disk, may have left some."""
        with self._store.read() as connection:
            found = job_rows.discarded(connection)
        for job in found:
            try:
                job_clearing.clear(self.folder(job.id))
            except job_clearing.WorkLeftError as error:
                log.warning("discarded job left id=%d reason=%s", job.id, error)

    def require_space(
        self, domain_id: int, count: int, model: Path, preset: str
    ) -> None:
        """Refuse a job that the disk cannot hold.

        Raises
        ------
        NoSpaceError
        """
        with self._store.read() as connection:
            chosen = reservoir_frames(connection, domain_id, count)
            frame_bytes = _decoded_bytes(connection, [one.frame_id for one in chosen])
        needed = self._reserve_bytes + job_folders.needed_bytes(
            frame_bytes, job_folders.model_bytes(model), preset
        )
        free = shutil.disk_usage(self._store.data_dir).free
        if free < needed:
            raise NoSpaceError(
                f"the data disk has {free / 1e9:.1f} GB free, a {preset} job needs "
                f"{needed / 1e9:.1f} GB with what is kept for frames: free some, or choose a "
                "smaller preset"
            )

    def _live(self, connection: sa.Connection) -> str:
        live = self._registry.live(connection)
        if live is None:
            raise LookupError("no model is live yet; name the one to start from")
        return live

    def _write(self, change: Callable[[sa.Connection], T]) -> T:
        with self._store.database.write() as connection:
            return change(connection)


def _frame_count(
    connection: sa.Connection, domain_id: int, preset: Preset, wanted: int | None
) -> int:
    """Return how many frames a job would learn from."""
    found = domain(connection, domain_id)
    if found is None:
        raise LookupError(f"there is no domain {domain_id}")
    count = min(found.reservoir_count, wanted or USUAL_FRAMES[preset])
    if count < job_folders.FEWEST_FRAMES:
        asked = f", {wanted} were asked for" if wanted else ""
        raise TooFewFramesError(
            f"domain {domain_id} has {found.reservoir_count} frames to learn from{asked}; "
            f"expected {job_folders.FEWEST_FRAMES} or more: blank, saturated and defocused ones "
            "do not count. Acquire some more of it"
        )
    return count


def _decoded_bytes(connection: sa.Connection, frame_ids: list[int]) -> int:
    """Return what frames take as pixels; of unknown size, nothing."""
    rows = connection.execute(
        sa.select(frames.c.height, frames.c.width).where(frames.c.id.in_(frame_ids))
    )
    # Eight bytes a pixel is the widest that is decoded.
    return sum(8 * (row.height or 0) * (row.width or 0) for row in rows)
