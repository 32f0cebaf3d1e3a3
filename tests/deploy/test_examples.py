import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acquisition_agent.config import AgentSettings
from emcopilot.config import load_settings
from emcopilot.errors import ConfigError
from gpu_server.config import ServerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_documented_server_settings_load() -> None:
    settings = load_settings(ServerSettings, DEPLOY / "server.toml")
    assert settings.http == ServerSettings().http
    assert settings.decode == ServerSettings().decode
    assert settings.segment == ServerSettings().segment
    assert settings.ingest.bind == "tcp://*:5570"


def test_the_lines_that_a_reader_may_uncomment_load_too(tmp_path: Path) -> None:
    # Prose begins with a capital letter; a setting that is commented out does not.
    off = re.compile(r"^# (?=\[|[a-z_]+ = )", re.MULTILINE)
    for name, kind in (("server", ServerSettings), ("agent", AgentSettings)):
        text, count = off.subn("", (DEPLOY / f"{name}.toml").read_text("utf-8"))
        assert count >= 2
        (tmp_path / "all.toml").write_text(text, encoding="utf-8")
        load_settings(kind, tmp_path / "all.toml")


def test_the_documented_agent_settings_load() -> None:
    settings = load_settings(AgentSettings, DEPLOY / "agent.toml")
    assert settings.watch


def test_a_misspelt_server_key_is_named_with_its_neighbour(tmp_path: Path) -> None:
    text = (DEPLOY / "server.toml").read_text(encoding="utf-8")
    path = tmp_path / "server.toml"
    path.write_text(text.replace("min_area_px", "min_aera_px"), encoding="utf-8")
    with pytest.raises(
        ConfigError, match="min_aera_px: unknown key; did you mean 'min_area_px'"
    ):
        load_settings(ServerSettings, path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize(
    "unit", sorted((DEPLOY / "systemd").glob("*.service"), key=str)
)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    # The unit names the documented install folder; here the interpreter stands in for it, because
    # systemd-analyze also checks that the program exists.
    text = unit.read_text(encoding="utf-8")
    assert "/opt/emcopilot/.venv/bin/emcopilot" in text
    copy = tmp_path / unit.name
    copy.write_text(
        text.replace("/opt/emcopilot/.venv/bin/emcopilot", sys.executable),
        encoding="utf-8",
    )
    verdict = subprocess.run(
        ["systemd-analyze", "verify", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict.returncode == 0, verdict.stderr
    assert unit.name not in verdict.stderr
