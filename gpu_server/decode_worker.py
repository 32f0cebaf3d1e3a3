"""One decode worker: a process that reads hostile files and owns nothing worth taking.

    python -I -m gpu_server.decode_worker --pixels FILE --memory BYTES

Requests come as JSON lines on stdin, answers leave as JSON lines on stdout, pixels through the
memory behind FILE; nothing is ever pickled. `gpu_server.sandbox` starts, feeds and kills it.

What confines it: limits on memory, CPU time, open files, processes and file sizes (POSIX); an
empty environment, no working directory, no HDF5 plug-ins; and an audit hook that lets Python
code open the job's input for reading and nothing else, neither network nor programs. The hook
stops surprising readers, not machine code: against that, run the server as a user of its own
(deploy/).
"""

import argparse
import json
import logging
import mmap
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from emcopilot.decode import FrameFile, inspect, open_frames
from emcopilot.errors import DecodeError, RefusedError

READY = "ready"
MAX_NOTES, MAX_NOTE_CHARS, MAX_MESSAGE_CHARS = 20, 300, 2000
MAX_OPEN_FILES = 64
CPU_S_PER_JOB = 120
"""Only for a worker whose parent is gone: the parent's own time-out is shorter."""

_FORBIDDEN = (
    "ctypes.dlopen", "ftplib.", "http.", "os.chmod", "os.chown", "os.exec", "os.fork",
    "os.link", "os.listxattr", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove",
    "os.rename", "os.rmdir", "os.setxattr", "os.spawn", "os.startfile", "os.symlink",
    "os.system", "os.truncate", "pty.spawn", "shutil.", "smtplib.", "socket.",
    "subprocess.", "urllib.", "winreg.",
)  # fmt: skip
"""Audit events (by beginning) that no file reader has a reason for."""

Request = Mapping[str, object]


class Confinement:
    """What this process may open; narrowed to one input at each job."""

    def __init__(self) -> None:
        roots = {sys.prefix, sys.base_prefix, *(p for p in sys.path if p)}
        self._libraries = tuple(os.path.realpath(root) for root in roots)
        self._input: Path | None = None

    def admit(self, path: Path) -> None:
        """Let the next job read this file, and a TIA header's series beside it."""
        self._input = path

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Refuse what no reader needs; installed as an audit hook, never removable."""
        if event.startswith(_FORBIDDEN):
            raise DecodeError(f"the file's reader tried {event}; it was stopped")
        if event == "open":
            self._check_open(arguments)

    def _check_open(self, arguments: tuple[object, ...]) -> None:
        target, mode, flags = (*arguments, None, None)[:3]
        if not isinstance(target, str | bytes | os.PathLike):
            return  # a descriptor that is open already
        writes = isinstance(flags, int) and flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        )
        writes = writes or (isinstance(mode, str) and any(c in mode for c in "wax+"))
        path = os.fsdecode(cast(str, target))
        if writes or not self._may_read(path):
            raise DecodeError(f"the file's reader tried to open {path!r}; stopped")

    def _may_read(self, path: str) -> bool:
        wanted = self._input
        if wanted is not None and os.path.abspath(path) == str(wanted):
            return True
        if wanted is not None and wanted.suffix.lower() == ".emi":
            beside = Path(os.path.abspath(path))
            if beside.parent == wanted.parent and beside.suffix.lower() == ".ser":
                return True
        return os.path.realpath(path).startswith(self._libraries)


class Desk:
    """The file under work: consecutive pages of one stack open it once."""

    def __init__(self, pixels: mmap.mmap) -> None:
        self._pixels = pixels
        self._keep = ExitStack()
        self._identity: tuple[object, ...] | None = None
        self._file: FrameFile | None = None

    def report(self, request: Request) -> Request:
        """Describe the file; a refusal is a report too."""
        path, name = Path(str(request["path"])), str(request["name"])
        try:
            report = self._open(path, name).report
        except (DecodeError, OSError):
            self.close()
            report = inspect(path, name)
        fields = asdict(report)
        fields["notes"] = _short(report.notes)
        fields["refused"] = report.refused and report.refused[:MAX_MESSAGE_CHARS]
        return {"kind": "report", "report": fields}

    def decode(self, request: Request) -> Request:
        """Decode one page into the shared memory and describe it."""
        path, name = Path(str(request["path"])), str(request["name"])
        frame = self._open(path, name).read(cast(int, request["page"]))
        pixels = frame.pixels
        target = np.ndarray(pixels.shape, pixels.dtype, buffer=self._pixels)
        target[...] = pixels
        return {
            "kind": "frame",
            "frame": {
                "shape": pixels.shape,
                "dtype": pixels.dtype.name,
                "pixel_size_nm": frame.pixel_size_nm,
                "pixel_size_source": frame.pixel_size_source,
                "modality": frame.modality,
                "time_s": frame.time_s,
                "notes": _short(frame.notes),
                "magnification": frame.magnification,
                "binning": frame.binning,
                "instrument": frame.instrument,
                "detector": frame.detector,
                "sample": frame.sample,
            },
        }

    def close(self) -> None:
        """Forget the file under work."""
        self._keep.close()
        self._identity = self._file = None

    def _open(self, path: Path, name: str) -> FrameFile:
        stat = path.stat()
        identity = (path, name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._file is None or identity != self._identity:
            self.close()
            self._file = self._keep.enter_context(open_frames(path, name))
            self._identity = identity
        return self._file


def main(desk_type: type[Desk] = Desk) -> None:
    """Confine this process, say that it is ready, and work until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pixels", required=True)
    parser.add_argument("--memory", type=int, required=True)
    options = parser.parse_args()
    answers = _private_stdout()
    logging.disable(logging.CRITICAL)
    _preload()
    with open(options.pixels, "r+b") as file:
        pixels = mmap.mmap(file.fileno(), 0)
    confinement = Confinement()
    _limit_resources()
    sys.addaudithook(confinement.watch)
    _answer(answers, {"kind": READY})
    desk = desk_type(pixels)
    for line in sys.stdin.buffer:
        request = cast(Request, json.loads(line))
        path = Path(str(request["path"]))
        confinement.admit(path)
        _limit_job(options.memory + len(pixels), path)
        _answer(answers, _attempt(desk, request))


