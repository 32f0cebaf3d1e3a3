"""What Windows does differently: names, locks, handles, priority.

The decisions are plain functions that take the platform as an argument and are tested
everywhere; the few calls into kernel32 stand behind `sys.platform` and have not been
run on a real Windows machine yet.
"""

import errno
import os
import sys
import unicodedata
from io import FileIO
from pathlib import Path

_SHARING_VIOLATION = 32
_LOCK_VIOLATION = 33
_NOT_READY = (21, 53, 59, 64, 67, 121, 1231)
"""Win32 errors of a drive or share that is away: not ready, bad path or name on the
network, connection gone, time-out."""
_AWAY = (
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENODEV,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
)


def identity(relative: str, platform: str = sys.platform) -> str:
    """Return the form under which two names are the same file."""
    # Not casefold: it makes "ß" equal to "ss", which are two files on NTFS.
    return relative.lower() if platform == "win32" else relative


def source_key(root: str, relative: str) -> str:
    """Return the name a file carries on the wire: label, slash, NFC path, always text.

    Bytes of a name that are no text are spelt out as hexadecimal escapes.
    """
    raw = relative.encode("utf-8", "surrogateescape")
    return unicodedata.normalize(
        "NFC", f"{root}/{raw.decode('utf-8', 'backslashreplace')}"
    )


def long_path(path: str, platform: str = sys.platform) -> str:
    r"""Return an absolute path in the form that Windows takes beyond 260 characters."""
    if platform != "win32" or path.startswith("\\\\?\\"):
        return path
    if path.startswith("\\\\"):
        return "\\\\?\\UNC\\" + path[2:]
    return "\\\\?\\" + path


def is_busy(error: OSError) -> bool:
    """Tell whether the file is only held by someone else just now."""
    code = getattr(error, "winerror", None)
    if code is not None:
        return code in (_SHARING_VIOLATION, _LOCK_VIOLATION)
    return isinstance(error, PermissionError) or error.errno in (
        errno.EBUSY,
        errno.EAGAIN,
        errno.ETXTBSY,
    )


def is_away(error: OSError) -> bool:
    """Tell whether the drive or share is away, which says nothing about its files."""
    code = getattr(error, "winerror", None)
    if code is not None:
        return code in _NOT_READY
    return error.errno in _AWAY


def open_shared(path: Path) -> FileIO:
    """Open a file for reading so that its owner can still write, rename, delete it."""
    if sys.platform == "win32":
        return _open_sharing_everything(path)
    return FileIO(path, "rb")


if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _GENERIC_READ = 0x80000000
    _SHARE_READ_WRITE_DELETE = 0x1 | 0x2 | 0x4
    _OPEN_EXISTING = 3
    _SEQUENTIAL_SCAN = 0x08000000
    _BELOW_NORMAL_PRIORITY_CLASS = 0x4000
    _DRIVE_REMOTE = 4

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.CreateFileW.restype = wintypes.HANDLE
    _kernel32.CreateFileW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.LPVOID,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.HANDLE,
    )
    _kernel32.GetCurrentProcess.restype = wintypes.HANDLE
    _kernel32.SetPriorityClass.argtypes = (wintypes.HANDLE, wintypes.DWORD)
    _kernel32.GetDriveTypeW.argtypes = (wintypes.LPCWSTR,)

    def _open_sharing_everything(path: Path) -> FileIO:
        # Python's own open() leaves out FILE_SHARE_DELETE: while the agent reads, the
        # camera software could neither rename nor delete its file.
        handle = _kernel32.CreateFileW(
            str(path),
            _GENERIC_READ,
            _SHARE_READ_WRITE_DELETE,
            None,
            _OPEN_EXISTING,
            _SEQUENTIAL_SCAN,
            None,
        )
        if handle == wintypes.HANDLE(-1).value:
            code = ctypes.get_last_error()
            raise OSError(0, ctypes.FormatError(code), str(path), code)
        descriptor = msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY)
        return FileIO(descriptor, "rb")


def is_remote_drive(drive: str) -> bool:
    """Tell whether a drive letter such as "Z:" stands for a share."""
    if sys.platform == "win32":
        return _kernel32.GetDriveTypeW(drive + "\\") == _DRIVE_REMOTE
    return False


def step_back() -> None:
    """Let the acquisition software go first on the processor."""
    if sys.platform == "win32":
        _kernel32.SetPriorityClass(
            _kernel32.GetCurrentProcess(), _BELOW_NORMAL_PRIORITY_CLASS
        )
    else:
        os.nice(5)
