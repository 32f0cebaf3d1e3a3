"""What the operator does to models, domains and jobs: the same calls as REST makes.

Each says why it did not work, if so, and answers whether it did.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from nicegui import ui

from emcopilot.errors import AdaptationError, EMcopilotError, ModelError
from gpu_server import domains
from gpu_server.api.services import Services
from gpu_server.job_desk import JobDesk
from gpu_server.job_rows import Preset
from gpu_server.model_desk import ModelDesk
from gpu_server.objections import require_selectable
from gpu_server.page.frame_canvas import API
from gpu_server.tokens import Identity


class Deeds:
    """Changes, in the name of who is logged in.

    Parameters
    ----------
    services : callable
    who : Identity
    """

    def __init__(self, services: Callable[[], Services], who: Identity) -> None:
        self._services = services
        self._who = who
        self.may_change = who.allows("operator")
        self.may_delete = who.allows("admin")

    async def adapt(
        self, domain_id: int, preset: Preset, model: str | None, wanted: int | None
    ) -> bool:
        """Queue a job that learns a domain."""
        who = self._who.name
        return await self._of_jobs(
            lambda desk: desk.order(
                domain_id, who, preset=preset, model=model, wanted=wanted
            )
        )

    async def cancel(self, job_id: int) -> bool:
        """Stop a job."""
        return await self._of_jobs(lambda desk: desk.cancel(job_id, self._who.name))

    async def resume(self, job_id: int) -> bool:
        """Let a job go on."""
        return await self._of_jobs(lambda desk: desk.resume(job_id, self._who.name))

    async def discard(self, job_id: int) -> bool:
        """Give up a job for good."""
        return await self._of_jobs(lambda desk: desk.discard(job_id, self._who.name))

    async def turn_down(self, job_id: int) -> bool:
        """Reject a job's candidate."""
        return await self._of_jobs(lambda desk: desk.reject(job_id, self._who.name))

    async def promote(self, model_id: str, *, override: bool, reason: str) -> bool:
        """Make a model live; returns once frames go to it."""

        async def act() -> None:
            await self._models().promotion.promote(
                model_id, self._who.name, override=override, reason=reason
            )

        return await self._try(act, f"{model_id} is live now")

    async def roll_back(self) -> bool:
        """Make the model live again that was so before."""

        async def act() -> None:
            await self._models().promotion.rollback(self._who.name)

        return await self._try(act, "rolled back")

    async def export(self, model_id: str) -> bool:
        """Have the browser save a model as one file."""

        async def act() -> None:
            # Before the browser asks: it could not say in words why it got no file.
            await self._models().golden_masks(model_id)
            ui.download.from_url(f"{API}/models/{model_id}/export")

        return await self._try(act)

    async def delete(self, model_id: str) -> bool:
        """Take a model's files away."""

        async def act() -> None:
            registry, who = self._models().registry, self._who.name
            await asyncio.to_thread(registry.delete, model_id, who)
            self._services().publisher.announce()

        if not self.may_delete:  # browsers are outside here, too
            ui.notify("only administrators delete models: ask for admin scope")
            return False
        return await self._try(act, f"{model_id} is deleted")

    async def rename(self, domain_id: int, name: str) -> bool:
        """Give a domain a name."""
        who = self._who.name
        return await self._of_domains(
            lambda c: domains.rename(c, domain_id, name, who, at=time.time())
        )

    async def remember(
        self, domain_id: int, model_id: str | None, *, selects: bool
    ) -> bool:
        """Say whether a domain's frames turn the server to its model."""
        who = self._who.name

        def write(c: sa.Connection) -> None:
            if model_id and selects:
                require_selectable(self._models().registry, c, model_id)
            domains.remember_model(
                c, domain_id, model_id, selects, who=who, at=time.time()
            )

        return await self._of_domains(write)

    async def _of_jobs(self, act: Callable[[JobDesk], object]) -> bool:
        async def change() -> None:
            services = self._services()
            if services.jobs is None:
                raise AdaptationError("this server runs no adaptation jobs")
            await asyncio.to_thread(act, services.jobs)
            services.ring_jobs()
            services.publisher.announce()

        return await self._try(change)

    async def _of_domains(self, write: Callable[[sa.Connection], object]) -> bool:
        services = self._services()

        def change() -> None:
            with services.store.database.write() as connection:
                write(connection)

        async def act() -> None:
            await asyncio.to_thread(change)
            services.publisher.announce()

        return await self._try(act)

    def _models(self) -> ModelDesk:
        desk = self._services().models
        if desk is None:
            raise ModelError("this server was started without a registry of models")
        return desk

    async def _try(self, act: Callable[[], Awaitable[None]], said: str = "") -> bool:
        if not self.may_change:  # the buttons are off, but browsers are outside
            ui.notify("your token may look, not change: ask for operator scope")
            return False
        try:
            await act()
        except (EMcopilotError, LookupError) as error:
            reason = str(error.args[0]) if error.args else str(error)
            ui.notify(reason, type="warning", timeout=9000, multi_line=True)
            return False
        if said:
            ui.notify(said, type="positive")
        return True
