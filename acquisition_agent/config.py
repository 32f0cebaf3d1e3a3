"""The agent's settings: one frozen model from one TOML file, checked at start."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator

from acquisition_agent.locations import data_dir, is_network
from emcopilot.config import Settings
from emcopilot.errors import ConfigError

DEFAULT_PORT = 5570

INCLUDE = (
    "*.dm3",
    "*.dm4",
    "*.emd",
    "*.emi",
    "*.jpeg",
    "*.jpg",
    "*.mrc",
    "*.mrcs",
    "*.png",
    "*.ser",
    "*.tif",
    "*.tiff",
    "*.tvips",
)
"""The formats that the server decodes."""

EXCLUDE = ("*.tmp", "*.part", "~*", ".*")
"""What camera and office software, browsers and file managers write beside them."""


class WatchFolder(Settings):
    """One folder of the microscope PC that is watched with all folders below it."""

    path: Path
    label: str | None = None
    """First part of every frame's name on the server; default: the folder's own name."""
    network: bool | None = None
    """On a share: no events, longer patience, waits for it when away. None: find out."""
    still_s: NonNegativeFloat | None = None
    """A file of unknown format holds still so long; default 1 s, on a share 3 s."""

    @field_validator("label")
    @classmethod
    def _is_one_name(cls, label: str | None) -> str | None:
        if label is not None and (not label.strip() or set(label) & set("/\\")):
            raise ValueError("a label is one name, without / or \\")
        return label

    @property
    def name(self) -> str:
        """The label that applies."""
        return self.label or self.path.absolute().name or "root"

    @property
    def is_network(self) -> bool:
        """Whether the folder lies on a share, as set or as found."""
        return is_network(self.path) if self.network is None else self.network


class StreamSettings(Settings):
    """How sealed files travel to the server."""

    server_url: str = ""
    """ZeroMQ address, e.g. tcp://gpu01:5570; `gpu01` is enough. Empty: the address
    noted when this PC was enrolled."""
    window_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**20
    """Bytes in flight before the agent waits, even if the server grants more."""
    chunk_bytes: Annotated[int, Field(ge=4096, le=2**20)] = 2**20
    """Payload of one message; the wire allows 1 MiB."""
    resend_after_s: PositiveFloat = 10.0
    """A file sent but not answered for so long is offered again."""
    silence_s: PositiveFloat = 10.0
    """A server that says nothing for so long gets a new socket and HELLO."""
    ping_every_s: PositiveFloat = 2.0

    @field_validator("server_url")
    @classmethod
    def _complete(cls, address: str) -> str:
        """Add what a person leaves out: `gpu01` is tcp://gpu01:5570."""
        address = address.strip()
        if not address:
            return ""
        scheme, found, rest = address.rpartition("://")
        if found and scheme not in ("tcp", "ipc"):
            raise ValueError("an address is HOST, HOST:PORT or tcp://HOST:PORT")
        if scheme == "ipc":
            return address
        host, colon, port = rest.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = rest, str(DEFAULT_PORT)
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("an address is HOST, HOST:PORT or tcp://HOST:PORT")
        return f"tcp://{host}:{port}"


def default_journal() -> Path:
    """Return where the journal lies unless told otherwise: on the local disk."""
    return data_dir() / "agent" / "journal.db"


class AgentSettings(Settings):
    """Everything a person can set on the microscope PC."""

    watch: Annotated[tuple[WatchFolder, ...], Field(min_length=1)]
    stream: StreamSettings = StreamSettings()
    journal: Path = Field(default_factory=default_journal)
    """On a local disk, never on a share and never inside a watched folder."""
    identity: Path | None = None
    """The key file that `emcopilot enroll` made; None: where it puts it."""
    events: Literal["native", "off"] = "native"
    """Whether the system's file events may wake the scan; nothing depends on them."""
    include: tuple[str, ...] = INCLUDE
    exclude: tuple[str, ...] = EXCLUDE
    scan_every_s: PositiveFloat = 1.0
    """Names in recently active folders are listed so often."""
    full_scan_every_s: PositiveFloat = 60.0
    """Every file in every folder is looked at so often."""
    revision_still_s: NonNegativeFloat = 5.0
    """A file that changes after it was sealed has to hold still so long."""
    stalled_after_s: PositiveFloat = 60.0
    """An unfinished file that does not move is shown after so long."""


def check_places(settings: AgentSettings) -> None:
    """Refuse folders and a journal that cannot work together.

    Raises
    ------
    ConfigError
        If a watched folder is missing, lies in another or shares its label, or if the
        journal lies on a share or inside a watched folder.
    """
    for folder in settings.watch:
        _check_exists(folder)
    _check_apart(settings.watch)
    journal = settings.journal.resolve()
    for folder in settings.watch:
        if journal.is_relative_to(folder.path.resolve()):
            raise ConfigError(
                f"journal {journal} lies inside the watched folder {folder.path}; "
                "nothing is ever written there: choose another place with --journal"
            )
    if is_network(journal.parent):
        raise ConfigError(
            f"journal {journal} lies on a network drive, where SQLite cannot keep it "
            "safe; choose a local disk with --journal"
        )


def _check_exists(folder: WatchFolder) -> None:
    if folder.path.is_dir() or folder.is_network:
        return  # a share that is away now comes back; a misspelt local path does not
    raise ConfigError(
        f"watched folder {folder.path} is not there; check the spelling, or set "
        "network = true for a share that may be away at start"
    )


def _check_apart(folders: tuple[WatchFolder, ...]) -> None:
    seen: list[WatchFolder] = []
    for folder in folders:
        path = folder.path.resolve()
        for other in seen:
            if other.name.casefold() == folder.name.casefold():
                raise ConfigError(
                    f"two watched folders are called {folder.name!r}: {other.path} and "
                    f"{folder.path}; give one another label"
                )
            above = other.path.resolve()
            if path.is_relative_to(above) or above.is_relative_to(path):
                raise ConfigError(
                    f"{folder.path} and {other.path} lie one inside the other; watch "
                    "only the outer one, folders below it are included"
                )
        seen.append(folder)
