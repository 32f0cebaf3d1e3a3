"""A real REST server on a real socket, over a real store whose particles are drawn discs."""

import asyncio
import hashlib
import io
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
from fastapi import FastAPI

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.decode import Frame, open_frames
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
from gpu_server.api.problems import install_problem_handlers
from gpu_server.api.services import Services
from gpu_server.auth import Gate
from gpu_server.intake import ReceivedFile
from gpu_server.leases import LeasedFrame
from gpu_server.measure import MeasuredFrame, measure
from gpu_server.pipeline import live_frame, result_row
from gpu_server.publish import Publisher
from gpu_server.segment import Segmentation
from gpu_server.store import Store
from gpu_server.tokens import Tokens

MAX_UPLOAD_BYTES = 4 * 2**20
_FIRST_FILE_AT = 1_700_000_000


def discs(
    diameters_px: Sequence[float], shape: tuple[int, int] = (256, 256)
) -> np.ndarray:
    """Draw bright discs on a grid, whole within the frame; uint16 counts."""
    step = int(max((*diameters_px, 4.0))) + 6
    columns = (shape[1] - 2) // step
    y, x = np.ogrid[: shape[0], : shape[1]]
    counts = np.full(shape, 100, np.uint16)
    for index, diameter in enumerate(diameters_px):
        row, column = divmod(index, columns)
        centre = (row + 0.5) * step + 1, (column + 0.5) * step + 1
        assert centre[0] + diameter / 2 < shape[0] - 1, "too many discs for the frame"
        counts[np.hypot(y - centre[0], x - centre[1]) <= diameter / 2] = 1000
    return counts


def tiff_of(pixels: np.ndarray) -> bytes:
    """Write pixels as camera software would."""
    target = io.BytesIO()
    tifffile.imwrite(target, pixels)
    return target.getvalue()


def measured_by_threshold(
    frame: Frame, confidence: ParticleConfidence = IDENTITY
) -> MeasuredFrame:
    """Measure with a threshold in the network's place: the discs are the truth."""
    bright = np.asarray(frame.pixels) > 500
    probability = np.where(bright, 255, 0).astype(np.uint8)
    return measure(
        frame, Segmentation(probability, "threshold", 0.01, "cpu", confidence)
    )


class Bench:
    """Stands in for the GPU: decodes in process, segments by threshold."""

    async def decode(self, path: Path, name: str, page: int) -> Frame:
        return await asyncio.to_thread(_read, path, name, page)

    async def measure_upload(
        self,
        path: Path,
        name: str,
        page: int,
        pixel_size_nm: tuple[float, float] | None,
    ) -> MeasuredFrame:
        frame = await self.decode(path, name, page)
        if pixel_size_nm:
            frame = Frame(frame.pixels, pixel_size_nm, "operator", notes=frame.notes)
        return await asyncio.to_thread(measured_by_threshold, frame)


def _read(path: Path, name: str, page: int) -> Frame:
    with open_frames(path, name) as file:
        return file.read(page)


