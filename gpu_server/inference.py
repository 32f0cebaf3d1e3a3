"""The inference child: the one process that holds the network.

It answers batches over a pipe: a JSON header, then the raw bytes of each frame; back come a JSON
header and the raw probability of each frame. Nothing is pickled, and the API process never
imports torch.
"""

import json
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.errors import ConfigError, EMcopilotError, ModelError
from emcopilot.seen import SEEN_FILE
from gpu_server.engines import Engine
from gpu_server.engines.torch_engine import TorchCpuEngine, TorchCudaEngine
from gpu_server.inference_child import InferenceSpec, raw_bytes
from models.checkpoint import ModelCard, find, load
from models.look import Looker
from models.predict import predict, predict_together
from models.tiling import Run, Tiling

log = logging.getLogger(__name__)


def build_engine(spec: InferenceSpec) -> tuple[Engine, ModelCard]:
    """Load the weights and make them ready on the device asked for.

    Returns
    -------
    (Engine, ModelCard)
        The engine, and the card of the model that it runs.

    Raises
    ------
    ConfigError
        If the device or engine asked for is not there. "auto" never fails for that reason.
    ModelError
        If weights and card do not belong together.
    """
    net, card = load(spec.model)
    if spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available()):
        if spec.engine == "openvino":
            raise ConfigError("engine = openvino runs on the CPU; set device = cpu")
        return TorchCudaEngine(net), card
    if spec.device not in {"auto", "cpu"}:
        raise ConfigError(f"device: got {spec.device!r}, expected auto, cpu or cuda")
    if spec.engine == "torch":
        return TorchCpuEngine(net), card
    if spec.engine not in {"auto", "openvino"}:
        raise ConfigError(
            f"engine: got {spec.engine!r}, expected auto, torch or openvino"
        )
    # Not on a machine that never runs it: a GPU server may leave OpenVINO out.
    from gpu_server.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415

    cache_dir = Path(spec.cache_dir) if spec.cache_dir else None
    return OpenVinoEngine(net, cache_dir), card


def frame_predictor(
    engine: Engine, one_pass_px: int, confidence: ParticleConfidence = IDENTITY
) -> Callable[[NDArray[np.generic]], NDArray[np.uint8]]:
    """Return the function from one frame's pixels to its uint8 probability, both (H, W)."""
    tiling = Tiling(one_pass_px=one_pass_px, batch=engine.batch)
    run = finite(engine)
    return lambda pixels: predict(pixels, run, tiling, confidence=confidence)


def predict_batch(
    engine: Engine,
    frames: list[NDArray[np.generic]],
    one_pass_px: int,
    confidence: ParticleConfidence = IDENTITY,
) -> list[NDArray[np.uint8]]:
    """Predict frames of one shape; small ones share a pass when the engine gains from it."""
    if max(frames[0].shape) <= one_pass_px:
        tiling = Tiling(one_pass_px=one_pass_px, batch=engine.batch)
        run = finite(engine)
        return predict_together(frames, run, tiling, confidence=confidence)
    # One after the other: several large ones at once would fill the memory.
    predict_one = frame_predictor(engine, one_pass_px, confidence)
    return [predict_one(pixels) for pixels in frames]


def finite(engine: Engine) -> Run:
    """Return the engine's run, which refuses answers that are no numbers.

    Scaled to 8 bits they would look like an empty field.
    """

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        probability = engine.run(tiles)
        if not np.isfinite(probability).all():
            raise ModelError(
                "the network answers with numbers that are not finite; its weights are damaged, "
                "or too large for this engine's 16 bits: roll back to another model"
            )
        return probability

    return run


def serve(connection: Connection, spec: InferenceSpec) -> None:
    """Run the child: build the engine, say so, answer batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        engine, card = build_engine(spec)
        confidence = card.particle_confidence or IDENTITY
        # What is computed again in the background has been looked at already.
        looker = None if spec.is_background else _looker(engine)
        if spec.warm_px:
            blank = np.zeros((spec.warm_px, spec.warm_px), np.float32)
            frame_predictor(engine, spec.one_pass_px)(blank)
    except EMcopilotError as error:
        _send(connection, {"failed": str(error), "kind": type(error).__name__})
        return
    _send(
        connection,
        {
            "model_id": card.model_id,
            "device": engine.device,
            "batch": engine.batch,
            "particle_confidence": asdict(confidence),
            "features": looker.features if looker else None,
            "seen": str(find(spec.model).absolute() / SEEN_FILE),
        },
    )
    while True:
        try:
            frames = _receive_frames(connection)
        except EOFError:
            return
        _answer(
            connection,
            engine,
            looker,
            frames,
            one_pass_px=spec.one_pass_px,
            confidence=confidence,
        )


def _looker(engine: Engine) -> Looker | None:
    """Return what looks at frames, warm; None where it is not to be had."""
    try:
        looker = Looker.load("cuda" if engine.device.startswith("cuda") else "cpu")
    except ModelError as error:
        # Frames are segmented all the same; only domains and the alarm go without.
        log.warning("frames get no looks reason=%s", error)
        return None
    looker(np.arange(256 * 256, dtype=np.float32).reshape(256, 256))
    return looker


def _look_at(frames: list[NDArray[np.generic]], looker: Looker | None) -> list[object]:
    """Return each frame's look as hexadecimal, None where it has none."""
    return [looker and _look_of(pixels, looker) for pixels in frames]


def _look_of(pixels: NDArray[np.generic], looker: Looker) -> str | None:
    try:
        return looker(pixels).to_bytes().hex()
    except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
        log.info("frame has no look reason=%s", error)
        return None


def _answer(
    connection: Connection,
    engine: Engine,
    looker: Looker | None,
    frames: list[NDArray[np.generic]],
    *,
    one_pass_px: int,
    confidence: ParticleConfidence,
) -> None:
    started = time.monotonic()
    try:
        maps = predict_batch(engine, frames, one_pass_px, confidence)
    except (MemoryError, torch.OutOfMemoryError, ModelError) as error:
        # Any other error ends this process: after a fault on the GPU nothing works in it any
        # more, and a new one gives the frame its second try.
        log.exception("batch failed frames=%d shape=%s", len(frames), frames[0].shape)
        _send(connection, {"failed": f"the network could not run: {error}"})
        return
    infer_s = (time.monotonic() - started) / len(frames)
    _send(connection, {"infer_s": infer_s, "looks": _look_at(frames, looker)})
    for probability in maps:
        connection.send_bytes(raw_bytes(probability))


def _send(connection: Connection, header: dict[str, object]) -> None:
    connection.send_bytes(json.dumps(header).encode())


def _receive_frames(connection: Connection) -> list[NDArray[np.generic]]:
    header = json.loads(connection.recv_bytes())
    shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
    return [
        np.frombuffer(connection.recv_bytes(), dtype).reshape(shape)
        for _ in range(header["count"])
    ]
