"""A desk of adaptation jobs over a store with domains to learn."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, FrameLook
from gpu_server import promotion_rows, reservoir
from gpu_server.job_desk import JobDesk
from gpu_server.registry import Registry
from gpu_server.reservoir import Facts


@dataclass
class JobLab:
    """A store with domains to learn, a registry with a live model, and the desk of jobs."""

    lab: object
    registry: Registry
    desk: JobDesk

    @property
    def store(self):
        return self.lab.store

    def add_domain(self, frames: int, modality: str = "HAADF") -> int:
        """Process frames of one new domain; return its id."""
        vector = np.zeros(LOOK_WIDTH, np.float32)
        vector[NETWORK_WIDTH:] = 0.5
        facts = Facts.of("Titan", modality, (0.2, 0.2))
        for number in range(frames):
            frame_id = self.lab.add(
                [20 + number, 30], folder=f"acquisitions/{modality}"
            )
            with self.store.database.write() as connection:
                look = FrameLook(vector + np.float32(0.01 * number))
                place = reservoir.find_place(connection, look, "net", facts)
                domain_id = reservoir.join(
                    connection,
                    frame_id,
                    look,
                    place,
                    features="net",
                    facts=facts,
                    at=5.0,
                )
        return domain_id


@pytest.fixture
def job_lab(lab, papers: dict[str, Path]) -> JobLab:
    """Paper model "a" is live."""
    registry = Registry(lab.store)
    registry.open()
    registry.add(papers["a"], "imported", "test")
    with lab.store.database.write() as connection:
        promotion_rows.record(connection, "a", "test", at=1.0)
    return JobLab(lab, registry, JobDesk(lab.store, registry))
