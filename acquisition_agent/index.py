"""What was found where, in memory: small, for it holds every name that is watched."""

from enum import Enum


class Other(Enum):
    """A name that is no acquired file."""

    FOLDER = "folder"
    IGNORED = "ignored"
    ALIAS = "alias"
    """A second name (hard link) of a file that is there under its first."""


FileEntry = tuple[int, int, int]
"""A file's number, and the size and time under which it was last taken up."""
Entry = FileEntry | Other


class Folder:
    """The names last seen in one folder."""

    __slots__ = ("active_s", "mtime_ns", "names")

    def __init__(self, now_s: float) -> None:
        self.names: dict[str, Entry] = {}
        self.active_s = now_s
        """When something was last new here."""
        self.mtime_ns = 0


class Index:
    """All folders below a watched one, by their path in it; "" is the folder itself."""

    def __init__(self) -> None:
        self.folders: dict[str, Folder] = {}

    def put(self, relative: str, entry: Entry | None) -> None:
        """Remember what a path is; None forgets it, so that it is met anew."""
        folder_name, _, name = relative.rpartition("/")
        folder = self.folders.get(folder_name)
        if folder is None:
            return
        if entry is None:
            folder.names.pop(name, None)
        else:
            folder.names[name] = entry

    def remove(self, folder_name: str, name: str) -> bool:
        """Forget a name and, if it was a folder, all below; say if files were there."""
        entry = self.folders[folder_name].names.pop(name)
        if entry is not Other.FOLDER:
            return isinstance(entry, tuple)
        below = join(folder_name, name)
        inner = [f for f in self.folders if f == below or f.startswith(below + "/")]
        for path in inner:
            del self.folders[path]
        return True

    def present(self) -> set[int]:
        """Return the numbers of all files that are where they were found."""
        return {
            entry[0]
            for folder in self.folders.values()
            for entry in folder.names.values()
            if isinstance(entry, tuple)
        }


def join(folder_name: str, name: str) -> str:
    """Return the path of a name in a folder, both as the index writes them."""
    return f"{folder_name}/{name}" if folder_name else name
