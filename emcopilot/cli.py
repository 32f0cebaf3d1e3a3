"""The one command line; a program is imported only when its command runs."""

import importlib
import sys
from typing import NamedTuple

from emcopilot import __version__
from emcopilot.errors import EMcopilotError


class Command(NamedTuple):
    """Where a command lives and what the overview says of it."""

    entry: str
    """module:function; the function takes the arguments and returns the exit status."""
    summary: str


COMMANDS = {
    "demo": Command("gpu_server.demo:main", "server, agent and virtual microscope together"),
    "serve": Command("gpu_server.__main__:main", "the GPU server: ingest, REST, live page"),
    "agent": Command("acquisition_agent.__main__:main", "watch a folder and send every frame"),
    "simulate": Command("emcopilot.virtual_microscope:main", "write frames with known truth"),
    "segment": Command("gpu_server.offline:main", "outline and measure files without a server"),
    "inspect": Command("emcopilot.inspect:main", "say what a file is, or why it is refused"),
    "evaluate": Command("models.evaluate:main", "score a model against masks"),
    "train": Command("models.train_segmenter:main", "train NPsSegNet from labelled images"),
    "adapt": Command("models.adapt_command:main", "learn a new imaging domain without a label"),
    "models": Command("gpu_server.model_command:main", "what may be live: list, promote, import"),
    "enroll": Command("acquisition_agent.enroll:main", "introduce this PC to a server"),
    "keys": Command("gpu_server.access:keys", "enrolled agents: new, list, revoke"),
    "tokens": Command("gpu_server.access:tokens", "access tokens: create, list, revoke"),
    "verify": Command("gpu_server.verify:main", "prove that nothing is lost or counted twice"),
    "bench": Command("gpu_server.bench:main", "the performance figures of the README"),
}  # fmt: skip

OK, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns 0 when it worked, 1 when it failed, 2 for bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(overview())
        return OK if arguments else BAD_USAGE
    if arguments[0] in {"-V", "--version"}:
        print(f"emcopilot {__version__}")
        return OK
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"emcopilot: no command {name!r}\n\n{overview()}", file=sys.stderr)
        return BAD_USAGE
    return run(COMMANDS[name], name, rest)


def run(command: Command, name: str, arguments: list[str]) -> int:
    """Import the command's program and run it, with errors said in one line."""
    module_name, function_name = command.entry.split(":")
    try:
        entry = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        print(
            f"emcopilot {name}: needs the Python package {error.name!r}, which is not "
            "installed; on the GPU server install with: pip install '.[server]'",
            file=sys.stderr,
        )
        return FAILED
    try:
        return entry(arguments)
    except EMcopilotError as error:
        print(f"emcopilot {name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


def overview() -> str:
    """Return the text of `emcopilot --help`."""
    width = max(map(len, COMMANDS))
    lines = [
        f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()
    ]
    return "\n".join(
        ["usage: emcopilot COMMAND [options]   (COMMAND --help says more)", "", *lines]
    )


if __name__ == "__main__":
    sys.exit(main())
