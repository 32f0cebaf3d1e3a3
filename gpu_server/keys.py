"""Who may speak to this server: its own CURVE keys, and the gate that knows the agents.

Three traps that this module is built around. CURVE without a ZAP handler lets every key
in: hence our own handler, a ZAP domain on every socket, and ZAP_ENFORCE_DOMAIN. pyzmq's
authenticator opens all domains when one of them allows any key: hence one decision per
domain and nothing global. Keys arrive as 32 raw bytes and are z85-encoded once, here.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
from pydantic import Field
from zmq.utils import z85

from emcopilot.config import Settings
from emcopilot.errors import ConfigError, EMcopilotError

log = logging.getLogger(__name__)

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # fixed by ZeroMQ RFC 27
_ZAP_VERSION = b"1.0"


class ServerKeys(Settings):
    """The server's CURVE key pair, z85."""

    public: str
    secret: str = Field(repr=False)


def server_keys(data_dir: Path) -> ServerKeys:
    """Return the server's keys; the first call makes them, readable by the owner only.

    Raises
    ------
    ConfigError
        If the file cannot be read or made, is damaged, or others may read it.
    """
    path = data_dir / "server_key.json"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _make(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ConfigError(f"others can read {path}; run: chmod 600 {path}")
        return ServerKeys.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}") from error
    except ValueError:
        # Without the cause: its text would show what was read.
        raise ConfigError(
            f"{path} is damaged; restore it, or remove it and enrol every agent again"
        ) from None


def _make(path: Path) -> None:
    if not zmq.has("curve"):
        raise ConfigError("this pyzmq has no CURVE encryption; install it from PyPI")
    public, secret = zmq.curve_keypair()
    keys = ServerKeys(public=public.decode(), secret=secret.decode())
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(keys.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # unlike a rename, never over the keys of a rival process
    except FileExistsError:
        log.info("server keys made meanwhile path=%s", path)
    finally:
        draft.unlink()


Admission = Callable[[str], bool]
"""Whether a key (z85) may connect."""


class Gate:
    """Answers what ZeroMQ asks for every handshake: whether this key may come in.

    It fails closed: without its thread no handshake completes, and a domain that it
    does not know admits nobody.

    Parameters
    ----------
    context : zmq.Context
        The context of the sockets to be guarded; it can have one gate only.
    domains : mapping
        For each ZAP domain, whom to admit; called in the gate's thread.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], domains: Mapping[str, Admission]
    ) -> None:
        self._domains = {name.encode(): admit for name, admit in domains.items()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.rcvtimeo = 200  # ms between looks at the stop flag
        self._socket.bind(_ZAP_ENDPOINT)
        self.refused = 0
        """Handshakes refused since the start."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether new connections can be made."""
        return self._thread.is_alive()

    def _run(self) -> None:
        with self._socket:
            while not self._stopping.is_set():
                try:
                    request = self._socket.recv_multipart()
                except zmq.Again:
                    continue
                self._socket.send_multipart(self._answer(request))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        # RFC 27: version, request id, domain, address, routing id, mechanism, credentials
        request_id = request[1] if len(request) > 1 else b""
        key = self._admitted(request)
        if key is None:
            self.refused += 1
            return [_ZAP_VERSION, request_id, b"400", b"key not enrolled", b"", b""]
        # The user id comes with every message of the connection: the agent's identity.
        return [_ZAP_VERSION, request_id, b"200", b"OK", key.encode(), b""]

    def _admitted(self, request: list[bytes]) -> str | None:
        if len(request) != 7 or request[0] != _ZAP_VERSION or request[5] != b"CURVE":
            return None
        domain, address, credentials = request[2], request[3], request[6]
        admit = self._domains.get(domain)
        if admit is None or len(credentials) != 32:
            return None
        key = z85.encode(credentials).decode()
        try:
            is_admitted = admit(key)
        except EMcopilotError as error:  # the database is busy or broken: closed
            log.warning("handshake refused error=%s", error)
            return None
        except Exception:
            # The border: without this thread no agent would ever connect again.
            log.exception("handshake refused")
            return None
        if not is_admitted:
            log.warning("handshake refused key=%s address=%r", key, address)
        return key if is_admitted else None


def guard(socket: zmq.Socket[bytes], keys: ServerKeys, domain: str) -> None:
    """Make a socket CURVE server whose every handshake asks the gate."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def bind(socket: zmq.Socket[bytes], address: str, setting: str) -> str:
    """Bind a socket; return its real address, for port 0 or * lets the system choose.

    Raises
    ------
    ConfigError
        If it cannot; the message names the address and the setting to change.
    """
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        why = "the port is in use" if error.errno == zmq.EADDRINUSE else str(error)
        raise ConfigError(
            f"cannot listen on {address}: {why}; stop the other program (an EMcopilot "
            f"server that still runs?) or set another address: {setting} in server.toml"
        ) from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
