"""One watched folder: the scan that finds every file, each once.

The scan is the authority. Once a second it lists the names in recently active folders;
once a minute it looks at every file; both compare with a small index in memory. New
names go to the reception, which tells who they are; unfinished files wait in the waiting
room. Events only say where to look first, and everything works without them.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from acquisition_agent.index import FileEntry, Folder, Index, Other, join
from acquisition_agent.journal import Journal
from acquisition_agent.missing import MissingFiles
from acquisition_agent.names import NameRule
from acquisition_agent.reception import Reception
from acquisition_agent.settle import Look, Patience
from acquisition_agent.waiting import WaitingRoom, as_look, look_at
from acquisition_agent.windows import is_away
from emcopilot.errors import StoreError

log = logging.getLogger(__name__)

_ACTIVE_FOR_S = 600.0
"""A folder is listed every second until nothing was new in it for so long."""
_MOST_STATS = 500
"""With more folders than this, only the active ones are asked each second."""
_WALK_S = 0.1
"""A full scan gives way to new frames after so long, and goes on in the next turn."""
_WALK_STEP = 250
_MEET_STEP = 4000
"""So many new names are entered at once: each time the journal reads their folder."""
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)


class FolderWatch:
    """Finds the files of one watched folder and has them settled and sealed.

    All methods are called by one thread. Whatever goes wrong with the folder itself is
    kept in `trouble` and tried again; StoreError of a full journal disk is let through,
    and the next `tick` takes up where it was.

    Parameters
    ----------
    journal : Journal
        Where files are entered, followed and given up.
    label, path : str, Path
        The folder's name on the server and where it lies.
    names : NameRule
        Which files count.
    patience : Patience
        How long a file has to hold still.
    is_network : bool, optional
        On a share, where "empty" may mean "away".
    names_every_s, walk_every_s : float, optional
        How often names are listed in active folders, and every file is looked at.
    clock : callable, optional
        Monotonic seconds.
    """

    def __init__(
        self,
        journal: Journal,
        label: str,
        path: Path,
        names: NameRule,
        patience: Patience,
        *,
        is_network: bool = False,
        names_every_s: float = 1.0,
        walk_every_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.path = path
        self.trouble: str | None = None
        self.is_ready = False
        """Whether every file was looked at once since the start."""
        self.sealed = 0
        """Files sealed since the start."""
        self._journal = journal
        self._names = names
        self._names_every_s = names_every_s
        self._walk_every_s = walk_every_s
        self._clock = clock
        self._index = Index()
        self._room = WaitingRoom(journal, patience, clock)
        self._reception = Reception(journal, self._room, label, path)
        self._missing = MissingFiles(
            journal, label, path, is_network=is_network, grace_s=2 * patience.still_s
        )
        self._walk: Generator[None] | None = None
        self._next_names_s = self._next_walk_s = clock()
        self._failures = 0

    @property
    def waiting(self) -> int:
        """Files seen and not sealed yet."""
        return len(self._room)

    def tick(self) -> float:
        """Do what is due; return when to be called again, on the clock.

        Raises
        ------
        StoreError
            If the journal refuses.
        """
        now = self._clock()
        if self._failures and now < self._next_walk_s:
            return self._next_walk_s
        try:
            self._turn(now)
        except OSError as error:
            self._fall_ill(error)
        except StoreError:
            self._walk = None
            raise
        if self._walk is not None:
            return self._clock()
        return min(self._next_names_s, self._next_walk_s, self._room.next_due_s())

    def look_at_once(self, paths: Iterable[str]) -> None:
        """Take hints, from events, where something happened."""
        for path in paths:
            relative = os.path.relpath(path, self.path).replace(os.sep, "/")
            folder_name, _, name = relative.rpartition("/")
            folder = self._index.folders.get(folder_name)
            if folder is None or self._failures:
                self._next_names_s = self._clock()  # perhaps a folder that is new
                continue
            try:
                self._look(folder_name, folder, name)
            except OSError as error:
                self._fall_ill(error)

    def doubt(self, seq: int) -> None:
        """Look at a file that the sender could not read as it was sealed."""
        place, _, _ = self._journal.where(seq)
        entry = self._reception.doubt(seq)
        self._index.put(place.relative, entry)
        if entry is None:
            self._walk_soon()

    def _turn(self, now: float) -> None:
        if self._walk is None and now >= self._next_walk_s:
            self._walk = self._walk_all()
        if self._walk is not None:
            self._advance(self._walk)
        elif now >= self._next_names_s:
            self._next_names_s = now + self._names_every_s
            self._list_active(now)
        self._attend()

    # Listing names, every second -----------------------------------------------------

    def _list_active(self, now: float) -> None:
        folders = self._index.folders
        are_few = len(folders) <= _MOST_STATS
        for name, folder in list(folders.items()):
            is_active = not name or now - folder.active_s < _ACTIVE_FOR_S
            if (is_active or are_few) and name in folders:
                self._list(name, folder, always=is_active)

    def _list(self, name: str, folder: Folder, *, always: bool) -> None:
        """Compare the names in one folder with the index."""
        path = self._join(name)
        try:
            mtime_ns = os.stat(path).st_mtime_ns
            if not always and mtime_ns == folder.mtime_ns:
                return
            found = os.listdir(path)
        except OSError as error:
            if not name or is_away(error):
                raise
            return  # gone or locked: its parent's listing or the full scan will tell
        folder.mtime_ns = mtime_ns
        new = [entry for entry in found if entry not in folder.names]
        if len(found) - len(new) < len(folder.names):
            self._forget(name, folder.names.keys() - found)
        if new:
            self._meet(name, folder, new)

    def _look(self, folder_name: str, folder: Folder, name: str) -> None:
        """Look at one name that an event was about."""
        entry = folder.names.get(name)
        if entry is None:
            self._meet(folder_name, folder, [name])
        elif isinstance(entry, tuple) and entry[0] in self._room:
            self._room.hurry(entry[0])
        elif isinstance(entry, tuple):
            self._compare(folder_name, folder, name, entry)

    # Looking at every file, every minute ---------------------------------------------

    def _walk_all(self) -> Generator[None]:
        """Look at every file below the folder, giving way now and then."""
        blind: list[str] = []
        to_visit = [""]
        while to_visit:
            name = to_visit.pop()
            folder = self._index.folders.setdefault(name, Folder(self._clock()))
            try:
                with os.scandir(self._join(name)) as listing:
                    entries = list(listing)
            except OSError as error:
                if not name or is_away(error):
                    raise
                if not isinstance(error, FileNotFoundError):
                    blind.append(name + "/")
                continue
            names = {entry.name for entry in entries}
            self._forget(name, folder.names.keys() - names)
            yield from self._visit(name, folder, entries)
            to_visit += [
                join(name, entry)
                for entry, kind in folder.names.items()
                if kind is Other.FOLDER
            ]
        self._finish_walk(blind)

    def _visit(
        self, name: str, folder: Folder, entries: list[os.DirEntry[str]]
    ) -> Generator[None]:
        """Compare each entry of one folder with the index."""
        new: list[str] = []
        for count, found in enumerate(entries, 1):
            if count % _WALK_STEP == 0:
                yield
            entry = folder.names.get(found.name)
            if isinstance(entry, tuple):
                if self._has_moved(found, entry):
                    self._compare(name, folder, found.name, entry)
            elif entry in (None, Other.ALIAS) or self._has_turned(found, entry):
                new.append(found.name)
        for start in range(0, len(new), _MEET_STEP):
            self._meet(name, folder, new[start : start + _MEET_STEP])
            yield

    def _has_moved(self, found: os.DirEntry[str], entry: FileEntry) -> bool:
        try:
            status = found.stat()
        except OSError as error:
            if is_away(error):
                raise
            return False  # gone since the listing, or locked
        return (status.st_size, status.st_mtime_ns) != entry[1:]

    def _has_turned(self, found: os.DirEntry[str], entry: Other | None) -> bool:
        """Tell whether a folder took the place of something else, or the reverse."""
        is_folder = found.is_dir(follow_symlinks=False)
        return (entry is Other.FOLDER) != is_folder and not (
            self._names.excludes(found.name)
        )

    def _finish_walk(self, blind: list[str]) -> None:
        now = self._clock()
        again_s = self._missing.judge(self._index.present(), blind, now)
        self._report(self._missing.trouble)
        self._next_walk_s = min(now + self._walk_every_s, again_s or float("inf"))
        self._next_names_s = now + self._names_every_s
        self._failures = 0
        self._walk = None
        self.is_ready = True

    # What was found ------------------------------------------------------------------

    def _meet(self, folder_name: str, folder: Folder, names: Iterable[str]) -> None:
        """Enter names that are new to the index: files, folders, and what is neither."""
        sightings: list[tuple[str, Look]] = []
        for name in names:
            try:
                kind = self._kind(join(folder_name, name))
            except OSError as error:
                if is_away(error):
                    raise
                continue  # gone again, or locked: the next listing meets it anew
            if isinstance(kind, Look):
                sightings.append((name, kind))
                continue
            folder.names[name] = kind
            if kind is Other.FOLDER:
                below = join(folder_name, name)
                inner = self._index.folders[below] = Folder(self._clock())
                self._list(below, inner, always=True)
        if sightings:
            folder.active_s = self._clock()
            sightings.sort(key=lambda sighting: sighting[1].mtime_ns)
            folder.names |= self._reception.admit(folder_name, sightings)

    def _kind(self, relative: str) -> Look | Other:
        name = relative.rpartition("/")[2]
        if self._names.excludes(name):
            return Other.IGNORED
        path = self._join(relative)
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            return Other.FOLDER
        if not self._names.includes(name):
            return Other.IGNORED
        if stat.S_ISLNK(status.st_mode):
            # A link to a file counts as the file; one to a folder could go in circles.
            status = os.stat(path)
        return as_look(status) if stat.S_ISREG(status.st_mode) else Other.IGNORED

    def _compare(
        self, folder_name: str, folder: Folder, name: str, entry: FileEntry
    ) -> None:
        """Let a sealed file wait anew if its bytes may have moved."""
        seq = entry[0]
        if seq in self._room:
            return
        path = self.path / join(folder_name, name)
        try:
            look = look_at(path)
        except OSError as error:
            if is_away(error):
                raise
            return
        if (look.size, look.mtime_ns) != entry[1:]:
            folder.active_s = self._clock()
            folder.names[name] = self._reception.changed(seq, path, look)

    def _forget(self, folder_name: str, gone: Iterable[str]) -> None:
        """Drop names that are not there; whether a file is lost, a full scan tells."""
        were_files = [self._index.remove(folder_name, name) for name in gone]
        if any(were_files) and self._journal.unfinished(self.label):
            self._walk_soon()

    def _attend(self) -> None:
        """Let the waiting room work, and take its results into the index."""
        sealed, absent = self._room.attend()
        self.sealed += len(sealed)
        for seq, look in (sealed | absent).items():
            place, _, _ = self._journal.where(seq)
            entry = (seq, look.size, look.mtime_ns) if seq in sealed else None
            self._index.put(place.relative, entry)
            if entry is None:
                self._reception.stray(seq, look)
        if absent:
            self._walk_soon()

    # Turns ---------------------------------------------------------------------------

    def _advance(self, walk: Generator[None]) -> None:
        """Go on with a full scan for a while; the first one runs to its end."""
        until = self._clock() + _WALK_S
        for _ in walk:
            if self.is_ready and self._clock() >= until:
                return

    def _walk_soon(self) -> None:
        self._next_walk_s = min(self._next_walk_s, self._clock())

    def _fall_ill(self, error: OSError) -> None:
        """Keep everything as it is, say what is wrong, and try again later."""
        pause_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._walk = None
        self._next_walk_s = self._next_names_s = self._clock() + pause_s
        self._report(f"{self.path} cannot be read: {error.strerror or error}")

    def _report(self, trouble: str | None) -> None:
        if trouble and trouble != self.trouble:
            log.warning("folder unwell reason=%r", trouble)
        if self.trouble and not trouble:
            log.info("folder well again path=%s", self.path)
        if trouble != self.trouble:
            self.trouble = trouble
            self._journal.set_trouble(self.label, trouble)

    def _join(self, relative: str) -> str:
        return os.path.join(self.path, relative)
