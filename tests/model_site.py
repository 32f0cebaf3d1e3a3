"""A running server of paper models over a store with drawn frames."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from emcopilot.decode import Frame, open_frames
from gpu_server import promotion_rows
from gpu_server.api import compare, corrections, domains, models, results
from gpu_server.api.problems import install_problem_handlers
from gpu_server.api.services import Services
from gpu_server.auth import Gate
from gpu_server.inference_child import InferenceSpec
from gpu_server.model_desk import ModelDesk
from gpu_server.promotion import Promotion
from gpu_server.publish import Publisher
from gpu_server.recompute import Recomputation
from gpu_server.registry import Registry
from gpu_server.segment import Segmenter
from gpu_server.side_results import SideResults
from gpu_server.side_segmenter import SideSegmenter
from gpu_server.tokens import Tokens


def spec(folder: Path) -> InferenceSpec:
    return InferenceSpec(model=str(folder), warm_px=0)


class Decoder:
    """Decodes in process: the frames are our own."""

    async def decode(self, path: Path, name: str, page: int) -> Frame:
        def read() -> Frame:
            with open_frames(path, name) as file:
                return file.read(page)

        return await asyncio.to_thread(read)


@dataclass
class ModelSite:
    """A running server of models, and who asks it."""

    http: httpx.Client
    tokens: dict[str, str]
    registry: Registry
    services: Services

    def ask(
        self, method: str, path: str, scope: str = "operator", **more
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[scope]}"}
        return self.http.request(method, f"/api/v1{path}", headers=headers, **more)


@pytest.fixture
def model_site(
    lab, papers, paper_children, rest_host, tmp_path: Path
) -> Iterator[ModelSite]:
    registry = Registry(lab.store)
    registry.open()
    for name, verdict in (("a", None), ("b", "promote"), ("c", "reject")):
        registry.add(papers[name], "adapted", "job", verdict=verdict)
    with registry.database.write() as connection:
        promotion_rows.record(connection, "a", "settings", at=1.0)
    access = Tokens(lab.store.database)
    tokens = {
        scope: access.create(scope, scope, who="test")
        for scope in ("viewer", "operator", "admin")
    }
    app = _app(lab, registry, tmp_path / "scratch")
    with rest_host.serving(app), rest_host.client() as http:
        yield ModelSite(http, tokens, registry, app.state.services)


def _app(lab, registry: Registry, scratch: Path) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        publisher = Publisher()
        live = spec(registry.folder("a"))
        async with Segmenter(live) as segmenter, SideSegmenter(live) as side:
            promotion = Promotion(registry, segmenter, spec, publisher.announce)
            decoder = Decoder()
            side_results = SideResults(
                lab.store, registry, side, decoder, min_area_px=9
            )
            recomputation = Recomputation(
                lab.store, registry, side_results, publisher.announce
            )
            app.state.services = Services(
                store=lab.store,
                publisher=publisher,
                one_shot=None,  # type: ignore[arg-type]
                decoder=decoder,
                ring=lambda: None,
                scratch_dir=scratch,
                max_upload_bytes=2**20,
                disk_reserve_bytes=1,
                models=ModelDesk(
                    registry, promotion, side, side_results, recomputation
                ),
            )
            yield
            await recomputation.close()

    app = FastAPI(lifespan=lifespan)
    install_problem_handlers(app)
    for part in (models, compare, corrections, results, domains):
        app.include_router(part.router)
    app.add_middleware(
        Gate, store=lambda: lab.store, upload_bytes={"/api/v1/models/import": 2**24}
    )
    return app
