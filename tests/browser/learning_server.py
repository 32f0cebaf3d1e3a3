"""The page's server with a desk of jobs and models, told by lines on stdin what has happened.

The routes, page, store, registry, promotion and comparison are real; the network is a threshold,
and no job runs: its rows and its folder are written as a running one would write them.
"""

import argparse
import asyncio
import hashlib
import importlib.util
import io
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import sqlalchemy as sa
import tifffile
import uvicorn
from fastapi import FastAPI
from scipy.ndimage import gaussian_filter

from emcopilot.decode import Frame
from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, STATISTICS, FrameLook
from emcopilot.label_image import decode_labels
from emcopilot.outlines import outlines
from emcopilot.simulate import demo_scene, render_micrograph
from gpu_server import jobs, promotion_rows, reservoir, segment, shift_rows, tables
from gpu_server import side_segmenter as side_module
from gpu_server.api import agents, corrections, health, live, pictures, results, review
from gpu_server.api import compare as compare_api
from gpu_server.api import domains as domains_api
from gpu_server.api import jobs as jobs_api
from gpu_server.api import models as models_api
from gpu_server.api import users as users_api
from gpu_server.api.problems import install_problem_handlers
from gpu_server.api.services import Services
from gpu_server.auth import Gate
from gpu_server.config import DecodeSettings
from gpu_server.inference_child import InferenceSpec, Segmentation
from gpu_server.intake import ReceivedFile
from gpu_server.job_desk import JobDesk
from gpu_server.job_rows import Standing
from gpu_server.measure import MeasuredFrame, measure
from gpu_server.model_desk import ModelDesk
from gpu_server.page import layout
from gpu_server.page.look import StoreLooker
from gpu_server.picture import overlay, picture, png
from gpu_server.pipeline import live_frame, result_row
from gpu_server.promotion import Promotion
from gpu_server.publish import LiveFrame, Publisher
from gpu_server.recompute import Recomputation
from gpu_server.registry import Registry
from gpu_server.reservoir import Facts
from gpu_server.sandbox import DecodePool
from gpu_server.segment import Segmenter
from gpu_server.shift_rows import Proposal, Shift
from gpu_server.side_results import SideResults
from gpu_server.side_segmenter import SideSegmenter
from gpu_server.store import Store
from gpu_server.tables import STAGES
from gpu_server.tokens import Tokens


def _beside(name: str) -> ModuleType:
    """Load a file of fixtures; its folder is no package, and has folders named like ours."""
    path = Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper_models = _beside("paper_models")
PIXEL_SIZE_NM = 0.2
LIVE, BEFORE, CANDIDATE = "haadf-model", "older-model", "adapted-1f00ba11"
HOSTILE = '<img src=x onerror="window.hacked=1">'
CURVES = {
    "pix2pix": {"l1": 0.2, "gan": 0.7},
    "cyclegan": {"cycle": 0.3, "frechet": 20.0},
    "train": {"loss": 0.1, "held_out_loss": 0.14, "held_out_miou": -0.93},
}
"""Where each figure ends; below zero, what it rises to."""


class SmoothChild(paper_models.PaperChild):
    """Finds what is bright; what is dark too, if its card says that it learnt that."""

    may_start = threading.Event()
    may_start.set()

    def wait_until_ready(self) -> None:
        self.may_start.wait(60)
        super().wait_until_ready()
        card = json.loads((self.folder / "card.json").read_text())
        self.knows_dark = bool(card.get("dark"))

    def _answer(self, pixels: np.ndarray) -> Segmentation:
        smooth = gaussian_filter(pixels, 2.0)
        off = smooth - np.median(smooth)
        if self.knows_dark and np.mean(off**3) < 0:
            smooth = -smooth
        inside = smooth > np.median(smooth) + self.above * smooth.std()
        found = np.where(inside, 255, 0).astype(np.uint8)
        return Segmentation(found, self.model_id, 0.01, self.device)


