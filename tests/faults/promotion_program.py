"""A server of models without its page: store, registry, queue and promotion, with a plan to die.

Started by test_promotion_kills.py as a process. Children are of paper, so that a start takes no
time; rows, folders, the queue and the swap are the real ones. Frames run all the while, and each
answer's model goes into the diary.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np
from crash_points import install

sys.path.insert(0, str(Path(__file__).parents[1]))
import paper_models

from gpu_server import promotion_rows, registry, segment
from gpu_server.inference_child import InferenceSpec
from gpu_server.live_start import LiveStart
from gpu_server.promotion import Promotion
from gpu_server.registry import Registry
from gpu_server.segment import Segmenter
from gpu_server.store import Store

POINTS: tuple[tuple[object, str, str], ...] = (
    (registry, "copy_model", "before copying"),
    (registry, "put_in_place", "copied"),
    (registry, "put_in_place", "in place, done"),
    (Registry, "add", "added, done"),
    (Segmenter, "_warm", "child ready"),
    (Promotion, "_write", "tested"),
    (promotion_rows, "record", "writing"),
    (promotion_rows, "_remember", "half written"),
    (Promotion, "_write", "committed, done"),
    (Segmenter, "_adopt", "switching"),
    (Segmenter, "_adopt", "switched, done"),
)


def spec(folder: Path) -> InferenceSpec:
    return InferenceSpec(model=str(folder), warm_px=0)


async def watch(segmenter: Segmenter, diary: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 999, (48, 48), np.uint16)
    with diary.open("a", buffering=1) as file:
        while True:
            answer = await segmenter.segment(pixels)
            file.write(f"frame {answer.model_id} {answer.probability.shape[0]}\n")
            await asyncio.sleep(0.002)


async def run(data_dir: Path, folders: list[Path], diary: Path, turns: int) -> None:
    with Store(data_dir) as store:
        models = Registry(store)
        models.open()
        start = LiveStart(models, str(folders[0]))
        choice = next(start.choices())
        async with Segmenter(spec(choice.folder)) as segmenter:
            start.settle(choice)
            watching = asyncio.create_task(watch(segmenter, diary))
            promotion = Promotion(models, segmenter, spec)
            print("ready", flush=True)
            for _ in range(turns):
                other = models.add(folders[1], "adapted", "job 1", verdict="promote")
                await promotion.promote(other, "ada")
                await asyncio.sleep(0.01)
                await promotion.rollback("bob")
            watching.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("folders", type=Path, nargs=2)
    parser.add_argument("--die", default="")
    parser.add_argument("--diary", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    segment.InferenceChild = paper_models.PaperChild
    for owner, method, point in POINTS:
        install(owner, method, point, options.die, options.diary)
    asyncio.run(run(options.data_dir, options.folders, options.diary, options.turns))


if __name__ == "__main__":
    main()
