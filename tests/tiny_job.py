"""A whole adaptation job that takes a minute of CPU: frames, a small real model, settings."""

import hashlib
import io
from pathlib import Path

import numpy as np
import tifffile

from emcopilot.decode import Frame
from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, FrameLook
from emcopilot.simulate import demo_scene, render_micrograph
from gpu_server import promotion_rows, reservoir
from gpu_server.intake import ReceivedFile
from gpu_server.measure import measure
from gpu_server.pipeline import result_row
from gpu_server.registry import Registry
from gpu_server.reservoir import Facts
from gpu_server.segment import Segmentation
from gpu_server.store import Store

FRAMES, SIDE_PX = 8, 128
_GAN = {
    "steps": 3,
    "tile_px": 64,
    "batch": 2,
    "report_every": 1,
    "judge_every": 2,
    "precision": "float32",
    "save_every_s": 0.5,
}
_TRAIN = {
    "steps": 3,
    "tile_px": 64,
    "batch": 2,
    "report_every": 1,
    "precision": "float32",
    "save_every_s": 0.5,
}
OVERRIDES: dict[str, object] = {
    "rough": "classical",
    "synthetic": 8,
    "side_px": 96,
    "rehearsal": 0.0,
    "pix2pix": _GAN,
    "cyclegan": _GAN,
    "train": _TRAIN,
}
"""Laid over preset "quick"."""


def bright_field(number: int) -> np.ndarray:
    """Draw one bright-field frame of 128 px."""
    scene = demo_scene("bf", size=SIDE_PX)
    return render_micrograph(scene, np.random.default_rng((4, number))).pixels


def save_small_model(folder: Path, seed: int = 0) -> str:
    """Write a small network with random weights; return its id."""
    import torch

    from models import checkpoint
    from models.npssegnet import Architecture, build

    torch.manual_seed(seed)
    small = Architecture(encoder="resnet18")
    card = checkpoint.save(
        folder, build(small), name="small", architecture=small, data={}, training={}
    )
    return card.model_id


def fill(store: Store, scratch: Path) -> int:
    """Give an empty store a live model and a domain of bright-field frames; return its id."""
    registry = Registry(store)
    registry.open()
    save_small_model(scratch)
    model_id = registry.add(scratch, "imported", "test", tested_at=1.0)
    with store.database.write() as connection:
        promotion_rows.record(connection, model_id, "test", at=1.0)
    agent_id = store.enrol_agent("k" * 40, "titan", "scope-pc")
    vector = np.zeros(LOOK_WIDTH, np.float32)
    vector[NETWORK_WIDTH:] = 0.5
    for number in range(FRAMES):
        frame_id = _process(store, agent_id, number)
        with store.database.write() as connection:
            facts = Facts.of("Titan", "BF", None)
            look = FrameLook(vector + np.float32(0.01 * number))
            place = reservoir.find_place(connection, look, "net", facts)
            domain_id = reservoir.join(
                connection, frame_id, look, place, features="net", facts=facts, at=5.0
            )
    return domain_id


def _process(store: Store, agent_id: int, number: int) -> int:
    pixels = bright_field(number)
    target = io.BytesIO()
    tifffile.imwrite(target, pixels)
    data = target.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    path = store.blob_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    store.record_stored(
        [
            ReceivedFile(
                agent_id=agent_id,
                journal="journal",
                seq=number + 1,
                rev=1,
                source_key=f"acquisitions/bf/frame_{number:04}.tif",
                size=len(data),
                sha256=sha256,
                mtime_ns=1,
                sealed_at=1.0,
                received_at=1.0,
            )
        ]
    )
    leased = store.lease_frame()
    assert leased is not None
    probability = np.where(pixels < pixels.mean() - pixels.std(), 255, 0).astype(
        "uint8"
    )
    found = Segmentation(probability, "threshold", 0.01, "cpu")
    measured = measure(Frame(pixels, None, None), found)
    store.save_result(result_row(leased, measured, {"leased": 1.0, "decoded": 1.5}))
    return leased.frame_id
