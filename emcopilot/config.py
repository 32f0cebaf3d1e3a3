"""TOML files into frozen settings; a misspelt key is an error at start."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from emcopilot.errors import ConfigError


class Settings(BaseModel):
    """Base of every program's settings: frozen, and no key goes unnoticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def default_data_dir() -> Path:
    """Return where a server's database, frames, keys and models lie unless settings say else."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "emcopilot"


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    kind: type[SettingsT],
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    base: Mapping[str, object] | None = None,
) -> SettingsT:
    """Read one TOML file, lay command-line overrides over it, and check the whole.

    Parameters
    ----------
    kind : type
        The settings class to fill.
    path : Path, optional
        TOML file; without one, defaults and `overrides` alone decide.
    overrides : mapping, optional
        Values given on the command line, by field name; None values are skipped.
        A nested mapping is laid over the table of the same name.
    base : mapping, optional
        Values that the file is laid over, in place of the class's defaults.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or a key is unknown, missing or out of
        range; the message names the key and, for a misspelt one, the nearest known.
    """
    merged: dict[str, object] = {}
    for layer in (base or {}, read_toml(path) if path else {}, overrides or {}):
        _overlay(merged, layer)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        source = str(path) if path else "the command line"
        raise ConfigError(_explain(kind, error, source)) from error


def _overlay(target: dict[str, object], extra: Mapping[str, object]) -> None:
    for key, value in extra.items():
        if isinstance(value, Mapping):
            table = target.setdefault(key, {})
            if isinstance(table, dict):
                _overlay(table, value)  # pyright: ignore[reportUnknownArgumentType]
        elif value is not None:
            target[key] = value


def read_toml(path: Path) -> dict[str, object]:
    """Read a TOML file as it is.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read settings {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _explain(kind: type[Settings], error: ValidationError, source: str) -> str:
    lines = [f"{source}: {error.error_count()} setting(s) to correct"]
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        line = f"  {name}: {problem['msg']}"
        if problem["type"] == "extra_forbidden":
            line = f"  {name}: unknown key{_nearest(kind, problem['loc'])}"
        elif problem["type"] != "missing":
            line += f" (got {problem['input']!r})"
        lines.append(line)
    return "\n".join(lines)


def _nearest(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    for part in location[:-1]:
        field = kind.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        kind = annotation
    close = difflib.get_close_matches(str(location[-1]), list(kind.model_fields), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
