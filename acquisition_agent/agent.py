"""The acquisition agent: watches folders, seals files, and has them sent.

    events ─hint─> watch ─seal─> journal <─offer, stored─ stream <══> server

The watch runs in the thread that calls `run`, the stream in its own; they share only the
journal. Neither waits for the other: without a server files are sealed all the same, and
while a share is away the rest is sent.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from acquisition_agent.config import AgentSettings, WatchFolder
from acquisition_agent.events import FileEvents
from acquisition_agent.files import Counts
from acquisition_agent.journal import Journal
from acquisition_agent.names import NameRule
from acquisition_agent.settle import Patience
from acquisition_agent.watch import FolderWatch
from acquisition_agent.windows import long_path
from emcopilot.errors import StoreError

log = logging.getLogger(__name__)

_LOCAL_STILL_S = 1.0
_NETWORK_STILL_S = 3.0
_COALESCE_S = 0.02
"""Events come in swarms; one look serves them all."""
_JOURNAL_RETRY_S = 1.0
_STATUS_EVERY_S = 10.0


class Sender(Protocol):
    """What the agent needs of the stream."""

    def wake(self) -> None:
        """Say that a file was sealed."""
        ...


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How the watching side is."""

    is_ready: bool
    """Every file was looked at once since the start."""
    waiting: int
    """Files seen and not sealed yet."""
    troubles: tuple[str, ...]


class Agent:
    """Watches all folders of the settings until it is stopped.

    Parameters
    ----------
    settings : AgentSettings
        Folders, patterns and patience, already checked by `check_places`.
    journal : Journal
        Where files are entered and sealed.
    sender : Sender
        Woken whenever a file was sealed.
    """

    def __init__(
        self, settings: AgentSettings, journal: Journal, sender: Sender
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._sender = sender
        self._paths = {folder.name: _path(folder) for folder in settings.watch}
        self._watches = {folder.name: self._watch(folder) for folder in settings.watch}
        self._doubtful: list[int] = []
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._journal_trouble: str | None = None
        self._reported: tuple[Counts | None, float] = (None, float("-inf"))

    def run(self) -> None:
        """Watch until `stop`; returns with everything that was sealed in the journal."""
        self._journal.set_roots(self._paths)
        events = self._start_events()
        try:
            while not self._stopping.is_set():
                next_s = self._turn(events.take() if events else set())
                self._awake.wait(min(max(next_s - time.monotonic(), 0.0), 1.0))
                self._awake.clear()
                self._stopping.wait(_COALESCE_S)
        finally:
            if events:
                events.stop()

    def stop(self) -> None:
        """End `run` soon; may be called from any thread or a signal handler."""
        self._stopping.set()
        self._awake.set()

    def status(self) -> AgentStatus:
        """Say how it goes."""
        watches = list(self._watches.values())
        troubles = [watch.trouble for watch in watches] + [self._journal_trouble]
        return AgentStatus(
            is_ready=all(watch.is_ready for watch in watches),
            waiting=sum(watch.waiting for watch in watches),
            troubles=tuple(trouble for trouble in troubles if trouble),
        )

    def _turn(self, hints: set[str]) -> float:
        """Let every folder do what is due; return when to come back."""
        try:
            self._resolve_doubts()
            next_s = [self._tick(folder, hints) for folder in self._settings.watch]
            self._report()
        except StoreError as error:
            if self._journal_trouble is None:
                log.error("nothing can be sealed just now: %s", error)
            self._journal_trouble = str(error)
            return time.monotonic() + _JOURNAL_RETRY_S
        if self._journal_trouble:
            log.info("journal works again")
            self._journal_trouble = None
        return min(next_s)

    def _tick(self, folder: WatchFolder, hints: set[str]) -> float:
        watch = self._watches[folder.name]
        sealed = watch.sealed
        try:
            prefix = str(watch.path)
            watch.look_at_once(hint for hint in hints if hint.startswith(prefix))
            next_s = watch.tick()
        except StoreError:
            raise
        except Exception:
            # The border: begin this folder anew from the journal, which has it all.
            log.exception("scan failed, starting over folder=%s", folder.path)
            self._watches[folder.name] = self._watch(folder)
            return time.monotonic() + 5.0
        finally:
            if watch.sealed > sealed:
                self._sender.wake()
        return next_s

    def _resolve_doubts(self) -> None:
        """Have files looked at that the sender could not read as they were sealed."""
        self._doubtful += self._journal.take_doubtful()
        while self._doubtful:
            place, _, _ = self._journal.where(self._doubtful[-1])
            watch = self._watches.get(place.root)
            if watch:
                watch.doubt(self._doubtful[-1])
            self._doubtful.pop()

    def _report(self) -> None:
        """Say how the accounts stand, now and then and only when they moved."""
        before, since_s = self._reported
        now = time.monotonic()
        if now - since_s < _STATUS_EVERY_S:
            return
        counts = self._journal.counts()
        if before is None or _accounts(counts) != _accounts(before):
            log.info(
                "files discovered=%d stored=%d pending=%d vanished=%d rejected=%d",
                *_accounts(counts),
            )
        self._reported = (counts, now)

    def _start_events(self) -> FileEvents | None:
        local = [self._paths[f.name] for f in self._settings.watch if not f.is_network]
        if self._settings.events == "off" or not local:
            return None
        return FileEvents(local, self._awake.set)

    def _watch(self, folder: WatchFolder) -> FolderWatch:
        settings = self._settings
        is_network = folder.is_network
        still_s = folder.still_s
        if still_s is None:
            still_s = _NETWORK_STILL_S if is_network else _LOCAL_STILL_S
        return FolderWatch(
            self._journal,
            folder.name,
            self._paths[folder.name],
            NameRule(settings.include, settings.exclude),
            Patience(still_s, settings.revision_still_s, settings.stalled_after_s),
            is_network=is_network,
            names_every_s=settings.scan_every_s,
            walk_every_s=settings.full_scan_every_s,
        )


def _path(folder: WatchFolder) -> Path:
    return Path(long_path(str(folder.path.resolve())))


def _accounts(counts: Counts) -> Sequence[int]:
    return (
        counts.discovered,
        counts.stored,
        counts.pending,
        counts.vanished,
        counts.rejected,
    )
