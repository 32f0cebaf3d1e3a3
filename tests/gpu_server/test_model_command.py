"""`emcopilot models`, with a server and on a data directory alone."""

import json
from pathlib import Path

import pytest

from emcopilot.errors import ConfigError, EMcopilotError
from gpu_server.model_command import main


@pytest.fixture
def ask(
    model_site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Run the command as an admin; return what it printed."""
    monkeypatch.setenv("EMCOPILOT_TOKEN", model_site.tokens["admin"])

    def run(*arguments: str) -> str:
        assert main([*arguments, "--url", str(model_site.http.base_url)]) == 0
        return capsys.readouterr().out

    return run


def test_promoting_and_rolling_back_by_command(ask) -> None:
    assert "b is live" in ask("promote", "b", "--reason", "smaller")
    assert "* b" in ask("list")
    assert json.loads(ask("rollback", "--json"))["model_id"] == "a"
    shown = json.loads(ask("show", "b", "--json"))
    assert (shown["card"]["model_id"], shown["live"]) == ("b", False)
    assert "promoted_by: admin" in ask("show", "b")


def test_a_refusal_is_said_with_what_to_do(ask) -> None:
    with pytest.raises(EMcopilotError, match=r"worse than the incumbent.*override"):
        ask("promote", "c")
    with pytest.raises(EMcopilotError, match="an override needs a reason"):
        ask("promote", "c", "--override")
    assert "c is live" in ask("promote", "c", "--override", "--reason", "a trial")


def test_a_model_goes_from_server_to_server_as_one_file(ask, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    ask("export", "b", str(file))
    with pytest.raises(ConfigError, match="is there already"):
        ask("export", "b", str(file))
    ask("delete", "b")
    assert "b is imported" in ask("import", str(file))
    assert "b" in ask("list")
    with pytest.raises(ConfigError, match="no such file"):
        ask("import", str(tmp_path / "nothing.zip"))


def test_without_a_server_the_data_directory_will_do(
    model_site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(model_site.registry.root.parent)

    def run(*arguments: str) -> str:
        assert main([*arguments, "--data-dir", folder]) == 0
        return capsys.readouterr().out

    rows = {row["model_id"]: row for row in json.loads(run("list", "--json"))}
    assert rows["a"]["live"]
    assert json.loads(run("show", "b", "--json"))["card"]["model_id"] == "b"
    file = tmp_path / "b.zip"
    run("export", "b", str(file))
    assert "b is imported" in run("import", str(file))
    with pytest.raises(ConfigError, match="needs the running server"):
        run("promote", "b")
    with pytest.raises(ConfigError, match="no database"):
        main(["list", "--data-dir", str(tmp_path / "nowhere")])


def test_without_a_server_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EMcopilotError, match="no EMcopilot server"):
        main(["list", "--url", "http://127.0.0.1:9"])
