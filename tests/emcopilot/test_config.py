from pathlib import Path

import pytest

from emcopilot.config import Settings, load_settings
from emcopilot.errors import ConfigError


class Inner(Settings):
    port: int = 1
    host: str = "here"


class Outer(Settings):
    name: str = "n"
    inner: Inner = Inner()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_command_line_lies_over_the_file_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "file"\n[inner]\nport = 5\n')
    settings = load_settings(Outer, path, {"inner": {"host": "there", "port": None}})
    assert settings == Outer(name="file", inner=Inner(port=5, host="there"))


def test_options_that_were_not_given_leave_the_defaults() -> None:
    assert (
        load_settings(Outer, None, {"name": None, "inner": {"port": None}}) == Outer()
    )


def test_a_misspelt_nested_key_is_named_with_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"inner\.prot: unknown key; did you mean 'port'"
    ):
        load_settings(Outer, write(tmp_path, "[inner]\nprot = 2\n"))


def test_a_value_out_of_range_says_what_it_got(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inner\.port: .*got 'many'"):
        load_settings(Outer, write(tmp_path, '[inner]\nport = "many"\n'))


def test_a_missing_or_broken_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read settings"):
        load_settings(Outer, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(Outer, write(tmp_path, "name = "))
