"""Live packets survive the trip, stay aligned, and refuse damage."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcopilot.confidence import is_doubtful
from emcopilot.errors import EMcopilotError, WireError
from emcopilot.live_packet import (
    UNKNOWN_CONFIDENCE,
    LiveHeader,
    LivePacket,
    in_percent,
)


def packet_of(particles: int, *, jpeg: bytes = b"\xff\xd8jpeg\xff\xd9") -> LivePacket:
    corners = np.arange(particles + 1, dtype=np.uint32) * 4
    points = int(corners[-1])
    header = LiveHeader(
        seq=7,
        frame_id=11,
        session_id=3,
        session="2026-11-22 Pt/C µ",
        name="acquisitions/2026-11-22 Pt/frame_0001.tif",
        page=0,
        height=1024,
        width=768,
        shown_height=1024,
        shown_width=768,
        pixel_size_nm=(0.1, 0.12),
        pixel_size_source="metadata",
        model_id="base",
        particles=particles,
        counted=particles,
        excluded_border=0,
        doubtful=0,
        mean_diameter=5.25 if particles else None,
        median_diameter=5.0 if particles else None,
        unit="nm",
        infer_s=0.4,
        latency_s=1.2,
        time_s=None,
        jpeg_bytes=len(jpeg),
        points=points,
    )
    rng = np.random.default_rng(particles)
    return LivePacket(
        header,
        jpeg,
        offsets=corners,
        ids=np.arange(1, particles + 1, dtype=np.uint32),
        diameter=rng.uniform(1, 9, particles).astype(np.float32),
        flags=rng.integers(0, 4, particles).astype(np.uint8),
        points=rng.integers(-4, 40, (points, 2)).astype(np.int16),
        confidence=rng.integers(0, 101, particles).astype(np.uint8),
    )


@pytest.mark.parametrize("particles", [0, 1, 2, 3, 5, 10_000])
@pytest.mark.parametrize("jpeg_bytes", [0, 1, 4, 7])
def test_packet_reads_back_as_it_was(particles: int, jpeg_bytes: int) -> None:
    sent = packet_of(particles, jpeg=bytes(range(jpeg_bytes)))
    read = LivePacket.unpack(sent.pack())
    assert read.header == sent.header
    assert read.jpeg == sent.jpeg
    for name in ("offsets", "ids", "diameter", "flags", "points", "confidence"):
        np.testing.assert_array_equal(getattr(read, name), getattr(sent, name))


@given(particles=st.integers(0, 9), jpeg_bytes=st.integers(0, 9))
def test_every_array_starts_on_four_bytes(particles: int, jpeg_bytes: int) -> None:
    data = packet_of(particles, jpeg=b"j" * jpeg_bytes).pack()
    (header_bytes,) = struct.unpack_from("<I", data, 4)
    assert header_bytes % 4 == 0
    header = json.loads(data[8 : 8 + header_bytes])
    at = 8 + header_bytes + -(-header["jpeg_bytes"] // 4) * 4
    offsets = np.frombuffer(data, "<u4", particles + 1, at)
    assert at % 4 == 0
    assert offsets[-1] == header["points"] == 4 * particles
    # Flags before the points and confidence after them; nothing trails that a reader might take
    # for data.
    a_byte_each = -(-particles // 4) * 4
    assert len(data) == at + 4 * (3 * particles + 1) + 2 * a_byte_each + 16 * particles


def test_a_page_opened_before_finds_everything_where_it_was() -> None:
    """What was added lies behind all that a reader of the same magic looks for."""
    sent = packet_of(5)
    data = sent.pack()
    (header_bytes,) = struct.unpack_from("<I", data, 4)
    at = 8 + header_bytes + -(-sent.header.jpeg_bytes // 4) * 4
    at += sent.offsets.nbytes + sent.ids.nbytes + sent.diameter.nbytes + 8  # flags: 5
    points = np.frombuffer(data, "<i2", sent.points.size, at).reshape(-1, 2)
    np.testing.assert_array_equal(points, sent.points)


def test_percents_say_the_same_doubt_as_chances_and_keep_what_is_unknown() -> None:
    chance = np.array([0.0, 0.004, np.nextafter(0.5, 0), 0.5, 0.999, 1.0, np.nan])
    percent = in_percent(chance)
    assert percent.tolist() == [0, 0, 49, 50, 99, 100, UNKNOWN_CONFIDENCE]
    np.testing.assert_array_equal(percent < 50, is_doubtful(chance))
    assert in_percent(np.empty(0)).dtype == np.uint8


def test_points_outside_the_frame_keep_their_sign() -> None:
    read = LivePacket.unpack(packet_of(50).pack())
    assert read.points.dtype == np.int16
    assert read.points.min() < 0  # uint16 would have wrapped to the far edge


@pytest.mark.parametrize("keep", [0, 3, 8, 40, 600, -1])
def test_a_cut_packet_is_refused(keep: int) -> None:
    data = packet_of(20).pack()
    with pytest.raises(WireError):
        LivePacket.unpack(data[:keep])


@given(st.integers(0, 5000), st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(position: int, value: int) -> None:
    data = bytearray(packet_of(3).pack())
    data[position % len(data)] = value
    try:
        read = LivePacket.unpack(bytes(data))
    except EMcopilotError:
        return
    assert len(read.offsets) == read.header.particles + 1


def test_header_and_arrays_that_disagree_are_not_sent() -> None:
    sent = packet_of(4)
    for short in ({"ids": sent.ids[:3]}, {"confidence": sent.confidence[:3]}):
        with pytest.raises(WireError, match="frame 11"):
            replace(sent, **short).pack()


def test_other_protocols_are_named_in_the_refusal() -> None:
    with pytest.raises(WireError, match="EML1"):
        LivePacket.unpack(b"EMC1" + bytes(20))
