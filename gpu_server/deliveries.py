"""What an agent hands over: a file, the news that one will never come, and what is here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """One acquired file whose bytes lie, synced, under their hash."""

    agent_id: int
    journal: str
    """Id of the agent's journal; `seq` counts within it."""
    seq: int
    rev: int
    """From 1; the same `seq` with a higher one replaces it."""
    source_key: str
    """`<root label>/<relative path>`; a name, never a path of this machine."""
    size: int
    sha256: str
    mtime_ns: int
    sealed_at: float
    """Unix time by the agent's clock at which the file was proven complete."""
    received_at: float
    """Unix time by the server's clock of the first byte."""


@dataclass(frozen=True, slots=True)
class GoneItem:
    """A file that the agent saw but will never deliver, and why."""

    seq: int
    rev: int
    source_key: str
    reason: str
    """vanished | changed | unreadable | rejected."""


@dataclass(frozen=True, slots=True)
class StoredRange:
    """Files `first_seq` to `last_seq`, both included, stored in revision `rev`."""

    rev: int
    first_seq: int
    last_seq: int
