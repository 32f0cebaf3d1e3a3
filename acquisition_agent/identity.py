"""Who this agent is: its CURVE key pair and the one server that it trusts, in one file.

The file is readable by its owner only; on Windows the user's profile folder sees to
that. Whoever holds it can send frames in this agent's name, and no more than that.
"""

import os
from pathlib import Path
from typing import Annotated

import zmq
from pydantic import Field, ValidationError

from acquisition_agent.locations import data_dir
from emcopilot.config import Settings
from emcopilot.errors import ConfigError

_AGAIN = "enrol this PC again: emcopilot enroll STRING"

Z85Key = Annotated[str, Field(min_length=40, max_length=40)]


class Identity(Settings):
    """One agent's keys and its server's address and public key."""

    agent: str
    """The name under which the server lists this PC."""
    server_url: str
    """ZeroMQ address for frames, e.g. tcp://gpu01:5570."""
    server_key: Z85Key
    """The server's CURVE public key: a server without its secret half is not ours."""
    public_key: Z85Key
    secret_key: Annotated[Z85Key, Field(repr=False)]


def default_path() -> Path:
    """Return where `emcopilot enroll` puts the identity."""
    return data_dir() / "agent" / "identity.json"


def new_key_pair() -> tuple[str, str]:
    """Make a CURVE key pair: (public, secret), z85.

    Raises
    ------
    ConfigError
        If this build of ZeroMQ has no CURVE: nothing is ever sent in the clear.
    """
    if not zmq.has("curve"):
        raise ConfigError(
            "this pyzmq has no CURVE encryption; install it with pip, from PyPI"
        )
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def identify(
    socket: zmq.Socket[bytes], server_key: str, public_key: str, secret_key: str
) -> None:
    """Let a socket speak with these keys, and with the holder of `server_key` only."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public_key.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key.encode())


def load_identity(path: Path) -> Identity:
    """Read an identity file.

    Raises
    ------
    ConfigError
        If it is missing, unreadable or damaged; the message says how to enrol.
    """
    try:
        return Identity.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"this PC is not enrolled: there is no identity at {path}; on the server "
            "run `emcopilot keys new`, then here `emcopilot enroll STRING`"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from error
    except ValidationError:
        # Without the cause: its text would show what it read, the secret key included.
        raise ConfigError(f"{path} is damaged; {_AGAIN}") from None


def save_identity(identity: Identity, path: Path) -> None:
    """Write the identity so that only its owner can read it, whole or not at all.

    Raises
    ------
    ConfigError
        If the place cannot be written.
    """
    draft = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)  # O_EXCL: never into a file with other rights
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(identity.model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write the identity {path}: {error.strerror}; choose another place "
            "with --identity FILE"
        ) from error
