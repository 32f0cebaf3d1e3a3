"""What the routes need of the server, handed over once as `app.state.services`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import sqlalchemy as sa
from fastapi import Depends
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from gpu_server.api.problems import ProblemError
from gpu_server.distribution import Distributions
from gpu_server.job_desk import JobDesk
from gpu_server.measure import MeasuredFrame
from gpu_server.metrics import registry_of
from gpu_server.model_desk import ModelDesk
from gpu_server.publish import Publisher
from gpu_server.queries import StoredFrame, StoredSession, frame, session_list
from gpu_server.sandbox import Decoder
from gpu_server.store import Store
from gpu_server.stored_packets import StoredPackets


class OneShot(Protocol):
    """Whatever segments a file that is not kept: the pipeline."""

    async def measure_upload(
        self,
        path: Path,
        name: str,
        page: int,
        pixel_size_nm: tuple[float, float] | None,
    ) -> MeasuredFrame:
        """Decode, calibrate, segment and measure one page; nothing is stored."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The server's parts, as far as REST and the live feed use them."""

    store: Store
    publisher: Publisher
    one_shot: OneShot
    decoder: Decoder
    ring: Callable[[], None]
    """Tells the pipeline that frames wait; called on the event loop."""
    scratch_dir: Path
    """Where uploads lie while they are segmented; on the data disk."""
    max_upload_bytes: int
    disk_reserve_bytes: int
    probes: Mapping[str, Callable[[], str | None]] = field(default_factory=dict)
    """Part of the server -> why it is not ready, or None; asked by `/readyz`."""
    models: ModelDesk | None = None
    """The registry and who runs its models; None: this server has one model for good."""
    jobs: JobDesk | None = None
    """Takes orders for adaptation jobs; None: this server runs none."""
    ring_jobs: Callable[[], None] = lambda: None
    """Tells the task that runs jobs; called on the event loop."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What the server was told that decides figures, for whoever exports them."""
    distributions: Distributions = field(default_factory=Distributions)
    metrics: CollectorRegistry = field(init=False)
    packets: StoredPackets = field(init=False)

    def __post_init__(self) -> None:
        # One registry a server, kept because its histograms only ever grow.
        object.__setattr__(self, "metrics", registry_of(self.store, self.publisher))
        object.__setattr__(self, "packets", StoredPackets(self.store, self.decoder))


def services(connection: HTTPConnection) -> Services:
    """Return the running server's parts; works for HTTP and WebSocket routes alike."""
    return connection.app.state.services


ServicesDep = Annotated[Services, Depends(services)]


def known_frame(connection: sa.Connection, frame_id: int) -> StoredFrame:
    """Return a frame.

    Raises
    ------
    ProblemError
        404 if there is no such frame.
    """
    found = frame(connection, frame_id)
    if found is None:
        raise ProblemError.not_found(f"there is no frame {frame_id}")
    return found


def frame_with_result(connection: sa.Connection, frame_id: int) -> StoredFrame:
    """Return a frame that has a result.

    Raises
    ------
    ProblemError
        404 if there is no such frame, or it has no result (yet).
    """
    found = known_frame(connection, frame_id)
    if found.result is None:
        reason = f": {found.reason}" if found.reason else ""
        raise ProblemError.not_found(
            f"frame {frame_id} has no result, it is {found.state}{reason}"
        )
    return found


def known_session(connection: sa.Connection, session_id: int) -> StoredSession:
    """Return a session.

    Raises
    ------
    ProblemError
        404 if there is no such session.
    """
    found = session_list(connection, session_id)
    if not found:
        raise ProblemError.not_found(f"there is no session {session_id}")
    return found[0]
