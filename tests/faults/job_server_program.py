"""The server's part that runs jobs, alone: filled and given one order on its first start.

Started by test_job_kills.py as a process, to be killed at any moment.
"""

import argparse
import asyncio
import importlib.util
import logging
import sys
from pathlib import Path

from emcopilot.decode import Frame, open_frames
from gpu_server import job_rows
from gpu_server.adaptation import Adaptation
from gpu_server.config import AdaptationSettings
from gpu_server.domains import domain_list
from gpu_server.job_desk import JobDesk
from gpu_server.registry import Registry
from gpu_server.store import Store
from gpu_server.traffic import Traffic

SPEC = importlib.util.spec_from_file_location(
    "tiny_job", Path(__file__).parents[1] / "tiny_job.py"
)
assert SPEC is not None
assert SPEC.loader is not None
tiny_job = sys.modules["tiny_job"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny_job)


class Decoder:
    """Decodes in process: the frames are our own."""

    async def decode(self, path: Path, name: str, page: int) -> Frame:
        with open_frames(path, name) as file:
            return file.read(page)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with Store(options.data_dir) as store:
        registry = Registry(store)
        registry.open()
        desk = JobDesk(store, registry)
        with store.read() as connection:
            is_filled = bool(domain_list(connection))
            is_ordered = bool(job_rows.job_list(connection))
        if not is_filled:
            tiny_job.fill(store, options.data_dir / "scratch")
        if not is_ordered:
            with store.read() as connection:
                (domain,) = domain_list(connection)
            desk.order(domain.id, "test", preset="quick")
        settings = AdaptationSettings(
            device="cpu",
            priority="normal",
            memory_bytes=0,
            cancel_grace_s=2.0,
            threads=1,
            overrides=tiny_job.OVERRIDES,
        )
        adaptation = Adaptation(
            store, registry, desk, Decoder(), settings, traffic=Traffic(3)
        )
        asyncio.run(adaptation.run())


if __name__ == "__main__":
    main()
