"""`emcopilot verify`: recompute every hash and every sum, and say PASS or FAIL.

The rows are one consistent state of the database, so that it may run beside a working server.
"""

# ruff: noqa: T201 - a command line prints
import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from emcopilot.config import load_settings
from emcopilot.errors import ConfigError
from gpu_server import checks
from gpu_server.checks import Check, Progress
from gpu_server.config import ServerSettings
from gpu_server.database import Database
from gpu_server.tables import sessions

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one run, and the frames they are about."""

    checks: tuple[Check, ...]
    frames: dict[str, int]
    """By state, over the revisions that count; plus `expected`, their sum by the files."""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against any claim."""
        return not any(check.faults for check in self.checks)


def main(argv: list[str]) -> int:
    """Verify a data directory or one session; returns 0 for PASS, 1 for FAIL."""
    options = _parser().parse_args(argv)
    settings = load_settings(
        ServerSettings, options.config, {"data_dir": options.data_dir}
    )
    database = Database(settings.data_dir, must_exist=True)
    try:
        session_id = _session_id(database, options.session) if options.session else None
        quiet = options.json or not sys.stderr.isatty()
        verdict = verify(database, session_id, _silent if quiet else _show_progress)
    finally:
        database.close()
    print(_as_json(verdict) if options.json else _as_text(verdict))
    return 0 if verdict.passed else 1


def verify(
    database: Database,
    session_id: int | None = None,
    progress: Progress = lambda *_: None,
) -> Verdict:
    """Examine everything, or one session's files, frames and results.

    Raises
    ------
    StoreError
        If the database cannot be read.
    """
    with database.read() as connection:
        stored = checks.files_of(connection, session_id)
        account = checks.frame_account(connection, session_id, stored)
        made = [
            checks.files_once(stored),
            checks.pages(connection, stored),
            checks.frames_accounted(connection, session_id),
            checks.frames_balance(account),
            checks.results_once(connection, session_id),
            checks.results_complete(connection, session_id),
        ]
        if session_id is None:
            made += checks.agents_balance(connection, stored)
            made.append(checks.database_sound(connection))
    made.append(checks.bytes_right(database.data_dir, stored, progress))
    return Verdict(tuple(made), account)


def _session_id(database: Database, wanted: str) -> int:
    """Find a session by number, folder or name; ConfigError if none or several fit."""
    query = sa.select(sessions.c.id).where(
        sa.or_(
            sessions.c.folder == wanted,
            sessions.c.name == wanted,
            sa.cast(sessions.c.id, sa.String) == wanted,
        )
    )
    with database.read() as connection:
        found = connection.scalars(query).all()
    if len(found) != 1:
        many = (
            f"sessions {', '.join(map(str, found))} fit"
            if found
            else "no session is called"
        )
        raise ConfigError(f"{many} {wanted!r}; give the number of one")
    return found[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot verify",
        description="Recompute all hashes and accounts: nothing lost, nothing counted twice.",
    )
    parser.add_argument(
        "session", nargs="?", help="number, folder or name; default: all"
    )
    parser.add_argument("--config", type=Path, help="the server's TOML file")
    parser.add_argument("--data-dir", type=Path, help="the server's data directory")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _as_json(verdict: Verdict) -> str:
    made = [
        {
            "claim": check.claim,
            "passed": not check.faults,
            "examined": check.examined,
            "faults": list(check.faults),
        }
        for check in verdict.checks
    ]
    word = "PASS" if verdict.passed else "FAIL"
    return json.dumps({"verdict": word, "frames": verdict.frames, "checks": made})


def _as_text(verdict: Verdict) -> str:
    lines = []
    for check in verdict.checks:
        word = "FAIL" if check.faults else "ok"
        lines.append(f"{word:4}  {check.claim} ({check.examined} examined)")
        lines += [f"      {_printable(fault)}" for fault in check.faults[:_SHOWN]]
        if len(check.faults) > _SHOWN:
            lines.append(
                f"      and {len(check.faults) - _SHOWN} more; --json lists them"
            )
    account = dict(verdict.frames)
    expected = account.pop("expected")
    states = " + ".join(f"{count} {state}" for state, count in account.items())
    lines += [
        f"{expected} frames expected = {states}",
        "PASS" if verdict.passed else "FAIL",
    ]
    return "\n".join(lines)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _silent(_done: int, _total: int) -> None:
    pass


def _show_progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(
        f"\rreading files again: {done}/{total}", end=end, file=sys.stderr, flush=True
    )
