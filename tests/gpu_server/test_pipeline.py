"""Frames on their whole way: real rows, real decode workers, a threshold for the network."""

import asyncio
import hashlib
import io
import sqlite3
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import sqlalchemy as sa
import tifffile

from emcopilot.errors import ModelError, StoreError
from gpu_server import pipeline as pipeline_module
from gpu_server.config import DecodeSettings, ServerSettings
from gpu_server.deliveries import ReceivedFile
from gpu_server.leases import LeasedFrame
from gpu_server.pipeline import Pipeline, live_frame
from gpu_server.publish import Publisher, pack
from gpu_server.sandbox import DecodePool
from gpu_server.saving import SavedResult
from gpu_server.segment import Segmentation
from gpu_server.store import Store
from gpu_server.tables import frames, results

DEADLY = textwrap.dedent(
    """
    import os
    from gpu_server import decode_worker

    class Desk(decode_worker.Desk):
        def report(self, request):
            if request["name"].startswith("deadly"):
                os._exit(3)
            return super().report(request)

    # Readers of other formats stay out: these tests start workers often.
    decode_worker._preload = lambda: __import__("emcopilot.formats.tiff")
    decode_worker.main(Desk)
    """
)
PATIENCE_S = 30.0
"""For one test's frames on a machine that does other work as well."""


def discs(shape: tuple[int, int] = (64, 80)) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    counts = np.full(shape, 100, np.uint16)
    for centre in ((20, 20), (40, 55)):
        counts[np.hypot(y - centre[0], x - centre[1]) < 8] = 1000
    return counts


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, pixels, **options)
    return target.getvalue()


class Threshold:
    """Stands in for the network: bright is particle; refuses what it is told to."""

    model_id = device = "threshold"

    def __init__(self) -> None:
        self.refused_shape: tuple[int, int] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0

    async def segment(self, pixels: np.ndarray) -> Segmentation:
        self.calls += 1
        await self.gate.wait()
        if pixels.shape == self.refused_shape:
            raise ModelError("the network could not run: out of memory")
        bright = np.nan_to_num(pixels) > 500
        return Segmentation(
            np.where(bright, 255, 0).astype(np.uint8), "threshold", 0.01, "cpu"
        )


@dataclass
class Line:
    """A pipeline with everything around it."""

    store: Store
    agent_id: int
    decoder: DecodePool
    network: Threshold
    publisher: Publisher
    seq: int = 0

    def deliver(self, name: str, data: bytes, *, sealed_at: float = 0.0) -> None:
        self.seq += 1
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.store.blob_path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        now = time.time()
        received = ReceivedFile(
            agent_id=self.agent_id,
            journal="journal",
            seq=self.seq,
            rev=1,
            source_key=f"watched/run/{name}",
            size=len(data),
            sha256=sha256,
            mtime_ns=int(now * 1e9),
            sealed_at=sealed_at or now,
            received_at=now,
        )
        self.store.record_stored([received])

    def frames(self) -> list[sa.Row]:
        with self.store.read() as connection:
            return list(connection.execute(sa.select(frames).order_by(frames.c.id)))

    def states(self) -> list[str]:
        return [frame.state for frame in self.frames()]

    def result_count(self) -> int:
        with self.store.read() as connection:
            counted = sa.select(sa.func.count()).where(results.c.counts)
            return connection.execute(counted).scalar_one()

    def new_pipeline(self) -> Pipeline:
        return Pipeline(
            self.store, self.decoder, self.network, self.publisher, ServerSettings()
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pipeline]:
        pipeline = self.new_pipeline()
        task = asyncio.create_task(pipeline.run())
        try:
            yield pipeline
        finally:
            task.cancel()
            await asyncio.wait_for(
                asyncio.gather(task, return_exceptions=True), PATIENCE_S
            )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.02)

    async def until_ended(self, frame_count: int) -> None:
        def ended() -> bool:
            states = self.states()
            return len(states) == frame_count and not {"queued", "leased"} & {*states}

        await self.until(ended)


