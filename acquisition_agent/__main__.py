"""`emcopilot agent`: watch folders on this PC and send every frame to the server."""

import argparse
import dataclasses
import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from acquisition_agent.agent import Agent
from acquisition_agent.config import AgentSettings, check_places, default_journal
from acquisition_agent.files import Counts, Problem
from acquisition_agent.identity import default_path, load_identity
from acquisition_agent.journal import Journal
from acquisition_agent.stream import Stream
from acquisition_agent.windows import step_back
from emcopilot.config import load_settings
from emcopilot.errors import ConfigError, EMcopilotError

OK, FAILED = 0, 1
_ONCE_LOOK_S = 0.2


def main(argv: list[str]) -> int:
    """Run the agent until it is stopped, or print its accounts."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        stream=sys.stderr,
    )
    if arguments.status:
        return _print_status(arguments.journal, arguments.config, arguments.json)
    settings = load_settings(AgentSettings, arguments.config, _overrides(arguments))
    check_places(settings)
    identity = load_identity(settings.identity or default_path())
    step_back()
    with Journal(settings.journal) as journal:
        stream = Stream(journal, settings.stream, identity)
        agent = Agent(settings, journal, stream)
        _stop_at_signals(agent)
        if arguments.once:
            _stop_when_done(agent, journal)
        _greet(settings)
        stream.start()
        try:
            agent.run()
        finally:
            stream.stop()
        counts = journal.counts()
    print(_sentence(counts))
    return FAILED if arguments.once and counts.pending else OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emcopilot agent", description=__doc__)
    add = parser.add_argument
    add("--watch", action="append", type=Path, metavar="DIR", help="a folder to watch")
    add("--server", metavar="ADDRESS", help="HOST or HOST:PORT, if not as enrolled")
    add("--config", type=Path, metavar="FILE", help="agent.toml")
    add("--journal", type=Path, metavar="FILE", help="on a local disk")
    add("--identity", type=Path, metavar="FILE", help="key file made by enroll")
    add("--label", metavar="NAME", help="the watched folder's name on the server")
    add("--events", choices=("native", "off"), help="off: find files by scanning alone")
    add("--once", action="store_true", help="send what is there, then end")
    add("--status", action="store_true", help="print the accounts and end")
    add("--json", action="store_true", help="with --status: for programs")
    add("--verbose", action="store_true")
    return parser


def _overrides(arguments: argparse.Namespace) -> dict[str, object]:
    folders: list[Path] | None = arguments.watch
    if arguments.label and (folders is None or len(folders) != 1):
        raise ConfigError("--label goes with one --watch; name several in agent.toml")
    if folders is None and arguments.config is None:
        raise ConfigError("no folder to watch; give --watch DIR or --config agent.toml")
    watch = folders and [{"path": path, "label": arguments.label} for path in folders]
    return {
        "watch": watch,
        "stream": {"server_url": arguments.server} if arguments.server else None,
        "journal": arguments.journal,
        "identity": arguments.identity,
        "events": arguments.events,
    }


def _stop_at_signals(agent: Agent) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # the last on Windows alone
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, lambda _number, _frame: agent.stop())


def _stop_when_done(agent: Agent, journal: Journal) -> None:
    """End the agent once every file is stored, given up, or held up by something."""

    def look() -> None:
        is_done = False
        while not is_done:
            time.sleep(_ONCE_LOOK_S)  # nothing tells: it is about two threads at once
            status = agent.status()
            counts = journal.counts()
            late = sum(1 for p in journal.problems(counts.pending) if _waits(p))
            is_done = status.is_ready and counts.pending <= late
        agent.stop()

    threading.Thread(target=look, name="once", daemon=True).start()


def _waits(problem: Problem) -> bool:
    return not problem.text.startswith(("vanished", "unreadable", "rejected"))


def _greet(settings: AgentSettings) -> None:
    for folder in settings.watch:
        kind = "share" if folder.is_network else "folder"
        print(f"watching {kind} {folder.path} as {folder.name!r}")
    print(f"journal {settings.journal}; stop with Ctrl-C, nothing is lost", flush=True)


def _print_status(journal: Path | None, config: Path | None, as_json: bool) -> int:
    """Print the accounts, beside a running agent or after it."""
    if journal is None:
        journal = (
            load_settings(AgentSettings, config).journal
            if config
            else default_journal()
        )
    if not journal.exists():
        print(f"no journal at {journal}: no agent has run here", file=sys.stderr)
        return FAILED
    with Journal(journal, read_only=True) as book:
        counts, problems = book.counts(), book.problems()
    if as_json:
        report = dataclasses.asdict(counts)
        report["problems"] = [dataclasses.asdict(problem) for problem in problems]
        print(json.dumps(report, indent=2))
        return OK
    print(_sentence(counts))
    for problem in problems:
        print(f"  {problem.source_key}: {problem.text}")
    return OK


def _sentence(counts: Counts) -> str:
    sentence = (
        f"{counts.discovered} files discovered = {counts.stored} stored + "
        f"{counts.pending} pending + {counts.vanished} vanished + "
        f"{counts.rejected} rejected"
    )
    if counts.oldest_unsent_s:
        sentence += f"; the oldest has waited {counts.oldest_unsent_s:.0f} s to be sent"
    return sentence


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EMcopilotError as error:
        print(f"emcopilot agent: {error}", file=sys.stderr)
        sys.exit(FAILED)
