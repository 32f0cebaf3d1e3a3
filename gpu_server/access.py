"""`emcopilot tokens` and `emcopilot keys`: who may read, steer and deliver.

Both work on the data directory itself, beside a running server, which sees a change at once.
"""

# ruff: noqa: T201 - a command line prints
import argparse
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from emcopilot.config import load_settings
from emcopilot.wire import Invitation
from gpu_server import enrolment
from gpu_server.config import ServerSettings
from gpu_server.database import Database
from gpu_server.keys import server_keys
from gpu_server.tables import SCOPES, agents
from gpu_server.tokens import Tokens

_DAY_S = 24 * 3600.0
_WHO = "console"
_ANY_ADDRESS = {"*", "0.0.0.0", "[::]"}


def tokens(argv: list[str]) -> int:
    """Create, list or revoke access tokens; returns 0, or 1 if there was none to revoke."""
    options = _token_parser().parse_args(argv)
    database = Database(_settings(options).data_dir)
    try:
        access = Tokens(database)
        if options.action == "create":
            return _create_token(access, options)
        if options.action == "list":
            return _list_tokens(access, as_json=options.json)
        return _revoked(access.revoke(options.id, who=_WHO), f"token {options.id}")
    finally:
        database.close()


def keys(argv: list[str]) -> int:
    """Invite, list or revoke agents; returns 0, or 1 if there was none to revoke."""
    options = _key_parser().parse_args(argv)
    settings = _settings(options)
    database = Database(settings.data_dir)
    try:
        if options.action == "new":
            return _invite(database, settings, options)
        if options.action == "list":
            return _list_agents(database, as_json=options.json)
        with database.write() as connection:
            ended = enrolment.revoke(connection, options.id, at=time.time())
        return _revoked(ended, f"agent {options.id}")
    finally:
        database.close()


def _token_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot tokens", description="Access tokens for people and scripts."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = _action(actions, "create", "make a token; it is shown once")
    create.add_argument(
        "name", help="whose or what it is for, e.g. 'ada' or 'GMS script'"
    )
    create.add_argument(
        "--scope",
        choices=SCOPES,
        default="viewer",
        help="viewer reads; operator also rejects, calibrates and sends images; admin all",
    )
    create.add_argument(
        "--days", type=_positive, help="valid that long; else until revoked"
    )
    _action(actions, "list", "show all tokens, without their secrets")
    revoke = _action(
        actions, "revoke", "end a token and its browser sessions", json=False
    )
    revoke.add_argument("id", type=int, help="number from `tokens list`")
    return parser


def _key_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot keys", description="The agents that may deliver frames."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = _action(actions, "new", "invite an agent: prints what to paste on its PC")
    new.add_argument("--host", help="name of this server as the microscope PC knows it")
    _action(actions, "list", "show enrolled and revoked agents")
    revoke = _action(actions, "revoke", "refuse an agent from now on", json=False)
    revoke.add_argument("id", type=int, help="number from `keys list`")
    return parser


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    *,
    json: bool = True,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    parser.add_argument("--config", type=Path, help="the server's TOML file")
    parser.add_argument("--data-dir", type=Path, help="the server's data directory")
    if json:
        parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _positive(text: str) -> float:
    days = float(text)
    if not 0 < days < 36_500:
        raise argparse.ArgumentTypeError("days must be more than 0 and less than 36500")
    return days


def _settings(options: argparse.Namespace) -> ServerSettings:
    return load_settings(ServerSettings, options.config, {"data_dir": options.data_dir})


def _create_token(access: Tokens, options: argparse.Namespace) -> int:
    lifetime_s = options.days * _DAY_S if options.days else None
    secret = access.create(options.name, options.scope, lifetime_s=lifetime_s, who=_WHO)
    if options.json:
        print(
            json.dumps({"name": options.name, "scope": options.scope, "token": secret})
        )
    else:
        print(f"{secret}\nKeep it: it cannot be shown again. Scope: {options.scope}.")
    return 0


def _list_tokens(access: Tokens, *, as_json: bool) -> int:
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "scope": row.scope,
            "created": _date(row.created_at),
            "expires": _date(row.expires_at),
            "revoked": _date(row.revoked_at),
        }
        for row in access.rows()
    ]
    _show(rows, as_json=as_json, nothing="no tokens yet")
    return 0


def _list_agents(database: Database, *, as_json: bool) -> int:
    enrolled = (
        sa.select(agents).where(agents.c.public_key.is_not(None)).order_by(agents.c.id)
    )
    with database.read() as connection:
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "host": row.host,
                "seen": _date(row.seen_at),
                "revoked": _date(row.revoked_at),
                "key": row.public_key,
            }
            for row in connection.execute(enrolled)
        ]
    _show(
        rows,
        as_json=as_json,
        nothing="no agents yet; invite one with: emcopilot keys new",
    )
    return 0


def _invite(
    database: Database, settings: ServerSettings, options: argparse.Namespace
) -> int:
    bound, _, port = settings.ingest.enrol_bind.removeprefix("tcp://").rpartition(":")
    host = options.host or (socket.gethostname() if bound in _ANY_ADDRESS else bound)
    with database.write() as connection:
        code = enrolment.new_code(connection, at=time.time())
    invitation = Invitation(
        host=host,
        port=int(port),
        server_key=server_keys(settings.data_dir).public,
        code=code,
    )
    if options.json:
        print(
            json.dumps(
                {"invitation": str(invitation), "valid_s": enrolment.CODE_LIFETIME_S}
            )
        )
        return 0
    print(
        f"On the microscope PC, within ten minutes:\n\n  emcopilot enroll {invitation}\n"
    )
    if bound in {"127.0.0.1", "localhost", "[::1]"}:
        print(
            "Note: the server listens for agents on this machine only; set ingest.bind and "
            "ingest.enrol_bind in server.toml to let others in."
        )
    return 0


def _revoked(ended: bool, what: str) -> int:
    if ended:
        print(f"{what} is revoked")
        return 0
    print(f"there is no {what} that could be revoked", file=sys.stderr)
    return 1


def _show(rows: Sequence[dict[str, object]], *, as_json: bool, nothing: str) -> None:
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        print(nothing)
    else:
        cells = [
            list(rows[0]),
            *([_cell(value) for value in row.values()] for row in rows),
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            padded = (
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    # Names come from outside: no line breaks or terminal commands out of a name.
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def _date(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
