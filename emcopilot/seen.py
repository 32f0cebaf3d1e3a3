"""What a model was trained on, as looks: kept beside its weights in `seen.safetensors`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from emcopilot.domain import NEIGHBOURS, LooksArray, column
from emcopilot.durable import give_name
from emcopilot.errors import ModelError
from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, FrameLook

SEEN_FILE = "seen.safetensors"
_LARGEST_BYTES = 64 * 2**20
_VERSION = "1"
_UNREADABLE = (
    OSError,
    SafetensorError,
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
)
"""What a file that anybody may have written can raise."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The frames a model knows, and how it does on them."""

    features: str
    """Whose features the looks are; looks of another network do not compare."""
    looks: LooksArray
    """float32, shape (N, LOOK_WIDTH): a choice of training frames."""
    reach: NDArray[np.float32]
    """Shape (N,): how far each look lies from the nearest of other frames. What was trained on is
    dense here and sparse there; a step out of the dense part is a shift, one between two odd
    frames is none."""
    scale: float
    """Distance, in reaches, to the nearest others within which 95 of 100 training frames lie."""
    doubt: float | None = None
    """Doubtful share below which the model stays on 95 of 100 frames that it knows; None: not
    measured."""

    def distance(self, look: FrameLook) -> float:
        """Return how far a look is from all that was trained on; 1 is the farthest of that."""
        others = self.looks[:, :NETWORK_WIDTH]
        apart = np.linalg.norm(others - look.network, axis=1)
        count = min(NEIGHBOURS, len(apart))
        near = np.argpartition(apart, count - 1)[:count]
        return float(apart[near].mean() / self.reach[near].mean() / self.scale)

    def usual(self, statistic: str) -> tuple[float, float, float]:
        """Return the 2nd, 50th and 98th percentile of a statistic over what was trained on."""
        low, middle, high = np.percentile(column(self.looks, statistic), (2, 50, 98))
        return float(low), float(middle), float(high)

    def write(self, path: Path) -> None:
        """Write the file in one step, to be there after a power cut, too."""
        note = {"features": self.features, "scale": self.scale, "doubt": self.doubt}
        content = save(
            {
                "looks": self.looks.astype(np.float32),
                "reach": self.reach.astype(np.float32),
            },
            {"version": _VERSION, "note": json.dumps(note)},
        )
        part = path.with_suffix(".part")
        part.write_bytes(content)
        give_name(part, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; it may come from elsewhere and is trusted in nothing.

        Raises
        ------
        ModelError
            If it cannot be read or holds something else.
        """
        try:
            if path.stat().st_size > _LARGEST_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes are too many")
            content = path.read_bytes()
            arrays = load(content)
            looks, reach = arrays["looks"], arrays["reach"]
            length = int.from_bytes(content[:8], "little")
            note = json.loads(
                json.loads(content[8 : 8 + length])["__metadata__"]["note"]
            )
            features, scale, doubt = note["features"], note["scale"], note["doubt"]
            seen = cls(
                str(features), looks, reach, float(scale), doubt and float(doubt)
            )
        except _UNREADABLE as error:
            raise ModelError(
                f"cannot read what the model was trained on from {path}: {error}; without the "
                "file the alarm judges by doubt alone"
            ) from error
        is_right = (
            looks.ndim == 2
            and looks.shape[1] == LOOK_WIDTH
            and looks.dtype == np.float32
            and len(looks) > 0
            and bool(np.isfinite(looks).all())
            and reach.shape == (len(looks),)
            and bool((np.isfinite(reach) & (reach > 0)).all())
            and np.isfinite(seen.scale)
            and seen.scale > 0
        )
        if not is_right:
            raise ModelError(
                f"{path} holds looks of shape {looks.shape} and scale {seen.scale}, expected "
                f"finite (N, {LOOK_WIDTH}) float32, reaches (N,) and scale beyond 0; make it anew"
            )
        return seen


def read_seen(path: Path, features: str) -> Seen | None:
    """Return what a model was trained on, None where it has no file or another network's.

    Raises
    ------
    ModelError
        If there is a file that cannot be read.
    """
    if not path.is_file():
        return None
    seen = Seen.read(path)
    return seen if seen.features == features else None
