"""Everything the server remembers; each method is one transaction, committed when it returns.

Strategy: the SQL lives in `enrolment` (who may deliver), `intake` (files arriving), `leases`
(frames being processed) and `corrections` (the operator's word), as functions of a connection.
This class owns the database, the clock and the one-server rule, and gives each of them its
transaction. Thread-safe; readers build their own queries on `read()`.
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import sqlalchemy as sa

from emcopilot.errors import ConfigError
from gpu_server import corrections, enrolment, intake, leases, saving
from gpu_server.database import Database, prepare
from gpu_server.deliveries import GoneItem, ReceivedFile, StoredRange
from gpu_server.enrolment import AgentReport, AgentRow
from gpu_server.events import announce
from gpu_server.leases import LeasedFrame
from gpu_server.saving import SavedResult
from gpu_server.tables import UPLOAD


def blob_path(data_dir: Path, sha256: str) -> Path:
    """Where the bytes of an acquired file lie."""
    return data_dir / "blobs" / sha256[:2] / sha256[2:4] / sha256


class Store:
    """The one server's hold on its data directory.

    Parameters
    ----------
    data_dir : Path
        Folder of the database and the acquired files.
    wall, monotonic : callable
        Clocks in seconds, for display and for leases.

    Raises
    ------
    ConfigError
        If another server uses the folder, or `Database` cannot.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data_dir = data_dir
        self._wall = wall
        self._monotonic = monotonic
        prepare(data_dir)
        self._lock = _only_server(data_dir)
        try:
            self.database = Database(data_dir)
        except ConfigError:
            self._lock.close()
            raise
        with self.database.write() as connection:
            leases.recover(connection, at=wall())

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database and of the data directory."""
        self.database.close()
        self._lock.close()

    def read(self) -> AbstractContextManager[sa.Connection]:
        """Borrow a read-only connection that sees one consistent state."""
        return self.database.read()

    def blob_path(self, sha256: str) -> Path:
        """Where the bytes of an acquired file lie."""
        return blob_path(self.data_dir, sha256)

    # Agents

    def enrolled_agent(self, public_key: str) -> AgentRow | None:
        """Return the agent with this CURVE key (z85), unless unknown or revoked."""
        with self.read() as connection:
            return enrolment.find(connection, public_key)

    def enrol_agent(self, public_key: str, name: str, host: str) -> int:
        """Let this key deliver; return the agent's id."""
        with self.database.write() as connection:
            return enrolment.enrol(connection, public_key, name, host, at=self._wall())

    def revoke_agent(self, agent_id: int) -> bool:
        """Bar an agent's key; say whether there was one to bar."""
        with self.database.write() as connection:
            return enrolment.revoke(connection, agent_id, at=self._wall())

    def agent_seen(self, agent_id: int, report: AgentReport) -> None:
        """Keep what an agent says of itself."""
        with self.database.write() as connection:
            enrolment.report(connection, agent_id, report, at=self._wall())

    def new_enrol_code(self) -> str:
        """Make a one-time code, good for ten minutes, for one new agent."""
        with self.database.write() as connection:
            return enrolment.new_code(connection, at=self._wall())

    def use_enrol_code(self, code: str) -> bool:
        """Spend a code; five wrong ones void every open code."""
        with self.database.write() as connection:
            return enrolment.use_code(connection, code, at=self._wall())

    # Files arriving

    def stored_items(self, agent_id: int, journal: str) -> tuple[StoredRange, ...]:
        """Say what this journal need not send again."""
        with self.read() as connection:
            return intake.stored_ranges(connection, agent_id, journal)

    def record_stored(self, files: Iterable[ReceivedFile]) -> dict[ReceivedFile, str]:
        """Commit files whose bytes are on disk; a repeat changes nothing.

        Returns
        -------
        dict of ReceivedFile to str
            Those that are not recorded, and why: their number stands for other bytes.

        Raises
        ------
        StoreError
            If the database cannot take them; then none was recorded.
        """
        refused: dict[ReceivedFile, str] = {}
        with self.database.write() as connection:
            for file in files:
                try:
                    intake.record_file(connection, file, at=self._wall())
                except intake.NumberTakenError as error:
                    refused[file] = str(error)
        return refused

    def record_gone(
        self, agent_id: int, journal: str, items: Iterable[GoneItem]
    ) -> None:
        """List files that will never come, by name and reason."""
        with self.database.write() as connection:
            intake.record_gone(connection, agent_id, journal, items, at=self._wall())

    def record_upload(self, session: str, name: str, *, sha256: str, size: int) -> int:
        """Record a file sent over REST, whose bytes are on disk; return the file's id."""
        with self.database.write() as connection:
            at = self._wall()
            agent_id, seq = intake.next_upload(connection, at=at)
            file = ReceivedFile(
                agent_id=agent_id,
                journal=UPLOAD,
                seq=seq,
                rev=1,
                source_key=f"{session}/{name}",
                size=size,
                sha256=sha256,
                mtime_ns=int(at * 1e9),
                sealed_at=at,
                received_at=at,
            )
            file_id = intake.record_file(connection, file, at=at)
        assert file_id is not None, "a fresh seq is never a repeat"
        return file_id

    # Frames being processed

    def lease_frame(self, lease_s: float = 300.0) -> LeasedFrame | None:
        """Take the newest waiting frame; the attempt is committed before this returns."""
        with self.database.write() as connection:
            return leases.lease(
                connection, now=self._monotonic(), lease_s=lease_s, at=self._wall()
            )

    def release(self, frame_id: int) -> None:
        """Give a leased frame back uncounted, as a clean shutdown does."""
        with self.database.write() as connection:
            leases.give_back(connection, frame_id)

    def record_crash(self, frame_id: int, reason: str) -> bool:
        """Count a worker that died over a frame; say whether it gets another try."""
        with self.database.write() as connection:
            return leases.record_crash(connection, frame_id, reason, at=self._wall())

    def quarantine(self, frame_id: int, reason: str) -> None:
        """Set a frame aside, by name and with the reason."""
        with self.database.write() as connection:
            leases.quarantine(connection, frame_id, reason, at=self._wall())

    def add_pages(self, file_id: int, pages: int) -> None:
        """Queue all pages of a file that was opened; a repeat changes nothing."""
        with self.database.write() as connection:
            leases.add_pages(connection, file_id, pages)

    def save_result(self, result: SavedResult) -> int:
        """Commit a result, the frame's state and the event together; return the event's id."""
        with self.database.write() as connection:
            return saving.save(connection, result, at=self._wall())

    def announce(
        self, kind: str, data: Mapping[str, object], session_id: int | None = None
    ) -> int:
        """Add an event that stands for itself, such as a new model; return its id."""
        with self.database.write() as connection:
            return announce(
                connection, kind, data, at=self._wall(), session_id=session_id
            )

    # The operator's word

    def calibrate_session(
        self, session_id: int, pixel_size_nm: tuple[float, float] | None, who: str
    ) -> int:
        """Set a session's (y, x) pixel size, None for the frames' own; queue it again."""
        with self.database.write() as connection:
            return corrections.calibrate_session(
                connection, session_id, pixel_size_nm, who, at=self._wall()
            )

    def reprocess_session(self, session_id: int, who: str) -> int:
        """Queue every frame of a session again."""
        with self.database.write() as connection:
            return corrections.reprocess_session(
                connection, session_id, who, at=self._wall()
            )

    def reprocess_frame(self, frame_id: int, who: str) -> int:
        """Queue one processed or quarantined frame again."""
        with self.database.write() as connection:
            return corrections.reprocess_frame(
                connection, frame_id, who, at=self._wall()
            )

    def reject_frame(self, frame_id: int, who: str) -> int:
        """Take a whole frame out of the statistics."""
        with self.database.write() as connection:
            return corrections.set_frame_rejected(
                connection, frame_id, who, rejected=True, at=self._wall()
            )

    def restore_frame(self, frame_id: int, who: str) -> int:
        """Take a rejected frame back into the statistics."""
        with self.database.write() as connection:
            return corrections.set_frame_rejected(
                connection, frame_id, who, rejected=False, at=self._wall()
            )

    def reject_particles(
        self, frame_id: int, particles: Collection[int], who: str
    ) -> int:
        """Take particles, by label, out of the statistics."""
        with self.database.write() as connection:
            return corrections.reject_particles(
                connection, frame_id, particles, who, at=self._wall()
            )

    def restore_particles(
        self, frame_id: int, particles: Collection[int], who: str
    ) -> int:
        """Take rejected particles back into the statistics."""
        with self.database.write() as connection:
            return corrections.restore_particles(
                connection, frame_id, particles, who, at=self._wall()
            )

    def undo(self, who: str) -> tuple[int, int, str]:
        """Take back the last rejection or restoring by `who`: event, frame and action."""
        with self.database.write() as connection:
            return corrections.undo(connection, who, at=self._wall())


def _only_server(data_dir: Path) -> sqlite3.Connection:
    """Hold the folder until this process ends, however it ends.

    An exclusive SQLite lock on a file of its own: the system frees it even after `kill -9`,
    and it works alike on every platform.
    """
    lock = sqlite3.connect(
        data_dir / "server.lock",
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        raise ConfigError(
            f"another server is using data_dir {data_dir}; stop it or choose another"
        ) from error
    return lock
