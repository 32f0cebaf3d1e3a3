"""`emcopilot models`: list, show, promote, roll back, import, export and delete models.

It asks the running server; with --data-dir it works on the data directory itself, where promoting
and deleting are left to the server: they concern what is live.
"""

# ruff: noqa: T201 - a command line prints
import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from emcopilot.client import Client, ServerError
from emcopilot.config import load_settings
from emcopilot.errors import ConfigError, EMcopilotError
from gpu_server.config import ServerSettings
from gpu_server.database import Database
from gpu_server.inference_child import InferenceSpec
from gpu_server.model_desk import export_model, import_model
from gpu_server.model_files import CARD_FILE
from gpu_server.registry import Registry
from gpu_server.side_segmenter import SideSegmenter

Row = dict[str, Any]

_WHO = "console"


def main(argv: list[str]) -> int:
    """Run `emcopilot models`; returns 0, or 1 if the server or the registry refused."""
    options = _parser().parse_args(argv)
    try:
        if options.data_dir or options.config:
            return _offline(options)
        return _ACTIONS[options.action](Client(options.url), options)
    except (ServerError, LookupError) as error:
        raise EMcopilotError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot models", description="The models that a server may run."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "list", "show the models, and which one is live")
    show = _action(actions, "show", "show one model's card and history")
    show.add_argument("model_id")
    promote = _action(actions, "promote", "make a model live")
    promote.add_argument("model_id")
    promote.add_argument(
        "--override",
        action="store_true",
        help="although something speaks against it, as `show` says; give the --reason",
    )
    promote.add_argument("--reason", default="", help="goes into the audit")
    back = _action(actions, "rollback", "make the model before the last promotion live")
    back.add_argument("--reason", default="", help="goes into the audit")
    taken = _action(
        actions, "import", "take a model from an archive; it is tested first"
    )
    taken.add_argument("file", type=Path)
    export = _action(actions, "export", "write a model to an archive")
    export.add_argument("model_id")
    export.add_argument("file", type=Path, nargs="?", help="default: MODEL_ID.zip here")
    delete = _action(actions, "delete", "take a model's files away; its results stay")
    delete.add_argument("model_id")
    return parser


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8765",
        help="the server (default: %(default)s); EMCOPILOT_TOKEN holds the token",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="work on this data directory, without a server"
    )
    parser.add_argument(
        "--config", type=Path, help="the same, from a server's TOML file"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


# With a server


def _list(client: Client, options: argparse.Namespace) -> int:
    _show_rows(client.models(), as_json=options.json)
    return 0


def _show(client: Client, options: argparse.Namespace) -> int:
    _show_one(client.model(options.model_id), as_json=options.json)
    return 0


def _promote(client: Client, options: argparse.Namespace) -> int:
    change = client.promote(
        options.model_id, override=options.override, reason=options.reason
    )
    _say(f"{change['model_id']} is live", change, as_json=options.json)
    return 0


def _rollback(client: Client, options: argparse.Namespace) -> int:
    change = client.rollback(reason=options.reason)
    _say(f"{change['model_id']} is live again", change, as_json=options.json)
    return 0


def _import(client: Client, options: argparse.Namespace) -> int:
    _require_file(options.file)
    answer = client.import_model(str(options.file))
    _say(f"{answer['model_id']} is imported", answer, as_json=options.json)
    return 0


def _export(client: Client, options: argparse.Namespace) -> int:
    target = _target(options)
    size = client.export_model(options.model_id, str(target))
    told = {"model_id": options.model_id, "file": str(target), "bytes": size}
    _say(f"{target}: {size} bytes", told, as_json=options.json)
    return 0


def _delete(client: Client, options: argparse.Namespace) -> int:
    answer = client.delete_model(options.model_id)
    _say(
        f"{options.model_id} is deleted; its results stay", answer, as_json=options.json
    )
    return 0


_ACTIONS: dict[str, Callable[[Client, argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "promote": _promote,
    "rollback": _rollback,
    "import": _import,
    "export": _export,
    "delete": _delete,
}


# Without one


def _offline(options: argparse.Namespace) -> int:
    if options.action in {"promote", "rollback", "delete"}:
        raise ConfigError(
            f"{options.action} needs the running server, which turns to other weights between two "
            "frames; leave --data-dir and --config out and give --url"
        )
    settings = load_settings(
        ServerSettings, options.config, {"data_dir": options.data_dir}
    )
    database = Database(settings.data_dir, must_exist=True)
    try:
        return _on_registry(Registry(database), settings, options)
    finally:
        database.close()


def _on_registry(
    registry: Registry, settings: ServerSettings, options: argparse.Namespace
) -> int:
    if options.action == "list":
        _show_rows(_rows(registry), as_json=options.json)
        return 0
    if options.action == "show":
        (row,) = [
            row for row in _rows(registry, deleted=True)
            if row["model_id"] == options.model_id
        ] or [{}]  # fmt: skip
        folder = registry.folder(options.model_id)
        card = json.loads((folder / CARD_FILE).read_bytes())
        _show_one({**row, "card": card}, as_json=options.json)
        return 0
    return asyncio.run(_exchange(registry, settings, options))


async def _exchange(
    registry: Registry, settings: ServerSettings, options: argparse.Namespace
) -> int:
    chosen = settings.segment
    spec = InferenceSpec(device=chosen.device, engine=chosen.engine)
    # Nothing is live in this process: what it starts need not step back.
    async with SideSegmenter(spec, steps_back=False) as side:
        if options.action == "export":
            target = _target(options)
            await export_model(registry, side, options.model_id, target)
            told = {"model_id": options.model_id, "file": str(target)}
            _say(f"{target} is written", told, as_json=options.json)
            return 0
        _require_file(options.file)
        registry.root.mkdir(parents=True, exist_ok=True)
        model_id = await import_model(registry, side, options.file, _WHO)
        _say(f"{model_id} is imported", {"model_id": model_id}, as_json=options.json)
    return 0


def _rows(registry: Registry, *, deleted: bool = False) -> list[Row]:
    with registry.database.read() as connection:
        live = registry.live(connection)
        return [
            {
                "model_id": row.model_id,
                "source": row.source,
                "live": row.model_id == live,
                "verdict": row.verdict,
                "domain_id": row.domain_id,
                "job_id": row.job_id,
                "added_at": row.added_at,
                "added_by": row.added_by,
                "tested_at": row.tested_at,
                "deleted_at": row.deleted_at,
            }
            for row in registry.list(connection, deleted=deleted)
        ]


# What a person sees


def _show_rows(rows: Iterable[Row], *, as_json: bool) -> None:
    found = list(rows)
    if as_json:
        print(json.dumps(found))
        return
    for row in found:
        marks = [row["source"], row["verdict"] or "not judged"]
        marks += ["not tested"] if row["tested_at"] is None else []
        print(
            f"{'*' if row['live'] else ' '} {row['model_id']:<40} {_date(row['added_at'])}  "
            f"{', '.join(marks)}"
        )
    print("* is live" if found else "no models yet: start the server once")


def _show_one(row: Row, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(row))
        return
    for key, value in row.items():
        if key not in {"card", "report"} and value is not None:
            shown = _date(value) if key.endswith("_at") else value
            print(f"{key:>16}: {shown}")
    print(json.dumps(row.get("card"), indent=1))


def _say(text: str, answer: Row, *, as_json: bool) -> None:
    print(json.dumps(answer) if as_json else text)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _target(options: argparse.Namespace) -> Path:
    target = options.file or Path(f"{options.model_id}.zip")
    if target.exists():
        raise ConfigError(f"{target} is there already; name another file")
    return target


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            f"no such file: {path}; expected an archive of `models export`"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
