"""Decode workers that crash, hang, swell, lie and reach out: each costs one worker at most."""

import asyncio
import os
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from emcopilot.errors import ConfigError, DecodeError, RefusedError
from gpu_server.config import DecodeSettings
from gpu_server.sandbox import DecodePool, WorkerDied

RAMP = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
TIMEOUT_S = 3.0

HOSTILE = textwrap.dedent(
    '''
    """A worker whose reader does what the file's name says."""
    import ctypes, os, signal, socket, subprocess, sys, time
    from gpu_server import decode_worker

    class HostileDesk(decode_worker.Desk):
        def decode(self, request):
            deed = request["name"].partition(".")[0]
            getattr(self, deed, lambda: None)()
            answer = super().decode(request)
            if deed == "huge":
                answer["frame"]["shape"] = [16384, 16384]
                answer["frame"]["dtype"] = "float64"
            if deed == "object":
                answer["frame"]["dtype"] = "object"
            if deed == "negative":
                answer["frame"]["pixel_size_nm"] = [-1.0, 1.0]
            if deed == "nonsense":
                answer["surprise"] = 1
            if deed == "shrunk":
                LIBC.ftruncate(SHELF, ctypes.c_long(16))
            if deed == "talkative":
                answer["frame"]["notes"] = ["x" * 100_000]
            return answer

        def segfault(self):
            signal.raise_signal(signal.SIGSEGV)

        def hang(self):
            time.sleep(1000)

        def spin(self):
            while True:
                pass

        def exit(self):
            print("last words", flush=True)
            os._exit(3)

        def garbage(self):
            os.write(ANSWERS, b"not json\\\\n")

        def swell(self):
            self.hoard = bytearray(8 * 2**30)

        def network(self):
            socket.socket()

        def program(self):
            subprocess.run(["true"])

        def fork(self):
            os.fork()

        def passwords(self):
            open("/etc/passwd").read()

        def write(self):
            open("/tmp/emcopilot-was-here", "w")

        def environment(self):
            leaked = {"SECRET", "PATH", "HOME"} & set(os.environ)
            if leaked or os.getcwd() != "/":
                os._exit(4)

    # The readers of other formats stay out: these tests are about deeds, and start often.
    decode_worker._preload = lambda: __import__("emcopilot.formats.tiff")
    LIBC = ctypes.CDLL(None)
    SHELF = int(sys.argv[sys.argv.index("--pixels") + 1].rpartition("/")[2])
    ANSWERS = os.dup(1)
    decode_worker.main(HostileDesk)
    '''
)


@pytest.fixture
def frame_path(tmp_path: Path) -> Path:
    path = tmp_path / "frame"
    tifffile.imwrite(path, RAMP)
    return path


@asynccontextmanager
async def hostile_pool(tmp_path: Path) -> AsyncIterator[DecodePool]:
    script = tmp_path / "hostile.py"
    script.write_text(HOSTILE.replace("\\\\n", "\\n"))
    settings = DecodeSettings(workers=1, timeout_s=TIMEOUT_S)
    async with DecodePool(settings, [sys.executable, "-I", str(script)]) as pool:
        yield pool


async def good_frame_works(pool: DecodePool, path: Path) -> None:
    frame = await pool.decode(path, "good.tif", 0)
    np.testing.assert_array_equal(frame.pixels, RAMP)


