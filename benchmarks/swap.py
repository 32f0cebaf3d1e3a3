"""What a promotion and a roll back cost the live path: latency of frames around a swap.

Frames of one size come at a steady pace, as from a camera, while another model is promoted and
rolled back through the real queue. The other model is the base with its weights moved a little, so
that it costs the same and has an id of its own.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from emcopilot.simulate import demo_scene, render_micrograph
from gpu_server import promotion_rows
from gpu_server.inference_child import InferenceSpec
from gpu_server.live_start import LiveStart
from gpu_server.promotion import Promotion
from gpu_server.registry import Registry
from gpu_server.segment import Segmenter
from gpu_server.store import Store
from models import checkpoint

Sent = tuple[float, float, str]
"""When a frame came, how long it took, and which model ran it; s."""


def moved_base(folder: Path) -> str:
    """Write the base model with weights moved by a thousandth; return its id."""
    network, card = checkpoint.load("base")
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1 + 1e-3 * torch.randn(()))
    return checkpoint.save(
        folder,
        network,
        name="moved",
        architecture=card.architecture,
        data={},
        training={},
        particle_confidence=card.particle_confidence,
    ).model_id


async def send(segmenter: Segmenter, pixels: np.ndarray, every_s: float) -> list[Sent]:
    """Send a frame every so often until cancelled; frames never wait for the one before."""
    sent: list[Sent] = []

    async def one() -> None:
        began = time.monotonic()
        answer = await segmenter.segment(pixels)
        sent.append((began, time.monotonic() - began, answer.model_id))

    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            under_way.add(asyncio.create_task(one()))
            await asyncio.sleep(every_s)
    except asyncio.CancelledError:
        await asyncio.gather(*under_way)
        return sent


async def measure(data_dir: Path, options: argparse.Namespace) -> dict[str, object]:
    """Promote and roll back under a steady load."""
    scene = demo_scene("haadf", size=options.side)
    pixels = render_micrograph(scene, np.random.default_rng(3)).pixels
    other = moved_base(data_dir / "moved")

    def spec(folder: Path) -> InferenceSpec:
        return InferenceSpec(
            model=str(folder),
            warm_px=options.side,
            cache_dir=str(data_dir / "compiled"),
        )

    with Store(data_dir) as store:
        registry = Registry(store)
        registry.open()
        registry.add(data_dir / "moved", "imported", "bench")
        start = LiveStart(registry, "base")
        choice = next(start.choices())
        start.settle(choice)
        async with Segmenter(spec(choice.folder)) as segmenter:
            promotion = Promotion(registry, segmenter, spec)
            sending = asyncio.create_task(send(segmenter, pixels, options.every))
            marks = [time.monotonic()]
            await asyncio.sleep(options.calm)
            marks.append(time.monotonic())
            await promotion.promote(other, "bench", override=True)
            marks.append(time.monotonic())
            await asyncio.sleep(options.calm)
            marks.append(time.monotonic())
            await promotion.rollback("bench")
            marks.append(time.monotonic())
            await asyncio.sleep(2 * options.every)
            sending.cancel()
            sent = await sending
            device = segmenter.device
    with store_rows(data_dir) as changes:
        assert changes == [choice.model_id, other, choice.model_id]
    return figures(sent, marks, other, device)


class store_rows:  # noqa: N801 - reads as a function
    """The models that were live, in order."""

    def __init__(self, data_dir: Path) -> None:
        self._store = Store(data_dir)

    def __enter__(self) -> list[str]:
        with self._store.read() as connection:
            return [c.model_id for c in reversed(promotion_rows.history(connection))]

    def __exit__(self, *_error: object) -> None:
        self._store.close()


def figures(
    sent: list[Sent], marks: list[float], other: str, device: str
) -> dict[str, object]:
    """Return latencies in ms: calm, while a new child starts, and of the first frames after."""
    began, promoting, promoted, rolling, rolled = marks
    calm = [
        t for at, t, _ in sent if began <= at < promoting or promoted <= at < rolling
    ]
    busy = [
        t for at, t, _ in sent if promoting <= at < promoted or rolling <= at < rolled
    ]
    first = min((row for row in sent if row[2] == other), key=lambda row: row[0])
    answered = sorted((at + took, model_id) for at, took, model_id in sent)
    gaps = [
        (later - earlier, one != next_one)
        for (earlier, one), (later, next_one) in pairwise(answered)
    ]
    return {
        "device": device,
        "frames": len(sent),
        "calm_p50_ms": 1000 * float(np.median(calm)),
        "calm_p95_ms": 1000 * float(np.quantile(calm, 0.95)),
        "starting_p50_ms": 1000 * float(np.median(busy)),
        "starting_p95_ms": 1000 * float(np.quantile(busy, 0.95)),
        "starting_max_ms": 1000 * max(busy),
        "first_frame_after_ms": 1000 * first[1],
        # Between two answers, and between the last of one model and the first of the next: the
        # difference is the pause, also where frames queue.
        "gap_p50_ms": 1000
        * float(np.median([gap for gap, swaps in gaps if not swaps])),
        "gap_over_swap_ms": [1000 * gap for gap, swaps in gaps if swaps],
        "promote_s": promoted - promoting,
        "rollback_s": rolled - rolling,
        "models": sorted({row[2] for row in sent}),
    }


def main() -> int:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="of a frame, px")
    parser.add_argument("--every", type=float, default=2.0, help="s between frames")
    parser.add_argument("--calm", type=float, default=20.0, help="s without a swap")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        answer = json.dumps(asyncio.run(measure(folder, options)))
    finally:
        shutil.rmtree(folder)
    print(answer)
    if options.json:
        options.json.write_text(answer + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
