"""What `emcopilot tokens` and `emcopilot keys` say, and that it acts at once."""

import json
from pathlib import Path

import pytest

from emcopilot.cli import main
from emcopilot.wire import Invitation
from gpu_server.database import Database
from gpu_server.keys import server_keys
from gpu_server.store import Store
from gpu_server.tokens import BROWSER_SESSION_S, LOGIN_CODE_S, PREFIX, Tokens

NOW = 1_000_000.0


class Shell:
    """The command line on one data directory."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str]:
        status = main([*words, "--data-dir", str(self.data_dir)])
        captured = self._capsys.readouterr()
        return status, captured.out + captured.err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "data", capsys)


def test_a_token_is_shown_once_and_never_stored(shell: Shell) -> None:
    status, told = shell("tokens", "create", "ada", "--scope", "operator", "--json")
    secret = json.loads(told)["token"]
    assert status == 0
    assert secret.startswith(PREFIX)
    assert len(secret) >= len(PREFIX) + 43  # 256 bits in base64
    stored = b"".join(path.read_bytes() for path in shell.data_dir.iterdir())
    assert secret.encode() not in stored
    _, listed = shell("tokens", "list")
    assert "ada" in listed
    assert secret not in listed


def test_a_token_made_and_revoked_beside_a_running_server_acts_at_once(
    shell: Shell,
) -> None:
    with Store(shell.data_dir) as store:
        access = Tokens(store.database)
        _, told = shell("tokens", "create", "ada", "--json")
        secret = json.loads(told)["token"]
        identity = access.identify(secret)
        assert identity is not None
        assert (identity.name, identity.scope) == ("ada", "viewer")
        assert shell("tokens", "revoke", str(identity.token_id))[0] == 0
        assert access.identify(secret) is None
        assert not access.is_valid(identity)
        status, told = shell("tokens", "revoke", str(identity.token_id))
        assert (status, "there is no token" in told) == (1, True)


@pytest.mark.parametrize("days", ["0", "-1", "nan", "soon"])
def test_an_impossible_lifetime_is_bad_usage(shell: Shell, days: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        shell("tokens", "create", "ada", "--days", days)
    assert stopped.value.code == 2


def test_an_invitation_names_this_server_and_works_once(shell: Shell) -> None:
    status, told = shell("keys", "new", "--host", "gpu01", "--json")
    invitation = Invitation.parse(json.loads(told)["invitation"])
    assert status == 0
    assert (invitation.host, invitation.port) == ("gpu01", 5571)
    assert invitation.server_key == server_keys(shell.data_dir).public
    with Store(shell.data_dir) as store:
        assert store.use_enrol_code(invitation.code)
        assert not store.use_enrol_code(invitation.code)


def test_an_invitation_from_a_server_that_listens_locally_says_so(shell: Shell) -> None:
    _, told = shell("keys", "new")
    assert "emcopilot enroll emc1:127.0.0.1:5571:" in told
    assert "this machine only" in told


def test_agents_are_listed_and_revoked(shell: Shell) -> None:
    assert "no agents yet" in shell("keys", "list")[1]
    with Store(shell.data_dir) as store:
        store.enrol_agent("k" * 40, "scope\x1b[2J", "pc")
        status, told = shell("keys", "list")
        assert status == 0
        assert "scope?[2J" in told  # a name cannot steer the terminal
        assert shell("keys", "revoke", "1")[0] == 0
        assert store.enrolled_agent("k" * 40) is None
        assert shell("keys", "revoke", "1")[0] == 1
    (row,) = json.loads(shell("keys", "list", "--json")[1])
    assert row["revoked"]


# Tokens themselves


@pytest.fixture
def access(tmp_path: Path) -> "Clocked":
    return Clocked(tmp_path)


class Clocked(Tokens):
    """Tokens whose clock the test sets."""

    def __init__(self, data_dir: Path) -> None:
        self.now = NOW
        super().__init__(Database(data_dir), wall=lambda: self.now)


def test_only_the_first_start_makes_an_admin(access: Clocked) -> None:
    secret = access.create_first()
    assert secret is not None
    identity = access.identify(secret)
    assert identity is not None
    assert identity.allows("admin")
    assert access.create_first() is None
    access.revoke(identity.token_id, who="test")
    assert access.create_first() is None  # revoking must not open the door again


def test_a_token_expires(access: Clocked) -> None:
    secret = access.create("ada", "viewer", lifetime_s=60, who="test")
    cookie = access.log_in(secret)
    assert cookie is not None
    browser = access.identify_browser(cookie)
    assert browser is not None
    access.now += 61
    assert access.identify(secret) is None
    assert access.identify_browser(cookie) is None
    assert not access.is_valid(browser)
    assert access.log_in(secret) is None


def test_a_browser_session_expires_before_its_token(access: Clocked) -> None:
    secret = access.create("ada", "viewer", who="test")
    cookie = access.log_in(secret)
    assert cookie is not None
    access.now += BROWSER_SESSION_S + 1
    assert access.identify_browser(cookie) is None
    assert access.identify(secret) is not None


def test_revoking_a_token_ends_all_its_browser_sessions(access: Clocked) -> None:
    secret = access.create("ada", "viewer", who="test")
    cookies = [access.log_in(secret) for _ in range(3)]
    assert len(set(cookies)) == 3
    access.revoke(1, who="test")
    assert [access.identify_browser(cookie or "") for cookie in cookies] == [None] * 3


def test_logging_out_leaves_other_browsers_in(access: Clocked) -> None:
    secret = access.create("ada", "viewer", who="test")
    first, second = access.log_in(secret), access.log_in(secret)
    assert first is not None
    assert second is not None
    access.log_out(first)
    assert access.identify_browser(first) is None
    assert access.identify_browser(second) is not None


def test_a_login_code_is_good_once_and_for_ten_minutes(access: Clocked) -> None:
    code = access.new_login_code("operator")
    cookie = access.log_in(code)
    assert cookie is not None
    identity = access.identify_browser(cookie)
    assert identity is not None
    assert identity.scope == "operator"
    assert access.log_in(code) is None
    late = access.new_login_code()
    access.now += LOGIN_CODE_S + 1
    assert access.log_in(late) is None


def test_a_login_code_is_no_token(access: Clocked) -> None:
    assert access.identify(access.new_login_code()) is None


def test_scopes_include_those_below(access: Clocked) -> None:
    allowed = {}
    for scope in ("viewer", "operator", "admin"):
        identity = access.identify(access.create("x", scope, who="test"))
        assert identity is not None
        allowed[scope] = [identity.allows(s) for s in ("viewer", "operator", "admin")]
    assert allowed == {
        "viewer": [True, False, False],
        "operator": [True, True, False],
        "admin": [True, True, True],
    }
