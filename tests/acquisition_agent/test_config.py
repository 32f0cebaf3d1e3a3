import sys
from pathlib import Path

import pytest

from acquisition_agent import config
from acquisition_agent.config import AgentSettings, StreamSettings, check_places
from acquisition_agent.locations import data_dir, file_system_of, is_network, is_unc
from emcopilot.config import load_settings
from emcopilot.errors import ConfigError

MOUNTS = """\
/dev/vda / ext4 rw 0 0
//nas/em /mnt/em\\040data cifs rw 0 0
nas:/x /mnt/nfs nfs4 rw 0 0
proc /proc proc rw 0 0
"""


def settings(tmp_path: Path, *folders: dict[str, object]) -> AgentSettings:
    journal = tmp_path / "agent" / "journal.db"
    overrides = {"watch": list(folders), "journal": journal}
    return load_settings(AgentSettings, None, overrides)


def test_a_file_of_settings_is_read_and_a_misspelt_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        'events = "off"\n[[watch]]\npath = "/data"\nlabel = "titan"\n'
        '[stream]\nserver_url = "gpu01"\n'
    )
    loaded = load_settings(AgentSettings, path)
    assert loaded.watch[0].name == "titan"
    assert loaded.stream.server_url == "tcp://gpu01:5570"
    path.write_text('[[watch]]\npath = "/data"\n[stream]\nserver_ulr = "gpu01"\n')
    with pytest.raises(ConfigError, match="server_url"):
        load_settings(AgentSettings, path)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gpu01", "tcp://gpu01:5570"),
        ("gpu01:6000", "tcp://gpu01:6000"),
        ("tcp://10.0.0.1:6000", "tcp://10.0.0.1:6000"),
        ("[::1]", "tcp://[::1]:5570"),
        ("", ""),
    ],
)
def test_an_address_is_completed(typed: str, meant: str) -> None:
    assert StreamSettings(server_url=typed).server_url == meant


@pytest.mark.parametrize(
    "typed", ["http://gpu01", "gpu01:port", "gpu01:99999", ":5570"]
)
def test_an_address_that_cannot_be_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        StreamSettings(server_url=typed)


def test_a_label_is_one_name() -> None:
    with pytest.raises(ConfigError, match="label"):
        load_settings(
            AgentSettings, None, {"watch": [{"path": "/data", "label": "a/b"}]}
        )


def test_sound_places_pass(tmp_path: Path) -> None:
    (tmp_path / "acq").mkdir()
    check_places(settings(tmp_path, {"path": tmp_path / "acq"}))


def test_a_missing_folder_is_an_error_unless_it_is_a_share(tmp_path: Path) -> None:
    absent = {"path": tmp_path / "absent"}
    with pytest.raises(ConfigError, match="not there"):
        check_places(settings(tmp_path, absent))
    check_places(settings(tmp_path, absent | {"network": True}))


def test_folders_inside_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "acq" / "run").mkdir(parents=True)
    folders = ({"path": tmp_path / "acq"}, {"path": tmp_path / "acq" / "run"})
    for order in (folders, folders[::-1]):
        with pytest.raises(ConfigError, match="inside the other"):
            check_places(settings(tmp_path, *order))


def test_two_folders_of_one_name_need_labels(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "acq").mkdir(parents=True)
    one, two = ({"path": tmp_path / name / "acq"} for name in ("one", "two"))
    with pytest.raises(ConfigError, match="label"):
        check_places(settings(tmp_path, one, two))
    check_places(settings(tmp_path, one, two | {"label": "second"}))


def test_the_journal_never_lies_in_a_watched_folder(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    with pytest.raises(ConfigError, match="inside the watched folder"):
        check_places(settings(tmp_path, {"path": tmp_path / "agent"}))


def test_the_journal_never_lies_on_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acq").mkdir()
    monkeypatch.setattr(config, "is_network", lambda path: "agent" in path.name)
    with pytest.raises(ConfigError, match="network drive"):
        check_places(settings(tmp_path, {"path": tmp_path / "acq"}))


def test_the_longest_mount_point_decides_the_file_system() -> None:
    assert file_system_of("/home/em", MOUNTS) == "ext4"
    assert file_system_of("/mnt/em data/run", MOUNTS) == "cifs"
    assert file_system_of("/mnt/nfs", MOUNTS) == "nfs4"
    assert file_system_of("/mnt/nfs2/x", MOUNTS) == "ext4"
    assert file_system_of("/x", "") is None


def test_unc_paths_are_shares_and_long_local_paths_are_not() -> None:
    assert is_unc(r"\\nas\em\run")
    assert not is_unc(r"C:\data")
    assert not is_unc(r"\\?\C:\data")


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's mount table")
def test_a_local_folder_is_not_a_share(tmp_path: Path) -> None:
    assert not is_network(tmp_path)


def test_data_lies_where_each_platform_keeps_it() -> None:
    home = Path("/home/em")
    assert data_dir("linux", {}, home) == home / ".local" / "share" / "emcopilot"
    assert data_dir("linux", {"XDG_DATA_HOME": "/d"}, home) == Path("/d/emcopilot")
    assert data_dir("win32", {"LOCALAPPDATA": "/l"}, home) == Path("/l/emcopilot")
    assert data_dir("win32", {}, home) == home / "AppData" / "Local" / "emcopilot"
    assert "Application Support" in str(data_dir("darwin", {}, home))
