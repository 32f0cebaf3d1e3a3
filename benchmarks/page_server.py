"""The operator's page before a store of drawn frames, and a film that is replayed from it.

Inference is idle: what is measured is the way from a stored frame to the screen. Real routes,
gate, page, store, and decode workers; only the network is left out.

    python benchmarks/page_server.py FOLDER --frames 40 --size 1024 --particles 300 --fps 10
"""

import argparse
import asyncio
import hashlib
import io
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import sqlalchemy as sa
import tifffile
import uvicorn
from fastapi import FastAPI

from emcopilot.decode import Frame
from gpu_server import tables
from gpu_server.api import (
    agents,
    corrections,
    export,
    health,
    live,
    pictures,
    results,
    review,
    uploads,
    users,
)
from gpu_server.api.problems import install_problem_handlers
from gpu_server.api.services import Services
from gpu_server.auth import Gate
from gpu_server.config import DecodeSettings
from gpu_server.intake import ReceivedFile
from gpu_server.measure import MeasuredFrame, measure
from gpu_server.page import layout
from gpu_server.page.look import StoreLooker
from gpu_server.pipeline import live_frame, result_row
from gpu_server.publish import LiveFrame, Publisher
from gpu_server.sandbox import DecodePool
from gpu_server.segment import Segmentation
from gpu_server.store import Store
from gpu_server.tokens import Tokens

MODEL = "threshold"
START_AT = 1_700_000_000
PIXEL_SIZE_NM = 0.2


class IdleNetwork:
    """What the page asks of an inference backend that has nothing to do."""

    device = "cpu"
    model_id = MODEL