def _attempt(desk: Desk, request: Request) -> Request:
    jobs: dict[object, Callable[[Request], Request]] = {
        "report": desk.report,
        "decode": desk.decode,
    }
    try:
        return jobs[request["do"]](request)
    except RefusedError as error:
        return {"kind": "refused", "message": str(error)[:MAX_MESSAGE_CHARS]}
    except DecodeError as error:
        return {"kind": "failed", "message": str(error)[:MAX_MESSAGE_CHARS]}
    except (OSError, MemoryError) as error:
        desk.close()
        cause = type(error).__name__
        message = f"{request['name']} cannot be read ({cause}: {error})"
        return {"kind": "failed", "message": message[:MAX_MESSAGE_CHARS]}


def _private_stdout() -> BinaryIO:
    """Keep stdout for answers: whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _answer(answers: BinaryIO, answer: Request) -> None:
    # File names may hold bytes that are no text: they must not break the answer.
    line = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
    answers.write(line + b"\n")
    answers.flush()


def _preload() -> None:
    """Import every reader now: later the limits forbid what imports need."""
    import imagecodecs  # noqa: F401, PLC0415
    import PIL.JpegImagePlugin  # noqa: PLC0415
    import PIL.PngImagePlugin  # noqa: F401, PLC0415

    from emcopilot.formats import picture, rosetta, tia, tiff, tvips  # noqa: F401, PLC0415

    rosetta.preload()


def _limit_resources() -> None:
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  (POSIX only)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _limit_job(memory_bytes: int, path: Path) -> None:
    """Limit memory and CPU time for one job.

    Address space counts mapped files too, so the input's size comes on top: a 10 GB stack is
    mapped, not loaded.
    """
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415

    size = path.stat().st_size if path.exists() else 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes + size, hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent_s = int(used.ru_utime + used.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent_s + CPU_S_PER_JOB, hard))


def _short(notes: tuple[str, ...]) -> list[str]:
    return [note[:MAX_NOTE_CHARS] for note in notes[:MAX_NOTES]]


if __name__ == "__main__":
    main()