@dataclass
class Lab:
    """A store with one enrolled agent, and the walk of a frame through it."""

    discs = staticmethod(discs)
    tiff_of = staticmethod(tiff_of)
    measured = staticmethod(measured_by_threshold)

    store: Store
    agent_id: int = 0
    seq: int = 0
    confidence: ParticleConfidence = IDENTITY
    """Of the threshold that stands in for a model."""

    def deliver(
        self, pixels: np.ndarray, folder: str = "acquisitions/run1", name: str = ""
    ) -> None:
        """Store one acquired file, as ingest does; files are written 2 s apart."""
        self.seq += 1
        data = tiff_of(pixels)
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.store.blob_path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written_at = _FIRST_FILE_AT + 2 * self.seq
        received = ReceivedFile(
            agent_id=self.agent_id,
            journal="journal",
            seq=self.seq,
            rev=1,
            source_key=f"{folder}/{name or f'frame_{self.seq:04}.tif'}",
            size=len(data),
            sha256=sha256,
            mtime_ns=written_at * 10**9,
            sealed_at=written_at,
            received_at=written_at,
        )
        self.store.record_stored([received])

    def process(
        self, pixels: np.ndarray, pixel_size_nm: float | None = None
    ) -> tuple[LeasedFrame, MeasuredFrame]:
        """Lease the newest frame and save what is found in `pixels`."""
        leased = self.store.lease_frame()
        assert leased is not None
        size_nm = (pixel_size_nm, pixel_size_nm) if pixel_size_nm else None
        source = "metadata" if size_nm else None
        frame = Frame(pixels, size_nm, source)
        measured = measured_by_threshold(frame, self.confidence)
        timings = {"leased": 1.0, "decoded": 1.5}
        self.store.save_result(result_row(leased, measured, timings))
        return leased, measured

    def add(
        self,
        diameters_px: Sequence[float],
        pixel_size_nm: float | None = None,
        folder: str = "acquisitions/run1",
        shape: tuple[int, int] = (256, 256),
    ) -> int:
        """Deliver and process one frame of drawn discs; return the frame's id."""
        pixels = discs(diameters_px, shape)
        self.deliver(pixels, folder)
        return self.process(pixels, pixel_size_nm)[0].frame_id


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with its tables made: migrating takes longer than most tests."""
    folder = tmp_path_factory.mktemp("template")
    Store(folder).close()
    return folder / "emcopilot.db"


@pytest.fixture
def lab(tmp_path: Path, empty_database: Path) -> Iterator[Lab]:
    """A fresh store with one agent."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copyfile(empty_database, folder / "emcopilot.db")
    with Store(folder) as store:
        agent_id = store.enrol_agent("k" * 40, "titan", "scope-pc")
        yield Lab(store, agent_id)


@dataclass
class Rest:
    """A running server, and clients that are let in."""

    url: str
    lab: Lab
    operator: str
    viewer: str
    admin: str
    services: Services
    loop: asyncio.AbstractEventLoop
    http: httpx.Client

    def publish(self, leased: LeasedFrame, measured: MeasuredFrame) -> None:
        """Show a frame to viewers, as the pipeline does."""
        frame = live_frame(leased, measured)
        self.loop.call_soon_threadsafe(self.services.publisher.publish, frame)
        self.services.publisher.announce()

    def add(self, diameters_px: Sequence[float], **frame: object) -> int:
        """Process one frame of discs and tell whoever waits."""
        frame_id = self.lab.add(diameters_px, **frame)  # type: ignore[arg-type]
        self.services.publisher.announce()
        return frame_id


@pytest.fixture
def rest(lab: Lab, rest_host, tmp_path: Path) -> Iterator[Rest]:
    """The API's routes behind the real gate, on a free port of this machine."""
    tokens = Tokens(lab.store.database)
    operator = tokens.create("script", "operator", who="test")
    viewer = tokens.create("guest", "viewer", who="test")
    admin = tokens.create("chief", "admin", who="test")
    app = _app(lab, tmp_path / "scratch")
    with rest_host.serving(app) as url, rest_host.client(operator) as http:
        services, loop = app.state.services, rest_host.loop
        yield Rest(url, lab, operator, viewer, admin, services, loop, http)
        loop.call_soon_threadsafe(services.publisher.close)


def _app(lab: Lab, scratch: Path) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        bench = Bench()
        app.state.services = Services(
            store=lab.store,
            publisher=Publisher(),
            one_shot=bench,
            decoder=bench,
            ring=lambda: None,
            scratch_dir=scratch,
            max_upload_bytes=MAX_UPLOAD_BYTES,
            disk_reserve_bytes=1,
            probes={},
        )
        yield

    app = FastAPI(lifespan=lifespan, openapi_url="/api/v1/openapi.json")
    install_problem_handlers(app)
    for part in (
        health, agents, results, pictures, corrections, review, export, segment, uploads,
        users, live, jobs, domains,
    ):  # fmt: skip
        app.include_router(part.router)
    app.include_router(health.root)
    limit = dict.fromkeys(("/api/v1/segment", "/api/v1/uploads"), 2 * MAX_UPLOAD_BYTES)
    app.add_middleware(Gate, store=lambda: lab.store, upload_bytes=limit)
    return app
