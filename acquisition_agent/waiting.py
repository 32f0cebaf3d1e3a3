"""The files that are not sealed yet: looked at, probed, hashed and sealed in turn."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from acquisition_agent.journal import Journal
from acquisition_agent.probe import probe
from acquisition_agent.settle import (
    Candidate,
    Decision,
    Look,
    Patience,
    decide,
    explain,
    first_sight,
    looked,
    next_look_s,
    probed,
)
from acquisition_agent.windows import is_away, is_busy, open_shared

log = logging.getLogger(__name__)

_TURN_S = 0.25
"""One turn takes about so long, so that a large import never hides a new frame."""
_BATCH = 64
"""Files sealed by one commit at most."""
_READ_BYTES = 2**20
_PROBE_SHARE = 5
"""A file is probed again after so many times what its last probe took."""


def look_at(path: str | Path) -> Look:
    """Take one look; never through a folder listing, which Windows serves stale."""
    return as_look(os.stat(path))


def as_look(status: os.stat_result) -> Look:
    """Take from a stat what tells one state of a file from another."""
    file_id = f"{status.st_dev}:{status.st_ino}" if status.st_ino else None
    return Look(status.st_size, status.st_mtime_ns, file_id)


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hexadecimal text."""
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    with open_shared(path) as file:
        while count := file.readinto(buffer):
            sha256.update(buffer[:count])
    return sha256.hexdigest()


@dataclass(slots=True)
class _Waiting:
    path: Path
    candidate: Candidate
    due_s: float
    note: str | None = None


class WaitingRoom:
    """Holds unsealed files of one watched folder until they are finished.

    Parameters
    ----------
    journal : Journal
        Where finished files are sealed and late ones get their note.
    patience : Patience
        How long a file has to hold still.
    clock : callable, optional
        Monotonic seconds.
    """

    def __init__(
        self,
        journal: Journal,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._patience = patience
        self._clock = clock
        self._waiting: dict[int, _Waiting] = {}
        self._by_id: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, seq: int) -> bool:
        return seq in self._waiting

    def add(
        self, seq: int, path: Path, look: Look, *, is_revision: bool = False
    ) -> None:
        """Let a file wait here, or go on waiting under its new name."""
        now = self._clock()
        if seq in self._waiting:
            self._waiting[seq].path = path
            self._waiting[seq].due_s = now
            return
        candidate = first_sight(look, now, is_revision=is_revision)
        self._waiting[seq] = _Waiting(path, candidate, now)
        self._by_id[look.file_id] = seq

    def hurry(self, seq: int) -> None:
        """Look at a file now: something says that it was just closed."""
        self._waiting[seq].due_s = self._clock()

    def find(self, look: Look) -> int | None:
        """Return the waiting file that looks exactly so, under whatever name."""
        seq = self._by_id.get(look.file_id) if look.file_id else None
        if seq is None or self._waiting[seq].candidate.look != look:
            return None
        return seq

    def next_due_s(self) -> float:
        """Return when the next file wants a look; infinity when none waits."""
        return min((w.due_s for w in self._waiting.values()), default=float("inf"))

    def attend(self) -> tuple[dict[int, Look], dict[int, Look]]:
        """Look at the files whose time has come, the newest arrivals first.

        Returns
        -------
        tuple of two dicts
            The looks under which files were sealed, and the last looks at those that
            were not there any more and have left.

        Raises
        ------
        OSError
            If the drive or share is away; nothing is known of its files then.
        StoreError
            If the journal refuses; everyone goes on waiting.
        """
        start = self._clock()
        due = [seq for seq, w in self._waiting.items() if w.due_s <= start]
        due.sort(key=lambda seq: -self._waiting[seq].candidate.first_seen_s)
        finished: list[tuple[int, Look, str]] = []
        absent: dict[int, Look] = {}
        for seq in due:
            try:
                sha256 = self._consider(seq, self._waiting[seq])
            except FileNotFoundError:
                absent[seq] = self._waiting[seq].candidate.look
                continue
            if sha256:
                finished.append((seq, self._waiting[seq].candidate.look, sha256))
            if len(finished) == _BATCH or self._clock() - start > _TURN_S:
                break
        self._seal(finished)
        for seq in absent:
            self._leave(seq)
        return {seq: look for seq, look, _ in finished}, absent

    def _seal(self, finished: list[tuple[int, Look, str]]) -> None:
        if not finished:
            return
        self._journal.seal(finished)
        for seq, look, _ in finished:
            path = self._leave(seq)
            log.info("file sealed name=%s bytes=%d", path.name, look.size)

    def _leave(self, seq: int) -> Path:
        waiting = self._waiting.pop(seq)
        if self._by_id.get(waiting.candidate.look.file_id) == seq:
            del self._by_id[waiting.candidate.look.file_id]
        return waiting.path

    def _consider(self, seq: int, waiting: _Waiting) -> str | None:
        """Give one file a look; return its sha256 once it is finished."""
        try:
            return self._look(seq, waiting)
        except FileNotFoundError:
            raise
        except OSError as error:
            if is_away(error):
                raise
            self._postpone(seq, waiting, _reason(error))
            return None

    def _look(self, seq: int, waiting: _Waiting) -> str | None:
        look = look_at(waiting.path)
        if look.file_id != waiting.candidate.look.file_id:
            self._by_id.pop(waiting.candidate.look.file_id, None)
            self._by_id[look.file_id] = seq
        waiting.candidate = looked(waiting.candidate, look, self._clock())
        probe_s = 0.0
        decision = decide(waiting.candidate, self._clock(), self._patience)
        if decision is Decision.PROBE:
            start = self._clock()
            waiting.candidate = probed(waiting.candidate, probe(waiting.path))
            probe_s = self._clock() - start
            decision = decide(waiting.candidate, self._clock(), self._patience)
        if decision is Decision.SEAL:
            sha256 = digest(waiting.path)
            again = look_at(waiting.path)
            if again == look:
                return sha256
            waiting.candidate = looked(waiting.candidate, again, self._clock())
        self._postpone(seq, waiting)
        waiting.due_s = max(waiting.due_s, self._clock() + _PROBE_SHARE * probe_s)
        return None

    def _postpone(
        self, seq: int, waiting: _Waiting, obstacle: str | None = None
    ) -> None:
        """Let a file wait on; once it is late, write down what holds it up."""
        now = self._clock()
        waiting.due_s = next_look_s(waiting.candidate, now, self._patience)
        note = explain(waiting.candidate, now, self._patience)
        note = note and (obstacle or note)
        if note == waiting.note:
            return
        self._journal.note(seq, note)
        waiting.note = note
        if note:
            log.warning("file waits name=%s reason=%r", waiting.path.name, note)


def _reason(error: OSError) -> str:
    if is_busy(error) and not isinstance(error, PermissionError):
        return "held by another program"
    return f"cannot be read: {error.strerror or error}"
