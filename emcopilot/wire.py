"""EMC1: what the microscope PC and the server say to each other, as bytes and back.

A message is a list of parts: the tag b"EMC1", the message's name, one JSON header of at
most 64 kB and, for CHUNK alone, a payload of at most 1 MiB::

    agent                          server
    HELLO journal, report    ->
                             <-    WELCOME                      or REFUSED (key revoked)
    OFFER names, sha256      ->
                             <-    NEED send [offset, upto)     or STORED, already here
    CHUNK offset + bytes     ->
                             <-    NEED a higher upto ... and at last
                             <-    STORED on disk and committed
                             <-    RETRY lost | mismatch        or REFUSED for good
                             <-    REFUSED journal_reused: HELLO with a new journal
    GONE vanished, changed   ->
                             <-    GONE_OK
    PING report              ->
                             <-    PONG paused, because ...
                             <-    RESET who are you? (say HELLO)

NEED is the only credit. `upto` counts from the start of the file, so a lost or repeated
grant does no harm, and what a server allows is what it has room for. Only STORED means
stored. This module knows bytes, not sockets.
"""

import base64
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from emcopilot.errors import ConfigError, WireError

BytesLike = bytes | bytearray | memoryview

TAG = b"EMC1"
HEADER_BYTES = 64 * 2**10
CHUNK_BYTES = 2**20
NAME_BYTES = 1024
ITEMS = 24
"""Files in one OFFER or GONE: with the longest names they still fit one header."""


def checked_source_key(name: str) -> str:
    """Return `name` if it can travel, be stored and be shown; ValueError otherwise.

    A source key is data, never a path: nobody opens it. Control characters could still
    forge log lines, and lone surrogates (a Linux name that is not UTF-8) break JSON.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError("the name is not valid Unicode") from error
    if not 0 < size <= NAME_BYTES:
        raise ValueError(f"the name has {size} bytes, allowed are 1 to {NAME_BYTES}")
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError("the name holds a control character")
    if not unicodedata.is_normalized("NFC", name):
        raise ValueError("the name is not in Unicode form NFC")
    return name


def shown_name(name: str) -> str:
    """Return a source key that travels even if `name` cannot: made safe and cut."""
    text = name.encode(errors="backslashreplace").decode()
    text = "".join("\N{REPLACEMENT CHARACTER}" if ord(c) < 32 else c for c in text)
    text = re.sub(r"[\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)
    cut = unicodedata.normalize("NFC", text).encode()[:NAME_BYTES]
    return cut.decode(errors="ignore") or "?"


Count = Annotated[int, Field(ge=0, lt=2**53)]  # exact in every JSON reader
Number = Annotated[int, Field(ge=1, lt=2**53)]
SourceKey = Annotated[str, AfterValidator(checked_source_key)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Journal = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Seconds = Annotated[float, Field(ge=0, lt=2**53)]
Sentence = Annotated[str, Field(max_length=500)]
Label = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""One line: it is shown in logs."""
GoneReason = Literal["vanished", "changed", "unreadable", "rejected"]


class _Header(BaseModel):
    # strict: "7" is not 7. extra: an unknown key means another protocol, not a guess.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


class Message(_Header):
    """Base of every message; `name` is its second part on the wire."""

    name: ClassVar[str]


class FileHeader(_Header):
    """One sealed file: who it is and which bytes it promises."""

    seq: Number
    """Given by the agent's journal when the file was first sealed; never reused."""
    rev: Number
    """Counts overwrites of the same file."""
    source_key: SourceKey
    size: Number
    """Bytes; an empty file is never complete, so it is never sent."""
    sha256: Sha256
    mtime_ns: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    sealed_at: Seconds
    """Agent's clock, seconds since 1970: for display, never for order."""


class Need(_Header):
    """The server may be sent this file's bytes from `offset` up to `upto`."""

    seq: Number
    rev: Number
    offset: Count
    upto: Count


class GoneItem(_Header):
    """A file that will never be sent, by name, with the reason."""

    seq: Number
    rev: Number
    source_key: SourceKey
    reason: GoneReason


class Report(_Header):
    """The agent's own account of its files, and what troubles it."""

    discovered: Count = 0
    stored: Count = 0
    pending: Count = 0
    vanished: Count = 0
    rejected: Count = 0
    pending_bytes: Count = 0
    oldest_unsent_s: Seconds = 0.0
    problems: Annotated[tuple[Sentence, ...], Field(max_length=8)] = ()


Item = tuple[Number, Number]
"""(seq, rev)"""
Items = Annotated[tuple[Item, ...], Field(min_length=1, max_length=1024)]


class Hello(Message):
    """The agent is here, with this journal; whatever was in flight is forgotten."""

    name = "HELLO"
    journal: Journal
    host: Label
    agent_version: Label
    report: Report = Report()


class Welcome(Message):
    """The server listens."""

    name = "WELCOME"
    server_version: Label
    paused: Sentence | None = None
    notice: Sentence | None = None


class Offer(Message):
    """Files ready to be sent."""

    name = "OFFER"
    files: Annotated[tuple[FileHeader, ...], Field(min_length=1, max_length=ITEMS)]


class NeedBytes(Message):
    """The server's credit, file by file."""

    name = "NEED"
    files: Annotated[tuple[Need, ...], Field(min_length=1, max_length=512)]


class Chunk(Message):
    """A piece of one file; the payload is its bytes from `offset`."""

    name = "CHUNK"
    seq: Number
    rev: Number
    offset: Count


