"""Where things lie: the journal's place, and which paths are on a network drive."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

from acquisition_agent.windows import is_remote_drive

_NETWORK_FILE_SYSTEMS = (
    "9p",
    "afs",
    "ceph",
    "cifs",
    "davfs",
    "fuse.rclone",
    "fuse.sshfs",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
)


def data_dir(
    platform: str = sys.platform,
    environment: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> Path:
    """Return the folder on the local disk where a user's programs keep their data."""
    home = home or Path.home()
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "emcopilot"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "emcopilot"
    local = environment.get("XDG_DATA_HOME")
    return (Path(local) if local else home / ".local" / "share") / "emcopilot"


def is_network(path: Path) -> bool:
    """Tell whether a path lies on a share, where events are mute and clocks differ."""
    if sys.platform == "win32":
        drive = path.absolute().drive
        return is_unc(str(path)) or is_remote_drive(drive)
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
    except OSError:
        return False  # no such list on this system: the settings decide
    return file_system_of(str(path.absolute()), mounts) in _NETWORK_FILE_SYSTEMS


def is_unc(path: str) -> bool:
    r"""Tell whether a Windows path names a server, as ``\\server\share`` does."""
    drive = PureWindowsPath(path).drive
    return drive.startswith("\\\\") and not drive.startswith(("\\\\?\\", "\\\\.\\"))


def file_system_of(path: str, mounts: str) -> str | None:
    """Return the type of the file system that holds a path, by Linux's mount table."""
    best, kind = "", None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _unescape(fields[1]).rstrip("/")
        if len(point) >= len(best) and (path == point or path.startswith(point + "/")):
            best, kind = point, fields[2]
    return kind


def _unescape(field: str) -> str:
    # The kernel writes blanks and backslashes of a mount point in octal.
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace(f"\\{code}", character)
    return field
