"""Who is this file? New, known, changed, renamed, or a second name of one we have."""

import logging
from collections.abc import Sequence
from pathlib import Path

from acquisition_agent.files import Known, Place
from acquisition_agent.index import Entry, FileEntry, Other, join
from acquisition_agent.journal import Journal
from acquisition_agent.settle import Look
from acquisition_agent.waiting import WaitingRoom, look_at
from acquisition_agent.windows import identity

log = logging.getLogger(__name__)

_MANY = 100
"""From so many names on, the journal is asked for the whole folder at once."""


class Reception:
    """Enters files into the journal, and sends to the waiting room who has to wait.

    Parameters
    ----------
    journal, room : Journal, WaitingRoom
        Where files are entered and where they wait.
    label, path : str, Path
        The watched folder.
    """

    def __init__(
        self, journal: Journal, room: WaitingRoom, label: str, path: Path
    ) -> None:
        self._journal = journal
        self._room = room
        self._label = label
        self._path = path
        self._strays: dict[Look, int] = {}
        self._doubted: set[int] = set()

    def admit(
        self, folder_name: str, sightings: Sequence[tuple[str, Look]]
    ) -> dict[str, Entry]:
        """Tell who the files of one folder are; return their entries for the index.

        Raises
        ------
        StoreError
            If the journal refuses; whoever has no entry then is to come again.
        """
        rows = None
        if len(sightings) > _MANY:
            rows = self._journal.folder(self._label, folder_name)
        entries: dict[str, Entry] = {}
        new: list[tuple[str, Look]] = []
        for name, look in sightings:
            place = Place(self._label, join(folder_name, name))
            known = (
                rows.get(identity(name))
                if rows is not None
                else self._journal.known(place)
            )
            entry = (
                self._recognise(place, known, look)
                if known
                else self._follow(place, look)
            )
            if entry is None:
                new.append((name, look))
            else:
                entries[name] = entry
        return entries | self._discover(folder_name, new)

    def changed(self, seq: int, path: Path, look: Look) -> FileEntry:
        """Let a file that was sealed wait anew, for its bytes may have moved."""
        self._journal.reopen([seq])
        self._room.add(seq, path, look, is_revision=True)
        return seq, look.size, look.mtime_ns

    def stray(self, seq: int, look: Look) -> None:
        """Remember a file that left its place while it was waiting."""
        self._strays[look] = seq

    def doubt(self, seq: int) -> FileEntry | None:
        """Look at a file that the sender could not read as it was sealed.

        None if it is not there: a full scan has to tell where it went.
        """
        _, path, known = self._journal.where(seq)
        try:
            look = look_at(path)
        except OSError:
            self._doubted.add(seq)
            return None
        if known.state in ("vanished", "unreadable"):
            self._journal.reopen([seq])
        self._room.add(seq, path, look)
        return seq, look.size, look.mtime_ns

    def _recognise(self, place: Place, known: Known, look: Look) -> Entry:
        """Take up a name that the journal has: as it was, changed, or come back."""
        entry = (known.seq, look.size, look.mtime_ns)
        is_same = (look.size, look.mtime_ns) == (known.size, known.mtime_ns)
        is_settled = known.state in ("sealed", "stored", "rejected")
        if is_same and is_settled and known.seq not in self._doubted:
            return entry
        if known.state != "seen" and not (is_same and is_settled):
            self._journal.reopen([known.seq])
        is_revision = known.rev > 0 and not is_same
        path = self._path / place.relative
        self._room.add(known.seq, path, look, is_revision=is_revision)
        self._doubted.discard(known.seq)
        return entry

    def _follow(self, place: Place, look: Look) -> Entry | None:
        """Follow a file to a new name, unless it is still there under the old one."""
        seq = self._find(look)
        if seq is None:
            return None
        _, old_path, known = self._journal.where(seq)
        try:
            if look_at(old_path).file_id == look.file_id:
                return Other.ALIAS
        except (FileNotFoundError, NotADirectoryError):
            pass  # the old name is free: this is where the file went
        self._journal.rename(seq, place)
        log.info("file renamed from=%s to=%s", old_path.name, place.name)
        is_waiting = known.state in ("seen", "vanished", "unreadable")
        if is_waiting or seq in self._room or seq in self._doubted:
            self._room.add(seq, self._path / place.relative, look)
            self._doubted.discard(seq)
        return seq, look.size, look.mtime_ns

    def _find(self, look: Look) -> int | None:
        if look.file_id is None:
            return None
        for seq in (self._strays.pop(look, None), self._room.find(look)):
            if seq is not None:
                return seq
        return self._journal.same_file(look)

    def _discover(
        self, folder_name: str, new: Sequence[tuple[str, Look]]
    ) -> dict[str, Entry]:
        """Enter files that nobody knows, each under the first of its names."""
        entries: dict[str, Entry] = {}
        first: dict[str, Look] = {}
        ids: set[str] = set()
        for name, look in new:
            if look.file_id in ids:
                entries[name] = Other.ALIAS
                continue
            ids |= {look.file_id} if look.file_id else set()
            first[name] = look
        if not first:
            return entries
        places = [Place(self._label, join(folder_name, name)) for name in first]
        seqs = self._journal.discover(list(zip(places, first.values(), strict=True)))
        for seq, place, look in zip(seqs, places, first.values(), strict=True):
            self._room.add(seq, self._path / place.relative, look)
            entries[place.name] = (seq, look.size, look.mtime_ns)
        return entries