@pytest.fixture(scope="module")
def decoding(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[asyncio.Runner, DecodePool]]:
    """One pool of workers and its event loop for all tests: a worker takes a second to start."""
    script = tmp_path_factory.mktemp("worker") / "deadly.py"
    script.write_text(DEADLY)
    command = [sys.executable, "-I", str(script)]
    with asyncio.Runner() as runner:
        pool = DecodePool(DecodeSettings(workers=1), command)
        runner.run(pool.__aenter__())
        yield runner, pool
        runner.run(pool.close())


@pytest.fixture
def run_line(decoding, lab) -> Callable[[Callable[[Line], Coroutine]], None]:
    """Run a coroutine function with a fresh store and the shared workers."""
    runner, pool = decoding

    def run(test: Callable[[Line], Coroutine]) -> None:
        async def body() -> None:
            line = Line(lab.store, lab.agent_id, pool, Threshold(), Publisher())
            await test(line)

        runner.run(body())

    return run


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "_STORE_RETRY_S", 0.05)


def test_every_page_of_a_stack_becomes_a_frame_with_its_result(run_line) -> None:
    async def test(line: Line) -> None:
        stack = np.stack([discs()] * 4)
        line.deliver("film.tif", tiff(stack, imagej=True, metadata={"axes": "TYX"}))
        async with line.running():
            await line.until_ended(4)
        found = line.frames()
        assert [(f.page, f.state, f.attempts) for f in found] == [
            (page, "processed", 1) for page in range(4)
        ]
        assert line.result_count() == 4
        with line.store.read() as connection:
            counts = connection.scalars(sa.select(results.c.particle_count)).all()
        assert set(counts) == {2}

    run_line(test)


def test_frames_that_arrive_later_need_a_ring_and_not_a_look(run_line) -> None:
    async def test(line: Line) -> None:
        async with line.running() as pipeline:
            await asyncio.sleep(0.2)  # until every carrier waits
            line.deliver("late.tif", tiff(discs()))
            started = time.monotonic()
            pipeline.ring()
            await line.until_ended(1)
        # Without the ring a carrier looks once in 5 s.
        assert time.monotonic() - started < 4

    run_line(test)


def test_a_frame_that_kills_its_worker_twice_is_set_aside(run_line) -> None:
    async def test(line: Line) -> None:
        line.deliver("good.tif", tiff(discs()))
        line.deliver("deadly.tif", tiff(discs()))
        async with line.running():
            await line.until_ended(2)
        good, deadly = line.frames()
        assert good.state == "processed"
        assert (deadly.state, deadly.attempts, deadly.crashes) == ("quarantined", 2, 2)
        assert "status 3" in deadly.reason

    run_line(test)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("notes.tif", b"not an image at all\n" * 20, "notes.tif"),
        ("cut.tif", tiff(discs())[:600], "it was cut short"),
        ("huge.tif", tiff(np.zeros((2, 30000), np.uint8)), "16384"),
        ("line.tif", tiff(np.zeros((1, 300), np.uint8)), "is a line, not an image"),
    ],
)
def test_a_bad_file_is_named_with_its_reason_and_the_next_works(
    run_line, name: str, data: bytes, reason: str
) -> None:
    async def test(line: Line) -> None:
        line.deliver(name, data)
        line.deliver("next.tif", tiff(discs()))
        async with line.running():
            await line.until_ended(2)
        bad, good = line.frames()
        assert (bad.state, good.state) == ("quarantined", "processed")
        assert reason in bad.reason

    run_line(test)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 40), 7, np.uint8),
        np.full((40, 40), np.nan, np.float32),
        np.arange(600, dtype=np.uint16).reshape(2, 300) * 2,
        np.arange(600, dtype=np.uint16).reshape(300, 2) * 2,
        np.full((32, 32), 900, np.uint16),
    ],
    ids=["constant", "nan", "two rows", "two columns", "all particle"],
)
def test_odd_frames_get_a_result_and_a_live_packet(
    run_line, pixels: np.ndarray
) -> None:
    async def test(line: Line) -> None:
        line.deliver("odd.tif", tiff(pixels))
        async with line.running(), asyncio.timeout(PATIENCE_S):
            packed = await line.publisher.packet_after(0)
        assert packed.data.startswith(b"EML1")
        (frame,) = line.frames()
        assert (frame.state, frame.height, frame.width) == ("processed", *pixels.shape)

    run_line(test)


