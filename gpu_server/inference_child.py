"""The inference child as its parent sees it: a process, a pipe, and what crosses it.

The process that answers browsers never loads torch: it starts this child and asks it.
"""

import json
import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.errors import ConfigError, ModelError
from emcopilot.frame_look import FrameLook
from gpu_server.priority import come_forward, give_way

_START_TIMEOUT_S = 300.0
_BACKGROUND_START_TIMEOUT_S = 1800.0
"""In time that nothing else wants, a busy machine takes longer."""
_FRAME_TIMEOUT_S = 180.0
_PIXEL_TIMEOUT_S = 10e-6
"""On top, a pixel: large frames take minutes on a CPU that does other work as well."""
_PARTICLE_CONFIDENCE = TypeAdapter(ParticleConfidence)


@dataclass(frozen=True, slots=True)
class InferenceSpec:
    """What the child must load; plain values, because they cross a process border."""

    model: str = "base"
    """A model id of the registry, or a directory with weights and card."""
    device: str = "auto"
    """auto, cpu or cuda."""
    engine: str = "auto"
    """auto, torch or openvino."""
    warm_px: int = 1024
    """Side of the frame run once at start, so that the first real one is not slow; 0: none."""
    cache_dir: str | None = None
    """Where compiled graphs are kept between starts."""
    one_pass_px: int = 1536
    """Frames up to this side go through whole; larger ones in tiles."""
    is_background: bool = False
    """Work only in time that nothing else wants."""
    gives_way: bool = False
    """Load behind what runs, if the system lets it come forward afterwards."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What the network says of one frame."""

    probability: NDArray[np.uint8]
    """Shape (H, W); 0..255, particle from 128."""
    model_id: str
    infer_s: float
    """Seconds of the network's own work on this frame."""
    device: str
    """What ran it, for people."""
    confidence: ParticleConfidence = IDENTITY
    """Tells what clearness means in chances, for this very model."""
    look: FrameLook | None = None
    """What the frame looks like; None where it has no look, or nobody looked."""
    features: str = ""
    """The network that looked, the same whatever model is live; empty if nobody looked."""
    seen: Path | None = None
    """Where it is written what this very model was trained on; the file may not be there."""


class SlowStartError(ModelError):
    """The network could not be loaded in time, which says nothing against its model."""


class InferenceChild:
    """The process and its pipe; every call blocks, so callers use a thread."""

    def __init__(self, spec: InferenceSpec) -> None:
        self._start_timeout_s = (
            _BACKGROUND_START_TIMEOUT_S
            if spec.is_background or spec.gives_way
            else _START_TIMEOUT_S
        )
        self._gives_way = spec.gives_way
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, spec),
            name="emcopilot-inference",
            daemon=True,
        )
        self._process.start()
        theirs.close()  # so that the child's death reads as end of file here
        self.model_id = self.device = ""
        self.batch = 1
        self.confidence = IDENTITY
        self.features, self.seen = "", None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def wait_until_ready(self) -> None:
        """Wait until the network is loaded and warm.

        Raises
        ------
        ConfigError, ModelError
            If the device is not there, the weights do not fit, or the process ends.
        """
        try:
            ready = _receive(self._pipe, self._start_timeout_s)
        except TimeoutError as error:
            self.kill()
            raise SlowStartError(
                f"the network was not loaded within {self._start_timeout_s:.0f} s: this machine "
                "is too busy; try again when it has less to do"
            ) from error
        except (EOFError, OSError) as error:
            self.kill()
            raise ModelError(
                "the inference process ended while it loaded the network; "
                f"exit code {self._process.exitcode}: see the server's log"
            ) from error
        if "failed" in ready:
            self.kill()
            kind = ConfigError if ready.get("kind") == "ConfigError" else ModelError
            raise kind(str(ready["failed"]))
        self.model_id = str(ready["model_id"])
        self.device = str(ready["device"])
        self.batch = int(str(ready["batch"]))
        self.confidence = _PARTICLE_CONFIDENCE.validate_python(
            ready["particle_confidence"]
        )
        self.features = str(ready.get("features") or "")
        self.seen = Path(str(ready["seen"])) if ready.get("seen") else None

    def exchange(self, frames: list[NDArray[np.generic]]) -> list[Segmentation]:
        """Send frames of one shape and wait for their probabilities."""
        first = frames[0]
        header = {
            "count": len(frames),
            "shape": first.shape,
            "dtype": first.dtype.str,
        }
        self._pipe.send_bytes(json.dumps(header).encode())
        for pixels in frames:
            self._pipe.send_bytes(raw_bytes(pixels))
        timeout_s = _FRAME_TIMEOUT_S + _PIXEL_TIMEOUT_S * first.size
        answer = _receive(self._pipe, timeout_s * len(frames))
        if "failed" in answer:
            raise ModelError(str(answer["failed"]))
        looks = _looks(answer.get("looks"), len(frames))
        return [
            Segmentation(
                np.frombuffer(self._pipe.recv_bytes(), np.uint8).reshape(first.shape),
                self.model_id,
                float(str(answer["infer_s"])),
                self.device,
                self.confidence,
                look,
                self.features,
                self.seen,
            )
            for look in looks
        ]

    def come_forward(self) -> None:
        """Rank with this process from now on, where the child gave way."""
        if self._gives_way and self._process.pid is not None:
            come_forward(self._process.pid)

    def kill(self) -> None:
        """End the process now; correctness never depends on its goodbye."""
        self._process.kill()
        self._process.join(5)


def _serve(connection: Connection, spec: InferenceSpec) -> None:
    if spec.is_background:
        # Before torch makes its threads: each inherits the rank of the one that makes it.
        _step_back()
    elif spec.gives_way:
        give_way()
    # Imported in the child alone: the process that answers browsers never loads torch.
    from gpu_server import inference  # noqa: PLC0415

    inference.serve(connection, spec)


def _step_back() -> None:
    # Behind live frames, but ahead of a training that runs in SCHED_IDLE: somebody waits for a
    # comparison or a self-test, and in SCHED_IDLE a busy machine starves them for minutes.
    if hasattr(os, "nice"):  # POSIX; elsewhere it competes, one frame at a time
        os.nice(19)


def raw_bytes(array: NDArray[np.generic]) -> memoryview:
    """View an array as flat bytes: a pipe takes the length of a 2-D view for its size."""
    return memoryview(np.ascontiguousarray(array)).cast("B")  # pyright: ignore[reportArgumentType]


def _looks(sent: object, count: int) -> list[FrameLook | None]:
    """Read the looks of `count` frames, each hexadecimal or null."""
    if not isinstance(sent, list) or len(sent) != count:
        return [None] * count
    return [one and FrameLook.from_bytes(bytes.fromhex(str(one))) for one in sent]


def _receive(pipe: Connection, timeout_s: float) -> dict[str, object]:
    if not pipe.poll(timeout_s):
        raise TimeoutError(f"no answer from the inference process in {timeout_s:.0f} s")
    return json.loads(pipe.recv_bytes())