class Stored(Message):
    """On disk, committed: the agent may forget these."""

    name = "STORED"
    items: Items


class Retry(Message):
    """Not stored: `lost` offer it again, `mismatch` the bytes are not those promised."""

    name = "RETRY"
    seq: Number
    rev: Number
    reason: Literal["lost", "mismatch"]


class Refused(Message):
    """No, and trying again will not help: one file, or the agent as a whole."""

    name = "REFUSED"
    code: Literal[
        "key_unknown", "file_too_large", "bad_message", "bad_code", "journal_reused"
    ]
    reason: Sentence
    seq: Number | None = None
    rev: Number | None = None


class Gone(Message):
    """Files that will never be sent."""

    name = "GONE"
    items: Annotated[tuple[GoneItem, ...], Field(min_length=1, max_length=ITEMS)]


class GoneOk(Message):
    """These are on record as gone."""

    name = "GONE_OK"
    items: Items


class Ping(Message):
    """The agent lives, and this is its account."""

    name = "PING"
    report: Report


class Pong(Message):
    """The server lives; sent in answer to PING and whenever what it says changes."""

    name = "PONG"
    paused: Sentence | None = None
    """Why nothing may be offered just now."""
    notice: Sentence | None = None
    """What the operator should know, while everything else goes on."""


class Reset(Message):
    """The server does not know this connection: say HELLO."""

    name = "RESET"


class Enrol(Message):
    """A new agent shows its one-time code; its key is the connection's own."""

    name = "ENROL"
    code: Label
    host: Label


class Enrolled(Message):
    """The key is known from now on; files go to `data_port` of the same host."""

    name = "ENROLLED"
    agent: Label
    data_port: Annotated[int, Field(ge=1, le=65535)]


_MESSAGES: dict[bytes, type[Message]] = {
    kind.name.encode(): kind
    for kind in (
        Hello, Welcome, Offer, NeedBytes, Chunk, Stored, Retry, Refused,
        Gone, GoneOk, Ping, Pong, Reset, Enrol, Enrolled,
    )
}  # fmt: skip


def encode(message: Message, payload: BytesLike | None = None) -> list[BytesLike]:
    """Return the parts of `message`; the payload is passed on, not copied."""
    header = message.model_dump_json(exclude_defaults=True).encode()
    parts: list[BytesLike] = [TAG, message.name.encode(), header]
    if payload is not None:
        parts.append(payload)
    return parts


def decode(parts: Sequence[BytesLike]) -> tuple[Message, memoryview]:
    """Read one message.

    Parameters
    ----------
    parts : sequence of bytes-like
        As received, without the routing id.

    Returns
    -------
    message, payload : Message, memoryview
        The payload is a view of the last part; empty unless the message is a CHUNK.

    Raises
    ------
    WireError
        Whatever is wrong: nothing that arrives can raise anything else.
    """
    if not 3 <= len(parts) <= 4:
        raise WireError(f"a message has 3 or 4 parts, got {len(parts)}")
    views = [memoryview(part) for part in parts]
    if bytes(views[0][:16]) != TAG:
        raise WireError("not an EMC1 message; agent and server versions may differ")
    kind = _MESSAGES.get(bytes(views[1][:16]))
    if kind is None:
        raise WireError(f"unknown message {bytes(views[1][:16])!r}")
    if views[2].nbytes > HEADER_BYTES:
        raise WireError(
            f"{kind.name}: header of {views[2].nbytes} bytes, at most 64 kB"
        )
    payload = views[3] if len(views) == 4 else memoryview(b"")
    if (kind is Chunk) != (0 < payload.nbytes <= CHUNK_BYTES and len(views) == 4):
        raise WireError(f"{kind.name} with a payload of {payload.nbytes} bytes")
    if kind is not Chunk and len(views) == 4:
        raise WireError(f"{kind.name} carries no payload")
    try:
        return kind.model_validate_json(bytes(views[2])), payload
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WireError(f"{kind.name}: {where}: {first['msg']}") from error


class Invitation(_Header):
    """What a person pastes on the microscope PC to enrol it; valid for ten minutes.

    As text: emc1:HOST:PORT:KEY:CODE, of letters that no shell treats specially: the
    server's z85 key holds $ & ! and %, so it is written in base64.
    """

    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]+$|^\[[0-9a-fA-F:.]+\]$")]
    port: Annotated[int, Field(ge=1, le=65535)]
    server_key: Annotated[str, Field(min_length=40, max_length=40)]
    """CURVE public key of the server, z85."""
    code: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{8,64}$")]

    def __str__(self) -> str:
        key = base64.urlsafe_b64encode(self.server_key.encode()).decode().rstrip("=")
        return f"emc1:{self.host}:{self.port}:{key}:{self.code}"

    @classmethod
    def parse(cls, text: str) -> "Invitation":
        """Read the pasted text; ConfigError says what to paste instead."""
        try:
            tag, rest = text.strip().strip("\"'").split(":", 1)
            front, key, code = rest.rsplit(":", 2)
            host, port = front.rsplit(":", 1)
            if tag != "emc1":
                raise ValueError("it does not begin with emc1:")
            server_key = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)).decode()
            return cls(host=host, port=int(port), server_key=server_key, code=code)
        except ValueError as error:  # ValidationError is one
            raise ConfigError(
                "this is not an enrolment string (emc1:HOST:PORT:KEY:CODE); copy the "
                "whole line that the server printed or showed under 'Add microscope'"
            ) from error
