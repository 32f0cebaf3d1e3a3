import importlib
import subprocess
import sys

import pytest

from emcopilot import cli


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.OK
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


def test_no_command_is_bad_usage() -> None:
    assert cli.main([]) == cli.BAD_USAGE
    assert cli.main(["fly"]) == cli.BAD_USAGE


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_has_help(name: str) -> None:
    module, function = cli.COMMANDS[name].entry.split(":")
    entry = getattr(importlib.import_module(module), function)
    with pytest.raises(SystemExit) as stop:
        entry(["--help"])
    assert stop.value.code == 0


def test_the_command_line_itself_imports_no_program() -> None:
    code = (
        "import sys, emcopilot.cli; "
        "print([m for m in ('numpy', 'torch', 'zmq', 'fastapi') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
