"""Everything the server is made of, put together in one place.

Start order is top to bottom, stop order bottom to top: the store first and last; agents may
connect only when what they send can be stored and processed.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from emcopilot import __version__
from emcopilot.errors import EMcopilotError, ModelError
from gpu_server.accumulate import Accumulator
from gpu_server.adaptation import Adaptation
from gpu_server.api import (
    agents,
    corrections,
    domains,
    export,
    health,
    jobs,
    live,
    pictures,
    results,
    review,
    segment,
    uploads,
    users,
)
from gpu_server.api.compare import router as compare_routes
from gpu_server.api.models import router as model_routes
from gpu_server.api.problems import install_problem_handlers
from gpu_server.api.services import Services
from gpu_server.auth import Gate
from gpu_server.config import ServerSettings
from gpu_server.golden import golden_frames, self_test
from gpu_server.ingest import Ingest
from gpu_server.job_desk import JobDesk
from gpu_server.keys import server_keys
from gpu_server.live_start import LiveStart
from gpu_server.model_archive import MAX_ARCHIVE_BYTES
from gpu_server.model_desk import ModelDesk
from gpu_server.page import layout
from gpu_server.page.look import StoreLooker
from gpu_server.pipeline import Pipeline
from gpu_server.promotion import Promotion
from gpu_server.publish import Publisher
from gpu_server.recompute import Recomputation
from gpu_server.registry import Registry
from gpu_server.sandbox import DecodePool
from gpu_server.segment import InferenceSpec, Segmenter
from gpu_server.side_results import SideResults
from gpu_server.side_segmenter import SideSegmenter
from gpu_server.store import Store
from gpu_server.tokens import Tokens

log = logging.getLogger(__name__)

API = "/api/v1"


def create_app(
    settings: ServerSettings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[EMcopilotError], None] = lambda _error: None,
) -> FastAPI:
    """Return the server as one ASGI application.

    Parameters
    ----------
    settings : ServerSettings
        Checked settings; the data directory is created when it is not there.
    on_ready : callable
        Called once agents and browsers are served.
    on_failure : callable
        Told why the server cannot start; the ASGI server only learns that it did not.

    Raises
    ------
    ConfigError, ModelError
        On start, not here: if a port is taken, the device is not there or weights do not fit.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await _start(app, settings, stack)
            except EMcopilotError as error:
                on_failure(error)
                raise
            on_ready()
            yield
            close_streams(app)

    app = FastAPI(
        title="EMcopilot",
        version=__version__,
        lifespan=lifespan,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # Swagger's page fetches its script from the internet
        redoc_url=None,
    )
    install_problem_handlers(app)
    app.include_router(health.root)
    app.include_router(model_routes)
    app.include_router(compare_routes)
    for routes in (
        health, agents, results, pictures, corrections, review, segment, live, jobs, domains,
        export, uploads, users,
    ):  # fmt: skip
        app.include_router(routes.router)
    looker = StoreLooker(lambda: app.state.services, lambda: app.state.segmenter)
    layout.mount(app, looker, lambda: app.state.services)
    # Outermost last: the host is checked, then who asks, before anything else runs.
    limits = {
        f"{API}/segment": settings.http.max_upload_bytes,
        f"{API}/uploads": settings.http.max_upload_bytes,
        f"{API}/models/import": MAX_ARCHIVE_BYTES,
    }
    app.add_middleware(
        Gate, store=lambda: app.state.services.store, upload_bytes=limits
    )
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=list(settings.http.allowed_hosts)
    )
    return app


def close_streams(app: FastAPI) -> None:
    """End event streams and waits, which would hold up the ASGI server's stop for seconds.

    From any thread or a signal handler; without effect before the start is complete.
    """
    services: Services | None = getattr(app.state, "services", None)
    if services:
        services.publisher.close()


