"""The GPU server's settings: one TOML file, one frozen model, checked at start."""

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt

from emcopilot.calibrate import MagnificationRow
from emcopilot.config import Settings, default_data_dir


class HttpSettings(Settings):
    """REST, the live page and its WebSocket."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback should sit behind TLS."""
    port: int = Field(default=8765, ge=0, le=65535)
    """0 lets the system choose."""
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    """Host names a browser may use for this server (guards against DNS rebinding)."""
    tls_certificate: Path | None = None
    """PEM file; with `tls_key` the server speaks HTTPS."""
    tls_key: Path | None = None
    max_upload_bytes: PositiveInt = 2 * 2**30
    """Largest file `POST /segment` takes."""


class IngestSettings(Settings):
    """Where agents connect, and how much they may have under way."""

    bind: str = "tcp://127.0.0.1:5570"
    """ZeroMQ address for frames; CURVE, enrolled keys only."""
    enrol_bind: str = "tcp://127.0.0.1:5571"
    """ZeroMQ address where a new agent trades its one-time code for a place on the list."""
    window_bytes: PositiveInt = 32 * 2**20
    """Credit: bytes an agent may have sent and not yet seen stored."""
    disk_reserve_bytes: PositiveInt = 2 * 2**30
    """Agents pause while less than this is free on the data disk."""
    max_file_bytes: PositiveInt = 64 * 2**30
    """Larger files are refused by name."""


class DecodeSettings(Settings):
    """The sandboxed decode workers."""

    workers: PositiveInt = 1
    timeout_s: PositiveFloat = 30.0
    """A page that takes longer costs its worker, and is quarantined the second time."""
    memory_bytes: PositiveInt = 3 * 2**30


class SegmentSettings(Settings):
    """The network and what runs it."""

    model: str = "base"
    """A shipped model's name, a model id, or a directory with weights and card: what the first
    start runs. From then on the last promotion holds, until this names another model than at the
    start before; that is a promotion as well, by "settings", and can be rolled back."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    warm_px: int = Field(default=1024, ge=0, le=4096)
    """Side of the frame run once at start so that the first real one is not slow."""
    one_pass_px: int = Field(default=1536, ge=256, le=8192)
    """Frames up to this side go through whole; larger ones in overlapping tiles."""


class AdaptationSettings(Settings):
    """Learning of new domains, in a process beside the live path."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where jobs learn."""
    memory_bytes: int = Field(default=6 * 2**30, ge=0)
    """Most memory that a job on the CPU may hold; out of it, its batches are cut in two. 0: no
    bound."""
    gpu_share: float = Field(default=0.5, gt=0, le=1)
    """The same of a GPU's memory, which live frames need, too."""
    priority: Literal["idle", "low", "normal"] = "idle"
    """Of a job beside other programs; "idle" learns nothing while those take all of the CPU."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of a job; 0 for one a core: it stands still while live frames are under way."""
    cancel_grace_s: PositiveFloat = 20.0
    """How long a cancelled job may take to save before it is ended."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    """Laid over the preset of every job: keys of a job's own TOML file (`emcopilot adapt`)."""


class ServerSettings(Settings):
    """Everything `emcopilot serve` can be told."""

    data_dir: Path = Field(default_factory=default_data_dir)
    """Database, acquired files and keys; a local disk, never a network share."""
    http: HttpSettings = HttpSettings()
    ingest: IngestSettings = IngestSettings()
    decode: DecodeSettings = DecodeSettings()
    segment: SegmentSettings = SegmentSettings()
    adaptation: AdaptationSettings = AdaptationSettings()
    magnifications: tuple[MagnificationRow, ...] = ()
    """For instruments whose files name a magnification but no pixel size."""
    min_area_px: PositiveInt = 9
    """Smaller specks are noise: about 3.4 px across, below what a pixel count can size."""