def test_pixels_and_metadata_come_through_as_decode_gives_them(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    stack = np.stack([RAMP, RAMP + 1, RAMP + 2])
    tifffile.imwrite(path, stack, imagej=True, resolution=(4.0, 2.0),
                     metadata={"unit": "nm", "axes": "TYX", "finterval": 0.5})  # fmt: skip

    async def run() -> None:
        async with DecodePool(DecodeSettings(workers=2)) as pool:
            report = await pool.report(path, "acquisitions/stack.tif")
            assert (report.frames, report.shape, report.dtype) == (
                3,
                (48, 64),
                "uint16",
            )
            frames = await asyncio.gather(
                *(pool.decode(path, "stack.tif", page) for page in (2, 0, 1))
            )
            for frame, page in zip(frames, (2, 0, 1), strict=True):
                np.testing.assert_array_equal(frame.pixels, stack[page])
                assert frame.pixel_size_nm == pytest.approx((0.5, 0.25))
                assert frame.pixel_size_source == "metadata"
                assert frame.time_s == 0.5 * page
            assert pool.deaths == 0

    asyncio.run(run())


def test_a_name_that_is_no_text_breaks_nothing(tmp_path: Path) -> None:
    odd = os.fsdecode(b"fr\xffme.tif")
    path = tmp_path / odd
    path.write_text("not an image")

    async def run() -> None:
        async with hostile_pool(tmp_path) as pool:
            report = await pool.report(path, odd)
            assert report.refused is not None
            assert "looks like text" in report.refused
            assert pool.deaths == 0

    asyncio.run(run())


def test_bad_files_are_answers_and_no_deaths(tmp_path: Path, frame_path: Path) -> None:
    text, line, link = (
        tmp_path / name for name in ("text.tif", "line.tif", "link.emd")
    )
    text.write_text("not an image")
    tifffile.imwrite(line, RAMP[:1])
    with h5py.File(link, "w") as file:
        file.create_dataset("frame", (8, 8), "u1", external=[("/etc/passwd", 0, 64)])

    async def run() -> None:
        async with DecodePool(DecodeSettings()) as pool:
            for path in (text, line, link, tmp_path / "gone.tif"):
                report = await pool.report(path, path.name)
                assert report.frames == 0
                assert report.refused
                with pytest.raises(DecodeError):
                    await pool.decode(path, path.name, 0)
            with pytest.raises(RefusedError, match="a line, not an image"):
                await pool.decode(line, line.name, 0)
            with pytest.raises(DecodeError, match="1 pages"):
                await pool.decode(frame_path, "frame.tif", 7)
            await good_frame_works(pool, frame_path)
            assert pool.deaths == 0

    asyncio.run(run())


DEADLY = {
    "segfault": "SIGSEGV",
    "hang": "took over 3 s",
    "spin": "took over 3 s",
    "exit": r"status 3 on this file \(last words\)",
    "garbage": "breaks the rules",
    "nonsense": "breaks the rules",
    "negative": "breaks the rules",
    "talkative": "too long",
    "object": "type 'object'",
    "huge": "more than its memory",
    "shrunk": "16 of 6144 bytes",
}
FORBIDDEN = {
    "swell": "MemoryError",
    "network": "tried socket",
    "program": "tried subprocess",
    "fork": "tried os.fork",
    "passwords": "/etc/passwd",
    "write": "emcopilot-was-here",
}


def test_a_worker_that_dies_or_lies_is_replaced_and_the_next_frame_works(
    tmp_path: Path, frame_path: Path
) -> None:
    async def run() -> None:
        async with hostile_pool(tmp_path) as pool:
            for deaths, (deed, says) in enumerate(DEADLY.items(), 1):
                with pytest.raises(WorkerDied, match=says):
                    await pool.decode(frame_path, f"{deed}.tif", 0)
                await good_frame_works(pool, frame_path)
                assert pool.deaths == deaths

    asyncio.run(run())


def test_what_a_worker_may_not_do_fails_and_it_lives_on(
    tmp_path: Path, frame_path: Path
) -> None:
    async def run() -> None:
        async with hostile_pool(tmp_path) as pool:
            for deed, says in FORBIDDEN.items():
                with pytest.raises(DecodeError, match=says) as caught:
                    await pool.decode(frame_path, f"{deed}.tif", 0)
                assert not isinstance(caught.value, WorkerDied)
                await good_frame_works(pool, frame_path)
            assert pool.deaths == 0

    asyncio.run(run())
    assert not Path("/tmp/emcopilot-was-here").exists()


def test_a_worker_sees_nothing_of_the_servers_environment(
    tmp_path: Path, frame_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "token")

    async def run() -> None:
        async with hostile_pool(tmp_path) as pool:
            frame = await pool.decode(frame_path, "environment.tif", 0)
            assert frame.pixels.shape == RAMP.shape

    asyncio.run(run())


def test_a_cancelled_job_does_not_answer_the_next_one(
    tmp_path: Path, frame_path: Path
) -> None:
    async def run() -> None:
        async with hostile_pool(tmp_path) as pool:
            job = asyncio.create_task(pool.decode(frame_path, "hang.tif", 0))
            await asyncio.sleep(0.2)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            await good_frame_works(pool, frame_path)

    asyncio.run(run())


def test_a_bomb_below_the_header_limits_is_stopped_by_the_memory_limit(
    tmp_path: Path, frame_path: Path
) -> None:
    # 256 MB of zeros in 250 kB: within the limits of headers, above this memory limit.
    path = tmp_path / "bomb.tif"
    zeros = np.zeros((16000, 16000), np.uint8)
    tifffile.imwrite(path, zeros, compression="zlib", photometric="minisblack")

    async def run() -> None:
        settings = DecodeSettings(memory_bytes=400 * 2**20)
        async with DecodePool(settings) as pool:
            with pytest.raises(DecodeError):
                await pool.decode(path, "bomb.tif", 0)
            await good_frame_works(pool, frame_path)

    asyncio.run(run())


def test_a_command_that_is_no_worker_stops_the_start() -> None:
    async def run() -> None:
        command = [sys.executable, "-c", "import sys; sys.exit('no such module')"]
        with pytest.raises(ConfigError, match="no such module"):
            async with DecodePool(DecodeSettings(), command):
                pass

    asyncio.run(run())


def test_closing_ends_all_workers(frame_path: Path) -> None:
    async def run() -> list[int]:
        async with DecodePool(DecodeSettings(workers=2)) as pool:
            await good_frame_works(pool, frame_path)
            pids = [worker.pid for worker in pool._workers]
        return [pid for pid in pids if pid is not None]

    pids = asyncio.run(run())
    assert len(pids) >= 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_16_bit_frame_of_1024_px_takes_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    rng = np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(0, 60_000, (1024, 1024), np.uint16))

    async def run() -> float:
        async with DecodePool(DecodeSettings()) as pool:
            times: list[float] = []
            for _ in range(10):
                start = time.perf_counter()
                await pool.decode(path, "frame.tif", 0)
                times.append(time.perf_counter() - start)
            return float(np.median(times))

    # 10 ms on an idle core; the bound leaves room for a machine that is busy testing
    assert asyncio.run(run()) < 0.1


def test_mutilated_vendor_files_get_a_verdict_each(tmp_path: Path) -> None:
    if "EMCOPILOT_DATA" not in os.environ:
        pytest.skip("EMCOPILOT_DATA is unset: it names the folder of real micrographs")
    vendor = Path(os.environ["EMCOPILOT_DATA"]) / "vendor" / "rosettasciio"
    originals = [p for p in sorted(vendor.rglob("*.*")) if p.stat().st_size < 120_000]
    rng = np.random.default_rng(3)

    async def run(folder: Path) -> int:
        verdicts = 0
        async with DecodePool(DecodeSettings(timeout_s=10)) as pool:
            for number in range(150):
                original = originals[number % len(originals)]
                content = bytearray(original.read_bytes())
                for position in rng.integers(0, min(len(content), 2000), 8):
                    content[position] = int(rng.integers(256))
                blob = folder / "blob"
                blob.write_bytes(content[: int(rng.integers(1, 2 * len(content)))])
                try:
                    report = await pool.report(blob, original.name)
                    if report.refused is None:
                        await pool.decode(blob, original.name, 0)
                except DecodeError:
                    pass
                verdicts += 1
        return verdicts

    assert asyncio.run(run(tmp_path)) == 150
