"""Latest wins, encoded once for everybody, and a slow viewer holds nothing back."""

import asyncio
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from emcopilot.decode import Frame
from emcopilot.live_packet import REJECTED, TOUCHES_BORDER, LivePacket
from gpu_server import publish
from gpu_server.measure import measure
from gpu_server.publish import MAX_VIEWERS, LiveFrame, Publisher, Signal, pack
from gpu_server.segment import Segmentation

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def frame_of(
    frame_id: int = 1, shape: tuple[int, int] = (64, 96), *, blank: bool = False
) -> LiveFrame:
    """Measure a frame with one whole disc and one that the left border cuts."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    scale = shape[0] / 64
    whole = np.hypot(y - 32 * scale, x - 60 * scale) <= 10 * scale
    cut = np.hypot(y - 20 * scale, x) <= 8 * scale
    mask = np.zeros(shape, bool) if blank else whole | cut
    pixels = np.where(mask, 900, 100).astype(np.uint16)
    probability = np.where(mask, 255, 0).astype(np.uint8)
    found = measure(
        Frame(pixels, (0.5, 0.5), "metadata"),
        Segmentation(probability, "m", 0.1, "cpu"),
    )
    return LiveFrame(
        frame_id=frame_id,
        session_id=2,
        session="run1",
        name="frame.tif",
        page=0,
        pixels=pixels,
        pixel_size_nm=(0.5, 0.5),
        pixel_size_source="metadata",
        model_id="m",
        unit="nm",
        counted=found.psd.n,
        mean_diameter=found.psd.mean_number,
        median_diameter=found.psd.d50,
        infer_s=0.1,
        latency_s=1.0,
        time_s=None,
        ids=found.particles.label,
        diameter=found.particles.diameters(),
        touches_border=found.particles.touches_border,
        confidence=found.particles.confidence,
        outlines=found.outlines,
    )


def test_packet_shows_the_particles_where_they_are() -> None:
    packet = LivePacket.unpack(pack(frame_of(), seq=3))
    image = np.asarray(Image.open(io.BytesIO(packet.jpeg)))
    assert packet.header.seq == 3
    assert image.shape == (64, 96)
    assert (packet.header.particles, packet.header.counted) == (2, 1)
    assert packet.header.mean_diameter == pytest.approx(10.0, rel=0.03)  # 20 px drawn
    assert sorted(packet.flags) == [0, TOUCHES_BORDER]
    whole = int(np.flatnonzero(packet.flags == 0)[0])
    points = packet.points[packet.offsets[whole] : packet.offsets[whole + 1]] / 8
    # From the picture's corner: the centre of pixel (60, 32) lies at (60.5, 32.5).
    radius = np.hypot(points[:, 0] - 60.5, points[:, 1] - 32.5)
    assert radius == pytest.approx(
        10.0, abs=0.8
    )  # a drawn edge and 0.4 px of tolerance
    inside = image[31:34, 58:63]
    assert inside.min() > 200
    assert image[60:, 90:].max() < 60


def test_large_frames_are_shown_smaller_and_outlines_follow() -> None:
    packet = LivePacket.unpack(pack(frame_of(shape=(2560, 3840)), seq=1))
    assert (packet.header.height, packet.header.width) == (2560, 3840)
    assert (packet.header.shown_height, packet.header.shown_width) == (1280, 1920)
    image = np.asarray(Image.open(io.BytesIO(packet.jpeg)))
    assert image.shape == (1280, 1920)
    whole = int(np.flatnonzero(packet.flags == 0)[0])
    points = packet.points[packet.offsets[whole] : packet.offsets[whole + 1]] / 8
    radius = np.hypot(points[:, 0] - 1200.25, points[:, 1] - 640.25)
    assert radius == pytest.approx(200.0, abs=0.8)


def test_doubtful_particles_are_told_until_they_are_rejected() -> None:
    frame = replace(frame_of(), confidence=np.array([0.2, 0.499]))
    packet = LivePacket.unpack(pack(frame, seq=1))
    assert packet.header.doubtful == 2
    assert packet.confidence.tolist() == [20, 49]
    assert packet.header.counted == 1  # doubt alone takes nothing out of the sizes
    one_left = frame.without(np.array([False, True]))
    assert LivePacket.unpack(pack(one_left, seq=2)).header.doubtful == 1


def test_a_frame_without_particles_is_shown_too() -> None:
    packet = LivePacket.unpack(pack(frame_of(blank=True), seq=1))
    assert (packet.header.particles, packet.header.mean_diameter) == (0, None)
    assert packet.offsets.tolist() == [0]


def test_scaling_for_display_leaves_the_pixels_alone() -> None:
    frame = frame_of()
    before = frame.pixels.copy()
    pack(frame, seq=1)
    np.testing.assert_array_equal(frame.pixels, before)


def count_packing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    packed: list[int] = []

    def counting(frame: LiveFrame, seq: int) -> bytes:
        packed.append(seq)
        return pack(frame, seq)

    monkeypatch.setattr(publish, "pack", counting)
    return packed


async def test_nothing_is_encoded_while_nobody_looks(monkeypatch) -> None:
    packed = count_packing(monkeypatch)
    publisher = Publisher()
    for number in range(5):
        publisher.publish(frame_of(number))
    assert packed == []
    with publisher.viewer() as viewer:
        got = await viewer.next_packet()
    # Who comes late gets the last frame at once.
    assert LivePacket.unpack(got.data).header.frame_id == 4
    assert packed == [5]


async def test_a_frame_is_encoded_once_for_all_viewers(monkeypatch) -> None:
    packed = count_packing(monkeypatch)
    publisher = Publisher()
    waiting = [asyncio.create_task(publisher.packet_after(0)) for _ in range(8)]
    await asyncio.sleep(0)
    publisher.publish(frame_of())
    got = await asyncio.gather(*waiting)
    assert packed == [1]
    assert all(one is got[0] for one in got)


async def test_a_slow_viewer_skips_to_the_latest_and_the_skip_is_counted() -> None:
    publisher = Publisher()
    with publisher.viewer() as viewer:
        publisher.publish(frame_of(1))
        await viewer.next_packet()
        for number in (2, 3, 4):
            publisher.publish(frame_of(number))
        got = await viewer.next_packet()
    assert LivePacket.unpack(got.data).header.frame_id == 4
    assert (viewer.skipped, publisher.skipped) == (2, 2)


async def test_publishing_never_waits_for_viewers() -> None:
    publisher = Publisher()
    frame = frame_of()
    with publisher.viewer():
        # A plain call: it could not wait even if a viewer had been stuck for a minute.
        started = asyncio.get_running_loop().time()
        for _ in range(1000):
            publisher.publish(frame)
        assert asyncio.get_running_loop().time() - started < 1.0


async def test_viewer_waits_for_its_own_acknowledgement() -> None:
    publisher = Publisher()
    with publisher.viewer() as viewer:
        publisher.publish(frame_of())
        packet = await viewer.next_packet()
        waiting = asyncio.create_task(viewer.wait_acknowledged())
        viewer.acknowledge(packet.seq - 1)
        await asyncio.sleep(0)
        assert not waiting.done()
        viewer.acknowledge(10**9)  # a page cannot acknowledge what it was never sent
        await asyncio.wait_for(waiting, 5)
        assert viewer.acknowledged == packet.seq


async def test_too_many_viewers_are_turned_away_and_leaving_makes_room() -> None:
    publisher = Publisher()
    contexts = [publisher.viewer() for _ in range(MAX_VIEWERS)]
    assert all(context.__enter__() is not None for context in contexts)
    with publisher.viewer() as turned_away:
        assert turned_away is None
    contexts[0].__exit__(None, None, None)
    with publisher.viewer() as admitted:
        assert admitted is not None
    for context in contexts[1:]:
        context.__exit__(None, None, None)
    assert publisher.viewers == 0


async def test_the_operators_verdict_reaches_the_shown_frame() -> None:
    publisher = Publisher()
    publisher.publish(frame_of(7))
    whole = ~frame_of().touches_border
    publisher.show_rejected(8, whole)  # of a frame that is not shown: no change
    assert LivePacket.unpack((await publisher.packet_after(0)).data).header.counted == 1
    publisher.show_rejected(7, whole)
    packet = LivePacket.unpack((await publisher.packet_after(1)).data)
    assert packet.header.counted == 0
    assert packet.header.mean_diameter is None
    assert REJECTED in packet.flags


async def test_announcements_from_other_threads_wake_who_waits() -> None:
    publisher = Publisher()
    seen = publisher.changes
    waiting = asyncio.create_task(publisher.changed(seen, 10))
    await asyncio.to_thread(publisher.announce)
    assert await waiting == seen + 1


async def test_an_announcement_before_the_wait_is_not_missed() -> None:
    publisher = Publisher()
    seen = publisher.changes
    publisher.announce()
    await asyncio.sleep(0)
    assert await asyncio.wait_for(publisher.changed(seen, 10), 5) == seen + 1


async def test_waiting_ends_when_time_is_up_or_the_server_stops() -> None:
    publisher = Publisher()
    assert await publisher.changed(0, 0.01) == 0
    waiting = asyncio.create_task(publisher.changed(0, 60))
    await asyncio.sleep(0)
    publisher.close()
    await asyncio.wait_for(waiting, 5)
    assert publisher.closing


async def test_signal_wakes_everyone_once() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.wait_beyond(0)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.notify()
    assert await asyncio.gather(*waiting) == [1, 1, 1]


def test_rejection_recomputes_the_shown_figures() -> None:
    frame = replace(frame_of(), touches_border=np.zeros(2, np.bool_))
    first = frame.diameter[1]
    figures = frame.without(np.array([True, False]))
    assert (figures.counted, figures.mean_diameter) == (1, pytest.approx(first))