class Site:
    """What has happened, as far as a test tells it."""

    def __init__(self, store: Store, size: int) -> None:
        self.store, self.size = store, size
        self.registry = Registry(store)
        self.publisher: Publisher | None = None
        self.agent_id = store.enrol_agent("k" * 40, "titan", "scope-pc")
        self.shown: list[LiveFrame] = []
        self.seq = 0
        self.domains: dict[str, int] = {}

    def fill(self) -> None:
        """Fill the store with a film that turns from HAADF to BF, and two models."""
        self.registry.open()
        root = self.store.data_dir.parent / "made"
        root.mkdir()
        self.made = root
        for name in (BEFORE, LIVE):
            folder = paper_models.paper_model(root / name, name, 1.2)
            self.registry.add(folder, "imported", "admin", verdict="promote")
        with self.store.database.write() as c:
            then = time.time() - 7200
            promotion_rows.record(c, BEFORE, "settings", at=then)
            promotion_rows.record(c, LIVE, "Miriam", at=then + 3000, reason="HAADF")
        for mode, count in (("haadf", 5), ("bf", 9)):
            for number in range(count):
                self._frame(mode, number)
        self.session_id = 1

    def _frame(self, mode: str, number: int) -> None:
        scene = demo_scene(mode, size=self.size)
        counts = render_micrograph(scene, np.random.default_rng((7, number))).pixels
        self.seq += 1
        self._deliver(counts)
        leased = self.store.lease_frame()
        assert leased is not None
        child = SmoothChild(InferenceSpec(model=str(self.made / LIVE), warm_px=0))
        child.wait_until_ready()
        frame = Frame(counts, (PIXEL_SIZE_NM, PIXEL_SIZE_NM), "metadata")
        found = measure(frame, child.exchange([counts])[0])
        self.store.save_result(result_row(leased, found, {}))
        self.shown.append(live_frame(leased, found))
        self._join(leased.frame_id, mode, number)

    def _join(self, frame_id: int, mode: str, number: int) -> None:
        vector = np.zeros(LOOK_WIDTH, np.float32)
        vector[NETWORK_WIDTH:] = 0.5
        polarity = NETWORK_WIDTH + STATISTICS.index("polarity")
        vector[polarity] = 0.4 if mode == "haadf" else -0.4
        vector[NETWORK_WIDTH + STATISTICS.index("grain_px")] = 4.6
        look = FrameLook(vector + np.float32(0.01 * number))
        facts = Facts.of("Titan", mode.upper(), (PIXEL_SIZE_NM, PIXEL_SIZE_NM))
        with self.store.database.write() as c:
            place = reservoir.find_place(c, look, "net", facts)
            self.domains[mode] = reservoir.join(
                c, frame_id, look, place, features="net", facts=facts, at=time.time()
            )
            c.execute(
                tables.looks.insert().values(
                    frame_id=frame_id, domain_id=self.domains[mode], model_id=LIVE
                )
            )

    def _deliver(self, counts: np.ndarray) -> None:
        target = io.BytesIO()
        tifffile.imwrite(target, counts)
        data = target.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.store.blob_path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        at = time.time() - 60 + 2 * self.seq
        self.store.record_stored(
            [
                ReceivedFile(
                    agent_id=self.agent_id, journal="journal", seq=self.seq, rev=1,
                    source_key=f"in-situ run/frame_{self.seq:05}.tif", size=len(data),
                    sha256=sha256, mtime_ns=int(at * 1e9), sealed_at=at,
                    received_at=at + 0.1,
                )
            ]
        )  # fmt: skip

    # What a test says on stdin

    def shift(self, state: str, reason: str = "", model_id: str | None = None) -> None:
        """Let the alarm say something of the session."""
        action = "promote" if state == "returned" else "adapt"
        asked = (
            None if state == "ok" else Proposal(action, self.domains["bf"], model_id)
        )
        with self.store.database.write() as c:
            live = self.registry.live(c) or ""
            told = Shift(state, reason, live, self.domains["bf"], asked, 6)
            shift_rows.tell(c, self.session_id, told, at=time.time())

    def run_job(self, job_id: int, stage: str, part: float = 0.5) -> None:
        """Let a job be in a stage, as far as `part` of it."""
        seconds = {n: 60.0 + 40 * i for i, n in enumerate(STAGES)}
        spent = {n: seconds[n] for n in STAGES[: STAGES.index(stage) + 1]}
        steps = int(400 * part)
        with self.store.database.write() as c:
            if jobs.find(c, job_id).state == "queued":
                jobs.begin(c, job_id, at=time.time())
            standing = Standing(stage, steps, 400, 380.0, spent)
            jobs.advance(
                c, job_id, standing, is_further=True, tells=True, at=time.time()
            )
        self._write_course(job_id, stage, part)

    def end_job(self, job_id: int, state: str, reason: str | None = None) -> None:
        """Let a job stop."""
        with self.store.database.write() as c:
            jobs.end(c, job_id, state, at=time.time(), reason=reason)

    def candidate(self, job_id: int, verdict: str, name: str = CANDIDATE) -> None:
        """Let a job end with a candidate and its report."""
        for stage in STAGES:
            self.run_job(job_id, stage, 1.0)
        folder = paper_models.paper_model(self.made / name, name, 1.0)
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | {"dark": True}))
        self.registry.add(
            folder, "adapted", "job", job_id=job_id, domain_id=self.domains["bf"],
            verdict=verdict,
        )  # fmt: skip
        report = self.store.data_dir / "jobs" / str(job_id) / "out" / "round-1"
        report.mkdir(parents=True, exist_ok=True)
        (report / "report.json").write_text(json.dumps(_report(verdict)))
        (report / "report.png").write_bytes(self._strip([5, 6, 7]))
        with self.store.database.write() as c:
            jobs.end(c, job_id, "awaiting_operator", at=time.time(), candidate=name)

    def _write_course(self, job_id: int, stage: str, part: float) -> None:
        out = self.store.data_dir / "jobs" / str(job_id) / "out"
        (out / "samples").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(3)
        lines: list[str] = []
        for name in STAGES[: STAGES.index(stage) + 1]:
            last = int(400 * (part if name == stage else 1.0))
            for step in range(0, last + 1, 5):
                gone = 1 - np.exp(-step / 90)
                figures = {
                    figure: -end * gone
                    if end < 0
                    else end * (1 + 6 * (1 - gone) + 0.05 * rng.normal())
                    for figure, end in CURVES.get(name, {}).items()
                }
                said = {"stage": name, "step": step, "steps": 400, "at": 0.0}
                lines.append(json.dumps(said | {"figures": figures}))
        (out / "progress.jsonl").write_text("\n".join(lines) + "\n")
        for number, name in enumerate(("rough-masks", "first-generation"), 1):
            path = out / "samples" / f"1-{number}-{name}.png"
            path.write_bytes(self._strip([5, 6, 7]))

    def _strip(self, places: list[int]) -> bytes:
        """Return frames of the film side by side, with a cut of them, as PNG."""
        child = SmoothChild(InferenceSpec(model=str(self.made / LIVE), warm_px=0))
        child.wait_until_ready()
        child.knows_dark = True
        shown: list[np.ndarray] = []
        for place in places:
            counts = tifffile.imread(self.store.blob_path(self._sha256(place)))
            frame = Frame(counts, (PIXEL_SIZE_NM, PIXEL_SIZE_NM), "metadata")
            found = measure(frame, child.exchange([counts])[0])
            labels = decode_labels(found.labels_tiff())
            traced = outlines(labels)
            ids = range(1, int(labels.max()) + 1)
            no = np.zeros(len(ids), bool)
            drawn = overlay(
                picture(counts), [traced.polygon(n) for n in ids],
                touches_border=no, rejected=no,
            )  # fmt: skip
            shown.append(drawn[:384, :384])
        return png(np.ascontiguousarray(np.concatenate(shown, axis=1)))

    def _sha256(self, place: int) -> str:
        with self.store.read() as c:
            chosen = sa.select(tables.files.c.sha256).order_by(tables.files.c.id)
            return list(c.scalars(chosen))[place]

    def hold(self) -> None:
        """Let no further child become ready, until `let_go`."""
        SmoothChild.may_start.clear()

    def let_go(self) -> None:
        """Let them be ready."""
        SmoothChild.may_start.set()

    def live(self) -> list[str]:
        """Return the live model, and why it is that."""
        with self.store.read() as c:
            change = promotion_rows.last(c)
        assert change is not None
        return [change.model_id, change.who, change.reason]

    def token(self, scope: str) -> str:
        """Return a token of that scope."""
        return Tokens(self.store.database).create(scope, scope, who="test")

    def audit(self) -> list[list[str]]:
        """Return who did what, oldest first."""
        with self.store.read() as c:
            rows = c.execute(sa.select(tables.audit).order_by(tables.audit.c.id))
            return [[row.who, row.action, row.subject] for row in rows]


