"""File events as hints where to look first: lost, doubled or dead, nothing depends on them."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

log = logging.getLogger(__name__)

_MOST_HINTS = 4096
"""More than this are dropped: the scan finds the files all the same."""
# Linux says when a writer closes; asking for every write there would cost the processor
# of the microscope PC more than the scan does.
_WANTED: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
_WRITTEN: dict[str, type[FileSystemEvent]] = {"linux": FileClosedEvent}


class FileEvents:
    """Collects paths at which something happened, and wakes the scan.

    Parameters
    ----------
    folders : iterable of Path
        Local folders, watched with all below; shares send no events.
    wake : callable
        Called from another thread at every hint.
    """

    def __init__(self, folders: Iterable[Path], wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._hints: set[str] = set()
        self._observer = Observer()
        handler = _Handler(self._hint)
        written = _WRITTEN.get(sys.platform, FileModifiedEvent)
        try:
            for folder in folders:
                self._observer.schedule(
                    handler,
                    str(folder),
                    recursive=True,
                    event_filter=[*_WANTED, written],
                )
            self._observer.start()
        except OSError as error:
            # Too many watches, or the folder is away: the scan alone is a second slower.
            log.info("file events unavailable reason=%s", error)

    def take(self) -> set[str]:
        """Return the paths hinted at since the last call."""
        with self._lock:
            taken, self._hints = self._hints, set()
            return taken

    def stop(self) -> None:
        """End the observer's threads."""
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def _hint(self, path: str) -> None:
        with self._lock:
            if len(self._hints) < _MOST_HINTS:
                self._hints.add(path)
        self._wake()


class _Handler(FileSystemEventHandler):
    def __init__(self, hint: Callable[[str], None]) -> None:
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._hint(os.fsdecode(event.dest_path or event.src_path))
