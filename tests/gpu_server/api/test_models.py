"""Models over REST: what is live, who made it so, and what may not be."""

import asyncio
import io
import json
import shutil
import socket
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from emcopilot.decode import Frame, open_frames
from gpu_server import promotion_rows
from gpu_server.api import corrections, models
from gpu_server.api.problems import install_problem_handlers
from gpu_server.api.services import Services
from gpu_server.auth import Gate
from gpu_server.inference_child import InferenceSpec
from gpu_server.model_desk import ModelDesk
from gpu_server.promotion import Promotion
from gpu_server.publish import Publisher
from gpu_server.registry import Registry
from gpu_server.segment import Segmenter
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
class Site:
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
def site(lab, papers, paper_children, tmp_path: Path) -> Iterator[Site]:
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
    app, ready = _app(lab, registry, tmp_path / "scratch")
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(app, log_level="warning", ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert ready.wait(20)
    with httpx.Client(base_url=url, timeout=30) as http:
        yield Site(http, tokens, registry, app.state.services)
    server.should_exit = True
    thread.join(20)
    listener.close()


def _app(lab, registry: Registry, scratch: Path) -> tuple[FastAPI, threading.Event]:
    ready = threading.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        publisher = Publisher()
        live = spec(registry.folder("a"))
        async with Segmenter(live) as segmenter, SideSegmenter(live) as side:
            promotion = Promotion(registry, segmenter, spec, publisher.announce)
            app.state.services = Services(
                store=lab.store,
                publisher=publisher,
                one_shot=None,  # type: ignore[arg-type]
                decoder=Decoder(),
                ring=lambda: None,
                scratch_dir=scratch,
                max_upload_bytes=2**20,
                disk_reserve_bytes=1,
                models=ModelDesk(registry, promotion, side),
            )
            ready.set()
            yield

    app = FastAPI(lifespan=lifespan)
    install_problem_handlers(app)
    for part in (models, corrections):
        app.include_router(part.router)
    app.add_middleware(
        Gate, store=lambda: lab.store, upload_bytes={"/api/v1/models/import": 2**24}
    )
    return app, ready


def test_the_list_says_what_is_live_and_what_needs_a_word(site: Site) -> None:
    rows = {row["model_id"]: row for row in site.ask("GET", "/models", "viewer").json()}
    assert {name for name, row in rows.items() if row["live"]} == {"a"}
    assert rows["c"]["needs_override"]
    assert not rows["b"]["needs_override"]
    assert not rows["a"]["needs_override"]  # live before: trusted
    assert rows["a"]["promoted_by"] == "settings"
    one = site.ask("GET", "/models/b", "viewer").json()
    assert (one["card"]["above"], one["report"]) == (1.5, {"figure": 1})
    assert site.ask("GET", "/models/b/card").json()["model_id"] == "b"
    assert site.ask("GET", "/models/zebra").status_code == 404
    assert site.ask("GET", "/models/..%2f..%2fetc").status_code in (404, 422)


def test_promote_and_roll_back_and_what_they_leave(site: Site) -> None:
    done = site.ask("POST", "/models/b/promote", json={"reason": "smaller"})
    assert (done.status_code, done.json()["replaced"]) == (200, "a")
    assert site.ask("GET", "/models/b").json()["tested_at"] is not None
    again = site.ask("POST", "/models/b/promote")
    assert again.json()["id"] == done.json()["id"]  # pressed twice
    refused = site.ask("POST", "/models/a/rollback")
    assert (refused.status_code, refused.json()["expected"]) == (409, "b")
    told = site.ask("GET", "/models/promotions").json()
    assert (told["live"], told["rollback_to"]) == ("b", "a")
    back = site.ask("POST", "/models/b/rollback", json={"reason": "worse"})
    assert (back.json()["model_id"], back.json()["undoes"]) == ("a", done.json()["id"])
    assert site.ask("POST", "/models/rollback").status_code == 409
    history = site.ask("GET", "/models/promotions", "viewer").json()["changes"]
    assert [(row["who"], row["reason"]) for row in history[:2]] == [
        ("operator", "worse"), ("operator", "smaller"),
    ]  # fmt: skip


def test_a_rejected_candidate_is_not_promotable_without_override(site: Site) -> None:
    refused = site.ask("POST", "/models/c/promote")
    assert refused.status_code == 409
    assert "override" in refused.json()["do"]
    assert "worse than the incumbent" in refused.json()["detail"]
    forced = site.ask("POST", "/models/c/promote", json={"override": True})
    assert forced.status_code == 200


def test_viewers_look_operators_promote_and_admins_delete(site: Site) -> None:
    assert site.ask("POST", "/models/b/promote", "viewer").status_code == 403
    assert site.ask("POST", "/models/rollback", "viewer").status_code == 403
    assert site.ask("POST", "/models/import", "viewer").status_code == 403
    assert site.ask("DELETE", "/models/b").status_code == 403
    kept = site.ask("DELETE", "/models/a", "admin")
    assert (kept.status_code, "live" in kept.json()["detail"]) == (409, True)
    gone = site.ask("DELETE", "/models/b", "admin").json()
    assert gone["deleted_at"] is not None
    assert "b" not in {row["model_id"] for row in site.ask("GET", "/models").json()}
    shown = site.ask("GET", "/models", params={"deleted": True}).json()
    assert "b" in {row["model_id"] for row in shown}
    assert site.ask("GET", "/models/b/card").status_code == 404
    assert site.ask("POST", "/models/b/promote").status_code == 503


def test_an_exported_model_is_imported_elsewhere_tested_and_not_live(
    site: Site,
) -> None:
    sent = site.ask("GET", "/models/b/export")
    assert sent.headers["content-type"] == "application/zip"
    assert 'filename="b.zip"' in sent.headers["content-disposition"]
    assert {"manifest.json", "golden.npz"} <= set(
        zipfile.ZipFile(io.BytesIO(sent.content)).namelist()
    )
    site.ask("DELETE", "/models/b", "admin").raise_for_status()
    taken = site.ask("POST", "/models/import", content=sent.content)
    assert taken.json() == {"model_id": "b"}
    one = site.ask("GET", "/models/b").json()
    assert one["deleted_at"] is None
    assert one["tested_at"] is not None
    assert one["live"] is False
    assert not list(site.services.scratch_dir.iterdir())


def test_what_is_imported_must_segment_as_it_did(site: Site, papers, tmp_path) -> None:
    """The weights of one model beside the golden masks of another."""
    export = {name: site.ask("GET", f"/models/{name}/export").content for name in "bc"}
    files = {name: dict(_read(content).items()) for name, content in export.items()}
    forged = files["b"] | {"golden.npz": files["c"]["golden.npz"]}
    manifest = json.loads(forged["manifest.json"])
    manifest["files"]["golden.npz"] = json.loads(files["c"]["manifest.json"])["files"][
        "golden.npz"
    ]
    forged["manifest.json"] = json.dumps(manifest).encode()
    site.ask("DELETE", "/models/b", "admin").raise_for_status()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in forged.items():
            archive.writestr(name, data)
    before = set(site.registry.root.iterdir())
    refused = site.ask("POST", "/models/import", content=target.getvalue())
    assert refused.status_code == 422
    assert "overlap" in refused.json()["detail"]
    assert set(site.registry.root.iterdir()) == before
    assert site.ask("GET", "/models/b").json()["deleted_at"] is not None


def _read(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused_with_a_reason(
    site: Site, content: bytes
) -> None:
    refused = site.ask("POST", "/models/import", content=content)
    assert refused.status_code == 422
    assert refused.json()["title"] == "Not a working model"


def test_an_import_that_is_too_large_is_cut(site: Site) -> None:
    refused = site.ask("POST", "/models/import", content=bytes(2**24 + 1))
    assert refused.status_code == 413
    assert not list(site.services.scratch_dir.iterdir())


def test_a_model_whose_files_are_gone_says_so(site: Site) -> None:
    shutil.rmtree(site.registry.root / "b")
    row = site.ask("GET", "/models/b").json()
    assert "card.json" in row["trouble"]
    assert row["card"] is None
    assert site.ask("POST", "/models/b/promote").status_code == 422
    assert site.ask("GET", "/models/b/export").status_code == 422