def test_a_frame_the_network_cannot_run_is_set_aside_and_the_next_works(
    run_line,
) -> None:
    async def test(line: Line) -> None:
        line.network.refused_shape = (64, 90)
        line.deliver("next.tif", tiff(discs()))
        line.deliver("too_much.tif", tiff(discs((64, 90))))
        async with line.running():
            await line.until_ended(2)
        good, bad = line.frames()
        assert (good.state, bad.state) == ("processed", "quarantined")
        assert bad.reason == "the network could not run: out of memory"

    run_line(test)


def test_a_full_disk_costs_patience_and_no_frame(
    run_line, quick_retry, monkeypatch
) -> None:
    async def test(line: Line) -> None:
        save = line.store.save_result
        refusals = 3

        def refuse(result: SavedResult) -> int:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise StoreError("database or disk is full; nothing was saved")
            return save(result)

        monkeypatch.setattr(line.store, "save_result", refuse)
        line.deliver("frame.tif", tiff(discs()))
        async with line.running() as pipeline:
            await line.until(lambda: pipeline.trouble is not None)
            assert "disk is full" in (pipeline.trouble or "")
            await line.until_ended(1)
            await line.until(lambda: pipeline.trouble is None)
        (frame,) = line.frames()
        assert (frame.state, frame.attempts, frame.crashes) == ("processed", 1, 0)
        # The result was kept in memory meanwhile: the network ran once.
        assert line.network.calls == 1

    run_line(test)


def test_a_result_that_never_fits_is_set_aside_and_the_next_works(run_line) -> None:
    async def test(line: Line) -> None:
        writer = line.store.database._writer.connection.driver_connection
        assert isinstance(writer, sqlite3.Connection)
        # SQLite itself then refuses larger values, as it does beyond 1 GB.
        before = writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
        line.deliver("next.tif", tiff(discs()))
        line.deliver("too_many.tif", tiff(np.tile(discs(), (8, 8))))  # 128 discs
        async with line.running() as pipeline:
            await line.until_ended(2)
            assert pipeline.trouble is None
        writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
        good, bad = line.frames()
        assert (good.state, bad.state) == ("processed", "quarantined")
        assert "string or blob too big" in bad.reason
        assert line.network.calls == 2  # once for each: nothing was tried again
        assert line.result_count() == 1

    run_line(test)


def test_a_result_that_breaks_a_rule_of_the_tables_is_set_aside(
    run_line, monkeypatch
) -> None:
    async def test(line: Line) -> None:
        save = line.store.save_result

        def save_nameless(result: SavedResult) -> int:
            return save(replace(result, model_id=cast("str", None)))

        monkeypatch.setattr(line.store, "save_result", save_nameless)
        line.deliver("frame.tif", tiff(discs()))
        async with line.running():
            await line.until_ended(1)
        (frame,) = line.frames()
        assert frame.state == "quarantined"
        assert "NOT NULL constraint failed" in frame.reason

    run_line(test)


def test_a_store_that_does_not_even_lease_is_asked_again(
    run_line, quick_retry, monkeypatch
) -> None:
    async def test(line: Line) -> None:
        lease = line.store.lease_frame
        refusals = 6

        def refuse(lease_s: float) -> LeasedFrame | None:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise StoreError("database is locked") if refusals else OSError("odd")
            return lease(lease_s)

        monkeypatch.setattr(line.store, "lease_frame", refuse)
        line.deliver("frame.tif", tiff(discs()))
        async with line.running():
            await line.until_ended(1)
        assert line.states() == ["processed"]

    run_line(test)