def _report(verdict: str) -> dict[str, object]:
    """Return a report as a job writes it, made up to suit the verdict."""
    is_worse = verdict == "reject"
    new = {"worth": 2.64, "step": 2.71, "solidity": 0.99, "stability": 0.98}
    old = {"worth": 0.15, "step": 1.4, "solidity": 0.83, "stability": 0.14}
    if is_worse:
        new, old = old, new
    counts = {"particles": 64, "mean_diameter_px": 31.2}
    return {
        "verdict": verdict,
        "reasons": [
            f"outlines are worth {new['worth']:.3f} on held-back real frames, the incumbent's "
            f"{old['worth']:.3f}, the classical cut's 2.612",
            "masks of the synthetic set are true to 0.948 (asked: 0.9)",
            f"MIoU on synthetic frames changes by {'-0.510' if is_worse else '+0.510'}",
            *([f"forgets: {HOSTILE}"] if is_worse else []),
        ],
        "fidelity_second": 0.948,
        "first": {"frechet": 2.03, "mmd": 0.062},
        "second": {"frechet": 1.71, "mmd": 0.040},
        "worths": {
            "candidate": new | {"covered": 0.0587},
            "incumbent": old | {"covered": 0.0041},
        },
        "synthetic_miou": {"candidate": 0.983, "incumbent": 0.473},
        "agreement": {
            "mean_iou": 0.12,
            "frames": [
                {"incumbent": counts | {"particles": 11}, "candidate": counts}
                for _ in range(4)
            ],
        },
        "replay": [
            {"domain": "Titan HAADF", "incumbent": 0.953, "candidate": 0.951},
            {"domain": "simulated HAADF", "incumbent": 0.962, "candidate": 0.948},
        ],
    }


