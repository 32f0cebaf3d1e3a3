"""A whole session as one zip: tables, labels, provenance and a report; written as it is read.

Strategy: one pass over the frames. Label images go into the zip at once, rows into two scratch
files that follow them; so memory holds one frame, however long the session. Frames are read one
by one and not in one transaction: a session that grows meanwhile must not grow the database's
log for as long as somebody downloads.
"""

import json
import platform
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from emcopilot import __version__
from emcopilot.messages import PARTICLE_COLUMNS, SessionAnswer
from emcopilot.review_messages import Mark
from gpu_server.course import read_course
from gpu_server.distribution import of_course, session_time_s, timeline_of
from gpu_server.marks import session_marks
from gpu_server.page.psd_chart import as_csv as psd_csv
from gpu_server.particle_rows import (
    Columns,
    as_csv,
    contract_columns,
    is_rejected,
    origin_of,
    read_labels,
    read_particles,
)
from gpu_server.queries import StoredFrame, frame, session_start
from gpu_server.report import report_html
from gpu_server.store import Store
from gpu_server.tables import PROCESSED, frames

PARTS = ("emcopilot", "numpy", "scipy", "scikit-image", "tifffile", "pyarrow")
REPORT_POINTS = 1200
_CHUNK = 2**20


@dataclass(slots=True)
class _Account:
    """What the frames say of how they were measured."""

    frames: int = 0
    particles: int = 0
    models: Counter[str] = field(default_factory=Counter)
    calibrations: Counter[str] = field(default_factory=Counter)
    pixel_sizes_nm: set[tuple[float, float]] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, found: StoredFrame) -> None:
        """Count one frame in."""
        self.frames += 1
        self.files[found.source_key] = found.sha256
        self.calibrations[found.pixel_size_source or "none: sizes in px"] += 1
        if found.pixel_size_nm:
            self.pixel_sizes_nm.add(found.pixel_size_nm)
        if found.result:
            self.particles += len(found.result.diameters)
            self.models[found.result.model_id] += 1


class _Sink:
    """A file that a zip is written to, emptied by whoever sends it on; it cannot be rewound."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        """Hold bytes until they are taken."""
        self._held += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits but what `take` returns."""

    def take(self) -> bytes:
        """Return what was written since."""
        data = bytes(self._held)
        self._held.clear()
        return data


def session_zip(
    store: Store, session: SessionAnswer, scratch: Path, settings: dict[str, object]
) -> Iterator[bytes]:
    """Yield the zip of a session piece by piece; blocks, so it is iterated in a thread.

    Parameters
    ----------
    scratch : Path
        Folder for rows that wait for their turn, on the data disk.
    settings : dict
        What the server was told, for `run.json`.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    account, sink = _Account(), _Sink()
    with (
        tempfile.NamedTemporaryFile(dir=scratch, suffix=".part") as table,
        tempfile.NamedTemporaryFile(dir=scratch, suffix=".part") as parquet,
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,  # type: ignore[arg-type]
    ):
        table.write((",".join(PARTICLE_COLUMNS) + "\n").encode())
        with pq.ParquetWriter(parquet, _SCHEMA) as rows:
            for found, columns, labels in _frames(store, session.id):
                account.add(found)
                table.write(as_csv(columns).partition("\n")[2].encode())
                rows.write_table(_typed(columns))
                name = f"labels/frame_{found.number:06}.labels.tif"
                # Deflated already: packing it once more costs time and saves nothing.
                target.writestr(zipfile.ZipInfo(name, _now()), labels)
                yield sink.take()
        for name, file in (("particles.csv", table), ("particles.parquet", parquet)):
            file.flush()
            yield from _copied(target, name, Path(file.name), sink)
        for name, text in _texts(store, session, account, settings).items():
            target.writestr(name, text)
            yield sink.take()
    yield sink.take()


def _frames(
    store: Store, session_id: int
) -> Iterator[tuple[StoredFrame, Columns, bytes]]:
    with store.read() as connection:
        start = session_start(connection, session_id)
        chosen = sa.select(frames.c.id).where(
            frames.c.session_id == session_id, frames.c.state == PROCESSED
        )
        ids = connection.scalars(chosen.order_by(frames.c.number)).all()
    for frame_id in ids:
        with store.read() as connection:
            found = frame(connection, frame_id)
            if found is None or found.result is None:
                continue  # queued again since
            particles = read_particles(connection, found)
            labels = read_labels(connection, found)
        origin = origin_of(found, session_time_s(found, start))
        rejected = is_rejected(found, len(particles))
        yield found, contract_columns(particles, origin, rejected), labels


def _copied(
    target: zipfile.ZipFile, name: str, source: Path, sink: _Sink
) -> Iterator[bytes]:
    entry = zipfile.ZipInfo(name, _now())
    entry.compress_type = zipfile.ZIP_DEFLATED
    with source.open("rb") as file, target.open(entry, "w", force_zip64=True) as packed:
        while chunk := file.read(_CHUNK):
            packed.write(chunk)
            yield sink.take()


def _texts(
    store: Store,
    session: SessionAnswer,
    account: _Account,
    settings: dict[str, object],
) -> dict[str, str]:
    with store.read() as connection:
        course = read_course(connection, session.id)
        start = session_start(connection, session.id)
        marks = session_marks(connection, session.id).marks
    psd, _ = of_course(course, 0)
    line = timeline_of(course, session.id, start, REPORT_POINTS)
    run = _run(session, account, settings, marks)
    return {
        "psd.csv": psd_csv(psd),
        "run.json": json.dumps(run, indent=1, ensure_ascii=False) + "\n",
        "report.html": report_html(session, psd, line, marks, run),
    }


def _run(
    session: SessionAnswer,
    account: _Account,
    settings: dict[str, object],
    marks: list[Mark],
) -> dict[str, object]:
    """Return where the numbers come from: enough to measure them again."""
    return {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "made_by": f"EMcopilot {__version__}",
        "versions": {name: _version(name) for name in PARTS}
        | {"python": platform.python_version()},
        "session": {
            "id": session.id,
            "folder": session.folder,
            "microscope": session.agent,
            "operator_pixel_size_nm": session.pixel_size_nm,
        },
        "frames": account.frames,
        "particles": account.particles,
        "models": dict(account.models),
        "calibration_sources": dict(account.calibrations),
        "pixel_sizes_nm": sorted(account.pixel_sizes_nm),
        "settings": settings,
        "marks": [mark.model_dump() for mark in marks],
        "files_sha256": account.files,
        "columns": list(PARTICLE_COLUMNS),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _now() -> tuple[int, int, int, int, int, int]:
    return time.localtime()[:6]


_TEXT = {"session", "model_id", "calibration_source"}
_WHOLE = {"frame", "particle", "label"}
_YES_NO = {"touches_border", "rejected"}


def _type(name: str) -> pa.DataType:
    if name in _TEXT:
        return pa.string()
    if name in _WHOLE:
        return pa.int64()
    return pa.bool_() if name in _YES_NO else pa.float64()


_SCHEMA = pa.schema([(name, _type(name)) for name in PARTICLE_COLUMNS])


def _typed(columns: Columns) -> pa.Table:
    # A frame without particles must not decide what a column holds.
    arrays = [
        pa.array(columns[name].tolist(), _type(name)) for name in PARTICLE_COLUMNS
    ]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)
