"""`emcopilot enroll STRING`: introduce this PC to a server, once.

The key pair is made here and its secret half never leaves this PC. The pasted string
holds the server's public key, so the code is shown to that server and to nobody else.
"""

import argparse
import socket
import sys
from pathlib import Path

import zmq
from pydantic import ValidationError

from acquisition_agent.identity import (
    Identity,
    default_path,
    identify,
    new_key_pair,
    save_identity,
)
from emcopilot import wire
from emcopilot.errors import ConfigError, WireError
from emcopilot.wire import Invitation

ANSWER_S = 10.0


def enrol(invitation: Invitation, *, name: str, answer_s: float = ANSWER_S) -> Identity:
    """Show the one-time code to the server that the invitation names.

    Parameters
    ----------
    invitation : Invitation
        What the server printed.
    name : str
        Under which the server lists this PC.
    answer_s : float
        How long to wait for the server.

    Raises
    ------
    ConfigError
        If no server answers, it is another one, or it refuses the code.
    """
    public, secret = new_key_pair()
    try:
        question = wire.Enrol(code=invitation.code, host=name)
    except ValidationError as error:
        raise ConfigError(
            f"a name is one line of at most 200 characters, not {name[:40]!r}"
        ) from error
    answer = _ask(invitation, question, public, secret, answer_s)
    if isinstance(answer, wire.Refused):
        raise ConfigError(answer.reason)
    if not isinstance(answer, wire.Enrolled):
        raise ConfigError(
            f"the server answered {answer.name}; are both of one version?"
        )
    return Identity(
        agent=answer.agent,
        server_url=f"tcp://{invitation.host}:{answer.data_port}",
        server_key=invitation.server_key,
        public_key=public,
        secret_key=secret,
    )


def _ask(
    invitation: Invitation,
    question: wire.Enrol,
    public: str,
    secret: str,
    answer_s: float,
) -> wire.Message:
    address = f"tcp://{invitation.host}:{invitation.port}"
    with (
        zmq.Context[zmq.Socket[bytes]]() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.MAXMSGSIZE, wire.HEADER_BYTES)
        identify(dealer, invitation.server_key, public, secret)
        dealer.connect(address)
        dealer.send_multipart(wire.encode(question))
        if not dealer.poll(int(answer_s * 1000)):
            raise ConfigError(
                f"no answer from {address} within {answer_s:.0f} s; is the server running, "
                "does a firewall block the port, and is the string from this server?"
            )
        try:
            answer, _ = wire.decode(dealer.recv_multipart())
        except WireError as error:
            raise ConfigError(f"{address} is no EMcopilot server: {error}") from error
        return answer


def main(argv: list[str]) -> int:
    """Enrol this PC; say what to do next."""
    options = _parser().parse_args(argv)
    path: Path = options.identity or default_path()
    if path.exists() and not options.replace:
        raise ConfigError(
            f"this PC is enrolled already ({path}); add --replace to enrol it anew"
        )
    # Asked for only when not given: a prompt spares people the quoting of their shell.
    text: str = options.string or input("Paste the enrolment string: ")
    identity = enrol(Invitation.parse(text), name=options.name)
    save_identity(identity, path)
    sys.stdout.write(
        f"Enrolled as {identity.agent!r} with the server at {identity.server_url}.\n"
        f"The key is in {path}; keep it on this PC.\n"
        "Now start the agent:  emcopilot agent FOLDER\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot enroll",
        description="Introduce this PC to a server with the string that `emcopilot keys "
        "new` prints there.",
    )
    parser.add_argument(
        "string", nargs="?", help="emc1:HOST:PORT:KEY:CODE; asked for if absent"
    )
    parser.add_argument(
        "--name", default=socket.gethostname(), help="how the server lists this PC"
    )
    parser.add_argument("--identity", type=Path, help="where to keep the key")
    parser.add_argument(
        "--replace", action="store_true", help="forget the key that is there"
    )
    return parser