def drawn(
    size: int, count: int, seed: int, mean_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of a noisy micrograph and its probability map, each (size, size)."""
    rng = np.random.default_rng(seed)
    bright = np.zeros((size, size), np.float32)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    step = size / columns
    for index in range(count):
        row, column = divmod(index, columns)
        diameter = min(0.8 * step, mean_px * rng.lognormal(0, 0.3))
        y = (row + 0.5 + rng.uniform(-0.08, 0.08)) * step
        x = (column + 0.5 + rng.uniform(-0.08, 0.08)) * step
        stretch, angle = rng.uniform(1.0, 1.3), rng.uniform(0, np.pi)
        _ellipse(bright, (y, x), diameter, stretch, angle)
    field = 600 + 150 * np.sin(np.linspace(0, 3, size))[:, None]
    counts = rng.poisson(field + 900 * bright).astype(np.uint16)
    return counts, np.where(bright > 0.05, 255, 0).astype(np.uint8)


def _ellipse(
    bright: np.ndarray,
    centre: tuple[float, float],
    diameter: float,
    stretch: float,
    angle: float,
) -> None:
    reach = int(diameter) + 2
    top, left = (max(0, int(c) - reach) for c in centre)
    bottom, right = (min(len(bright), int(c) + reach + 1) for c in centre)
    y, x = np.ogrid[top:bottom, left:right]
    dy, dx = y - centre[0], x - centre[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    off = (along / stretch) ** 2 + (across * stretch) ** 2
    dome = np.clip(1.0 - off / (diameter / 2) ** 2, 0, 1) ** 0.5
    here = bright[top:bottom, left:right]
    np.maximum(here, dome, out=here)


def fill(
    store: Store,
    frames: int,
    size: int,
    particles: int,
    *,
    folder: str = "film",
    pixel_size_nm: float | None = PIXEL_SIZE_NM,
    first: int = 1,
) -> list[LiveFrame]:
    """Store and measure drawn frames of one session; return them as viewers see them."""
    shown: list[LiveFrame] = []
    agent_id = _agent(store)
    for seq in range(first, first + frames):
        mean_px = size / 60 * (1 + 0.4 * (seq - first) / frames)
        counts, probability = drawn(size, particles, seq, mean_px)
        _deliver(store, agent_id, counts, seq, folder)
        leased = store.lease_frame()
        assert leased is not None, "a frame was delivered just now"
        frame = Frame(counts, None, None)
        if pixel_size_nm:
            frame = Frame(counts, (pixel_size_nm, pixel_size_nm), "metadata")
        found = measure(frame, Segmentation(probability, MODEL, 0.3, "cpu"))
        store.save_result(result_row(leased, found, {}))
        shown.append(live_frame(leased, found))
    return shown


def _agent(store: Store) -> int:
    key = "k" * 40
    known = store.enrolled_agent(key)
    return known.id if known else store.enrol_agent(key, "titan", "scope-pc")


def lengthen(store: Store, frames: int) -> None:
    """Make the session `frames` long by copies of its first frame's rows, 2 s apart."""
    rng = np.random.default_rng(1)
    with store.database.write() as connection:
        file, frame, result, blob = (
            dict(connection.execute(sa.select(table).limit(1)).mappings().one())
            for table in (
                tables.files,
                tables.frames,
                tables.results,
                tables.result_blobs,
            )
        )
        sizes = np.frombuffer(result["diameters"], "<f4")
        begun = connection.execute(sa.select(sa.func.max(tables.frames.c.id))).scalar()

        def copies(n: int) -> dict[sa.Table, dict[str, object]]:
            grown = sizes * (1 + n / frames + 0.05 * rng.normal())
            written_ns = file["mtime_ns"] + 2 * n * 10**9
            name = f"film/frame_{n:06}.tif"
            new_file = {"id": n, "seq": n, "source_key": name, "mtime_ns": written_ns}
            diameters = grown.astype("<f4").tobytes()
            new_result = {"id": n, "frame_id": n, "diameters": diameters}
            return {
                tables.files: file | new_file,
                tables.frames: frame | {"id": n, "file_id": n, "number": n},
                tables.results: result | new_result,
                tables.result_blobs: blob | {"result_id": n},
            }

        for start in range((begun or 0) + 1, frames + 1, 5000):
            rows = [copies(n) for n in range(start, min(start + 5000, frames + 1))]
            for table in rows[0]:
                connection.execute(table.insert(), [row[table] for row in rows])


def _deliver(
    store: Store, agent_id: int, counts: np.ndarray, number: int, folder: str
) -> None:
    target = io.BytesIO()
    tifffile.imwrite(target, counts)
    data = target.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    path = store.blob_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    written_at = time.time() - 600 + 0.2 * number
    store.record_stored(
        [
            ReceivedFile(
                agent_id=agent_id, journal="journal", seq=number, rev=1,
                source_key=f"{folder}/frame_{number:05}.tif", size=len(data),
                sha256=sha256, mtime_ns=int(written_at * 1e9), sealed_at=written_at,
                received_at=written_at + 0.1,
            )
        ]
    )  # fmt: skip


class OneShot:
    """Refuses what needs a network: none is loaded."""

    async def measure_upload(
        self, path: Path, name: str, page: int, pixel_size_nm: object
    ) -> MeasuredFrame:
        """Refuse."""
        raise NotImplementedError("the network is left out of this measurement")


async def replay(
    publisher: Publisher, shown: list[LiveFrame], fps: float, log: Path | None
) -> None:
    """Publish the frames over and over, as the pipeline would; log when, by number."""
    if not fps or not shown:
        return
    period_s, due = 1.0 / fps, time.monotonic()
    number = 0
    while True:
        publisher.publish(shown[number % len(shown)])
        if log:
            with log.open("a") as lines:
                # The first was published before: a viewer counts it as number 1.
                lines.write(f"{number + 2} {time.time():.4f}\n")
        publisher.announce()
        number += 1
        due += period_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def create_app(
    store: Store, shown: list[LiveFrame], fps: float, log: Path | None = None
) -> FastAPI:
    """Return the page's own routes over a store."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            decoder = await stack.enter_async_context(DecodePool(DecodeSettings()))
            publisher = Publisher()
            app.state.services = Services(
                store=store, publisher=publisher, one_shot=OneShot(), decoder=decoder,
                ring=lambda: None, scratch_dir=store.data_dir / "scratch",
                max_upload_bytes=2**28, disk_reserve_bytes=1,
            )  # fmt: skip
            app.state.segmenter = IdleNetwork()
            if shown:
                publisher.publish(shown[-1])
            playing = asyncio.create_task(replay(publisher, shown, fps, log))
            yield
            playing.cancel()
            publisher.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    install_problem_handlers(app)
    for part in (
        health, agents, results, pictures, corrections, review, export, uploads, users, live,
    ):  # fmt: skip
        app.include_router(part.router)
    app.include_router(health.root)
    looker = StoreLooker(lambda: app.state.services, lambda: app.state.segmenter)
    layout.mount(app, looker, lambda: app.state.services)
    limits = {"/api/v1/uploads": 2**28}
    app.add_middleware(Gate, store=lambda: store, upload_bytes=limits)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--fps", type=float, default=10.0, help="0 shows the last one")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=_file, help="note when which frame is published")
    parser.add_argument("--second", help="name of another session, without pixel size")
    parser.add_argument("--second-particles", type=int, help="of its frames")
    parser.add_argument("--long", type=int, help="lengthen the session to that many")
    options = parser.parse_args()
    is_new = not (options.folder / "emcopilot.db").exists()
    with Store(options.folder) as store:
        shown = (
            fill(store, options.frames, options.size, options.particles)
            if is_new and options.frames
            else []
        )
        if options.second and is_new:
            given = options.second_particles
            particles = options.particles if given is None else given
            fill(
                store, 3, options.size, particles,
                folder=options.second, pixel_size_nm=None, first=options.frames + 1,
            )  # fmt: skip
        if options.long and is_new:
            lengthen(store, options.long)
        app = create_app(store, shown, options.fps, options.log)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                port=options.port,
                log_level="warning",
                ws="websockets-sansio",
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=2,
            )
        )
        code = Tokens(store.database).new_login_code("admin", name="bench")
        asyncio.run(_serve(server, code))


def _file(name: str) -> Path | None:
    return Path(name) if name else None


async def _serve(server: uvicorn.Server, code: str) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            raise SystemExit("the server did not start")
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    said = {"url": url, "login": f"{url}/login?code={code}"}
    print(json.dumps(said), flush=True)
    await serving


if __name__ == "__main__":
    sys.exit(main())