async def _start(app: FastAPI, settings: ServerSettings, stack: AsyncExitStack) -> None:
    loop = asyncio.get_running_loop()
    store = stack.enter_context(Store(settings.data_dir))
    _welcome(store)
    publisher = Publisher()
    registry = Registry(store)
    await asyncio.to_thread(registry.open)
    segmenter = await _start_live(stack, registry, settings)
    side = await stack.enter_async_context(SideSegmenter(_spec(settings)))
    promotion = Promotion(
        registry,
        segmenter,
        lambda folder: _spec(settings, folder),
        publisher.announce,
    )
    stack.push_async_callback(promotion.close)
    decoder = await stack.enter_async_context(DecodePool(settings.decode))

    async def return_to(domain_id: int, model_id: str) -> None:
        why = "back in its domain"
        await promotion.promote(model_id, f"domain {domain_id}", reason=why)

    accumulator = Accumulator(store, on_return=return_to, announce=publisher.announce)
    stack.push_async_callback(accumulator.close)
    pipeline = Pipeline(
        store, decoder, segmenter, publisher, settings, accumulate=accumulator
    )

    side_results = SideResults(
        store,
        registry,
        side,
        decoder,
        min_area_px=settings.min_area_px,
        live_waits=lambda: segmenter.waiting > 0,
    )
    recomputation = Recomputation(store, registry, side_results, publisher.announce)
    stack.push_async_callback(recomputation.close)

    def on_stored(_files: object) -> None:
        loop.call_soon_threadsafe(pipeline.ring)
        publisher.announce()

    ingest = Ingest(store, settings.ingest, server_keys(store.data_dir), on_stored)
    stack.enter_context(ingest)
    carrying = asyncio.create_task(pipeline.run(), name="pipeline")
    stack.push_async_callback(_cancel, carrying)
    desk = JobDesk(
        store,
        registry,
        settings.ingest.disk_reserve_bytes,
        device=lambda: segmenter.device,
    )
    adaptation = Adaptation(
        store,
        registry,
        desk,
        decoder,
        settings.adaptation,
        traffic=pipeline.traffic,
        announce=publisher.announce,
    )
    learning = asyncio.create_task(adaptation.run(), name="adaptation")
    stack.push_async_callback(_cancel, learning)
    app.state.segmenter = segmenter
    app.state.services = Services(
        store=store,
        publisher=publisher,
        one_shot=pipeline,
        decoder=decoder,
        ring=pipeline.ring,
        scratch_dir=_empty(settings.data_dir / "scratch"),
        max_upload_bytes=settings.http.max_upload_bytes,
        disk_reserve_bytes=settings.ingest.disk_reserve_bytes,
        settings=settings.model_dump(
            mode="json", include={"segment", "min_area_px", "magnifications"}
        ),
        models=ModelDesk(registry, promotion, side, side_results, recomputation),
        jobs=desk,
        ring_jobs=adaptation.ring,
        probes={
            "ingest": lambda: (
                None if ingest.status().is_alive else "the ingest thread has ended"
            ),
            "agents": lambda: ingest.status().paused,
            "inference": lambda: segmenter.trouble,
            "pipeline": lambda: (
                "the pipeline has ended" if carrying.done() else pipeline.trouble
            ),
            "adaptation": lambda: (
                "the queue of jobs has ended" if learning.done() else None
            ),
        },
    )


async def _start_live(
    stack: AsyncExitStack, registry: Registry, settings: ServerSettings
) -> Segmenter:
    """Start the network with the model that is live, or the next best that runs."""
    start = LiveStart(registry, settings.segment.model)
    choices = start.choices()
    while True:
        choice = await asyncio.to_thread(next, choices)
        untested = await asyncio.to_thread(start.is_untested, choice)
        segmenter = Segmenter(_spec(settings, choice.folder))
        async with AsyncExitStack() as trial:
            try:
                await trial.enter_async_context(segmenter)
                if untested:
                    await asyncio.to_thread(golden_frames)
                    await self_test(segmenter.segment)
            except ModelError as error:
                start.failed(choice, error)
                continue
            await asyncio.to_thread(start.settle, choice, passed_test=untested)
            stack.push_async_exit(trial.pop_all())
            return segmenter


def _welcome(store: Store) -> None:
    """Print the administrator's token once, on the very first start."""
    secret = Tokens(store.database).create_first()
    if secret:
        sys.stderr.write(
            f"\nAdministrator's token, shown this once:\n\n    {secret}\n\n"
            "Log in with it on the page; make others with `emcopilot tokens create`.\n\n"
        )


def _empty(folder: Path) -> Path:
    """Return the folder without what an earlier server left when it was killed."""
    for left_over in folder.glob("*.part"):
        left_over.unlink(missing_ok=True)
    return folder


def _spec(settings: ServerSettings, folder: Path | None = None) -> InferenceSpec:
    chosen = settings.segment
    return InferenceSpec(
        model=str(folder or chosen.model),
        device=chosen.device,
        engine=chosen.engine,
        warm_px=chosen.warm_px,
        one_pass_px=chosen.one_pass_px,
        cache_dir=str(settings.data_dir / "compiled"),
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
