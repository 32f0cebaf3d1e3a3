"""What is kept of stored frames is bounded, and nobody decodes for those who left."""

import asyncio

from gpu_server.queries import frame
from gpu_server.stored_packets import Kept, StoredPackets


def test_kept_values_are_bounded_and_the_longest_unasked_goes() -> None:
    kept: Kept[str] = Kept(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 4)
    assert kept.get("a") == "A"  # asked for: now b is the one to go
    kept.put("c", "C", 4)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("A", None, "C")
    assert kept.size_bytes == 8
    kept.put("a", "AA", 6)
    assert kept.size_bytes == 10
    kept.put("huge", "H", 11)
    assert (kept.get("huge"), kept.size_bytes) == (None, 0)


class Counting:
    """Decodes with the test's own decoder, and counts."""

    def __init__(self, decoder) -> None:
        self._decoder = decoder
        self.decoded = 0

    async def decode(self, path, name, page):
        self.decoded += 1
        return await self._decoder.decode(path, name, page)


def test_a_frame_is_decoded_once_and_never_for_who_has_left(rest) -> None:
    frame_id = rest.add([10, 20])
    decoder = Counting(rest.services.decoder)
    packets = StoredPackets(rest.lab.store, decoder)
    with rest.lab.store.read() as connection:
        found = frame(connection, frame_id)
    assert found is not None

    async def gone() -> bool:
        return True

    async def ask() -> list[bytes | None]:
        left = await packets.packet(found, gone)
        assert (left, decoder.decoded) == (None, 0)
        return await asyncio.gather(*(packets.packet(found) for _ in range(4)))

    answers = asyncio.run(ask())
    assert decoder.decoded == 1
    assert len(set(answers)) == 1