class OneShot:
    """Refuses what needs a network: none is loaded."""

    async def measure_upload(
        self, path: Path, name: str, page: int, pixel_size_nm: object
    ) -> MeasuredFrame:
        """Refuse."""
        raise NotImplementedError("no network here")


def create_app(site: Site) -> FastAPI:
    """Return the page and its routes over a site."""
    store, registry = site.store, site.registry

    def spec(folder: Path) -> InferenceSpec:
        return InferenceSpec(model=str(folder), warm_px=0)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            decoder = await stack.enter_async_context(DecodePool(DecodeSettings()))
            live_spec = spec(registry.folder(LIVE))
            segmenter = await stack.enter_async_context(Segmenter(live_spec))
            side = await stack.enter_async_context(SideSegmenter(live_spec))
            publisher = site.publisher = Publisher()
            promotion = Promotion(registry, segmenter, spec, publisher.announce)
            side_results = SideResults(store, registry, side, decoder, min_area_px=9)
            again = Recomputation(store, registry, side_results, publisher.announce)
            stack.push_async_callback(again.close)
            app.state.segmenter = segmenter
            app.state.services = Services(
                store=store, publisher=publisher, one_shot=OneShot(), decoder=decoder,
                ring=lambda: None, scratch_dir=store.data_dir / "scratch",
                max_upload_bytes=2**28, disk_reserve_bytes=1,
                models=ModelDesk(registry, promotion, side, side_results, again),
                jobs=JobDesk(store, registry),
            )  # fmt: skip
            publisher.publish(site.shown[-1])
            yield
            publisher.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    install_problem_handlers(app)
    for part in (
        health, agents, results, pictures, corrections, review, users_api, live,
        models_api, compare_api, domains_api, jobs_api,
    ):  # fmt: skip
        app.include_router(part.router)
    app.include_router(health.root)
    looker = StoreLooker(lambda: app.state.services, lambda: app.state.segmenter)
    layout.mount(app, looker, lambda: app.state.services)
    app.add_middleware(Gate, store=lambda: store, upload_bytes={})
    return app


def listen(site: Site) -> None:
    """Do what each line of stdin asks, and answer with one line."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer: object = getattr(site, name)(**arguments)
        except Exception as error:
            answer = f"error: {error!r}"
        print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    segment.InferenceChild = SmoothChild
    side_module.InferenceChild = SmoothChild
    with Store(options.folder) as store:
        site = Site(store, options.size)
        site.fill()
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(site), port=options.port, log_level="warning", ws="websockets-sansio",
                ws_per_message_deflate=False, timeout_graceful_shutdown=2,
            )
        )  # fmt: skip
        code = Tokens(store.database).new_login_code("admin", name="Miriam")
        asyncio.run(_serve(server, code, site))


async def _serve(server: uvicorn.Server, code: str, site: Site) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            raise SystemExit("the server did not start")
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    print(json.dumps({"url": url, "login": f"{url}/login?code={code}"}), flush=True)
    threading.Thread(target=listen, args=(site,), daemon=True).start()
    await serving


if __name__ == "__main__":
    main()