def test_a_stop_gives_frames_back_uncounted(run_line) -> None:
    async def test(line: Line) -> None:
        line.network.gate.clear()
        for number in range(4):
            line.deliver(f"{number}.tif", tiff(discs((64, 80 + number))))
        async with line.running():
            await line.until(lambda: line.network.calls == 3)
            assert line.states().count("leased") == 3
        assert [(f.state, f.attempts) for f in line.frames()] == [("queued", 0)] * 4
        line.network.gate.set()
        async with line.running():
            await line.until_ended(4)
        assert line.result_count() == 4

    run_line(test)


def test_a_stop_on_a_full_disk_does_not_hang(
    run_line, quick_retry, monkeypatch
) -> None:
    async def test(line: Line) -> None:
        def refuse(_result: object) -> int:
            raise StoreError("disk is full")

        monkeypatch.setattr(line.store, "save_result", refuse)
        monkeypatch.setattr(line.store, "release", refuse)
        line.deliver("frame.tif", tiff(discs()))
        async with line.running() as pipeline:
            await line.until(lambda: pipeline.trouble is not None)
        assert line.states() == ["leased"]  # the next start queues it

    run_line(test)


def test_a_stop_while_a_result_is_saved_counts_it_once(run_line, monkeypatch) -> None:
    async def test(line: Line) -> None:
        save, is_saving = line.store.save_result, asyncio.Event()
        loop = asyncio.get_running_loop()

        def slowly(result: SavedResult) -> int:
            loop.call_soon_threadsafe(is_saving.set)
            time.sleep(0.3)
            return save(result)

        monkeypatch.setattr(line.store, "save_result", slowly)
        line.deliver("frame.tif", tiff(discs()))
        async with line.running(), asyncio.timeout(PATIENCE_S):
            await is_saving.wait()
        assert line.states() == ["processed"]
        assert line.result_count() == 1

    run_line(test)


def test_a_slow_frame_keeps_its_lease(run_line) -> None:
    async def test(line: Line) -> None:
        line.network.gate.clear()
        line.deliver("slow.tif", tiff(discs()))
        async with line.running():
            await line.until(lambda: line.network.calls == 1)
            (frame,) = line.frames()
            # The network alone may take minutes over a large frame on a CPU.
            assert frame.lease_until > time.monotonic() + 3600
            line.network.gate.set()
            await line.until_ended(1)

    run_line(test)


def test_an_agent_whose_clock_runs_ahead_shows_no_negative_age(lab) -> None:
    pixels = lab.discs([20])
    lab.deliver(pixels)
    leased, measured = lab.process(pixels)
    now = time.time()
    behind = LeasedFrame(**{**_fields(leased), "sealed_at": now - 7})
    ahead = LeasedFrame(
        **{**_fields(leased), "sealed_at": now + 90, "received_at": now - 2}
    )
    assert live_frame(behind, measured).latency_s == pytest.approx(7, abs=1)
    assert live_frame(ahead, measured).latency_s == pytest.approx(2, abs=1)
    assert pack(live_frame(ahead, measured), 1).startswith(b"EML1")


def _fields(leased: LeasedFrame) -> dict[str, object]:
    return {name: getattr(leased, name) for name in LeasedFrame.__dataclass_fields__}


def test_an_upload_is_measured_and_leaves_no_row(run_line, tmp_path: Path) -> None:
    async def test(line: Line) -> None:
        path = tmp_path / "upload.part"
        path.write_bytes(tiff(discs()))
        measured = await line.new_pipeline().measure_upload(
            path, "upload.tif", 0, (0.5, 0.5)
        )
        assert len(measured.particles) == 2
        assert measured.frame.pixel_size_source == "operator"
        assert line.frames() == []

    run_line(test)
