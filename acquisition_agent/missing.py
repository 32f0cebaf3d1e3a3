"""Is it really gone? "Not found" only means "deleted" in a folder that is well."""

import logging
import os
from pathlib import Path

from acquisition_agent.journal import Journal

log = logging.getLogger(__name__)


class MissingFiles:
    """Gives up files that two complete scans, some time apart, did not find.

    Parameters
    ----------
    journal : Journal
        Knows which files the server does not have yet.
    label, path : str, Path
        The watched folder.
    is_network : bool
        On a share, where "empty" may mean "away".
    grace_s : float
        Time between the two scans: some writers delete a file and put it back.
    """

    def __init__(
        self,
        journal: Journal,
        label: str,
        path: Path,
        *,
        is_network: bool,
        grace_s: float,
    ) -> None:
        self.trouble: str | None = None
        self._journal = journal
        self._label = label
        self._path = path
        self._is_network = is_network
        self._grace_s = grace_s
        self._since: dict[int, float] = {}

    def judge(self, present: set[int], blind: list[str], now_s: float) -> float | None:
        """After a complete scan, give up what is gone for the second time.

        Parameters
        ----------
        present : set of int
            Numbers of the files that were found.
        blind : list of str
            Folders that could not be read, whose files are not judged.
        now_s : float
            Monotonic clock.

        Returns
        -------
        float or None
            When to scan again for certainty, if something is missing.
        """
        unfinished = self._journal.unfinished(self._label)
        absent = {
            seq
            for seq, place in unfinished.items()
            if seq not in present and not place.relative.startswith(tuple(blind))
        }
        self.trouble = self._doubt(len(absent), len(unfinished), is_empty=not present)
        if self.trouble:
            self._since.clear()
            return None
        absent = {seq for seq in absent if self._is_gone(unfinished[seq].relative)}
        lost = {
            seq
            for seq in absent & self._since.keys()
            if now_s - self._since[seq] >= self._grace_s
        }
        if lost:
            self._journal.lose(lost)
        for seq in lost:
            log.warning("file vanished name=%s", unfinished[seq].relative)
        self._since = {seq: self._since.get(seq, now_s) for seq in absent - lost}
        return now_s + self._grace_s if self._since else None

    def _doubt(self, absent: int, unfinished: int, *, is_empty: bool) -> str | None:
        """Say why nothing can be said about missing files, or None if the folder is well.

        A share that is not mounted is an empty or a different folder in its place.
        """
        status = os.stat(self._path)
        folder_id = f"{status.st_dev}:{status.st_ino}"
        before = self._journal.folder_id(self._label)
        is_other = before is not None and before != folder_id
        if absent == unfinished > 0 and (is_other or (is_empty and self._is_network)):
            return (
                f"{self._path} is not the folder it was, or a share that is not "
                f"mounted: {unfinished} file(s) that wait to be sent are not in it"
            )
        if before != folder_id:
            self._journal.set_folder_id(self._label, folder_id)
        return None

    def _is_gone(self, relative: str) -> bool:
        try:
            os.stat(self._path / relative)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # there, or nobody can tell
        return False
