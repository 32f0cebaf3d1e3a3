"""One pasted string makes an agent known; a wrong, old or used one does not."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from acquisition_agent.enroll import enrol, main
from acquisition_agent.identity import load_identity, save_identity
from emcopilot.errors import ConfigError
from emcopilot.wire import Invitation
from gpu_server.config import IngestSettings
from gpu_server.enrol_desk import new_invitation
from gpu_server.ingest import Ingest
from gpu_server.keys import server_keys
from gpu_server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "server") as store:
        yield store


@pytest.fixture
def ingest(store: Store) -> Iterator[Ingest]:
    settings = IngestSettings(bind="tcp://127.0.0.1:*", enrol_bind="tcp://127.0.0.1:*")
    with Ingest(store, settings, server_keys(store.data_dir)) as ingest:
        yield ingest


def invite(store: Store, ingest: Ingest) -> Invitation:
    port = int(ingest.enrol_address.rpartition(":")[2])
    return new_invitation(store, host="127.0.0.1", enrol_port=port)


def test_a_pasted_string_enrols_this_pc(
    store: Store, ingest: Ingest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent" / "identity.json"
    text = str(invite(store, ingest))
    assert main([text, "--name", "titan", "--identity", str(path)]) == 0
    identity = load_identity(path)
    agent = store.enrolled_agent(identity.public_key)
    assert agent is not None
    assert (agent.name, identity.agent) == ("titan", "titan")
    assert identity.server_url == ingest.address
    assert identity.server_key == server_keys(store.data_dir).public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = capsys.readouterr().out
    assert "emcopilot agent" in said  # what to do next
    assert identity.secret_key not in said + repr(identity)


def test_without_an_argument_the_string_is_asked_for(
    store: Store, ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = str(invite(store, ingest))
    monkeypatch.setattr("builtins.input", lambda _prompt: f"  {text} ")
    assert main(["--identity", str(tmp_path / "identity.json")]) == 0


def test_a_code_works_once(store: Store, ingest: Ingest) -> None:
    invitation = invite(store, ingest)
    enrol(invitation, name="first")
    with pytest.raises(ConfigError, match="was used"):
        enrol(invitation, name="second")


def test_five_wrong_codes_void_the_right_one(store: Store, ingest: Ingest) -> None:
    right = invite(store, ingest)
    wrong = right.model_copy(update={"code": "00000000"})
    for _ in range(5):
        with pytest.raises(ConfigError, match="code is wrong"):
            enrol(wrong, name="guesser")
    with pytest.raises(ConfigError, match="code is wrong"):
        enrol(right, name="late")


def test_another_servers_string_gets_no_answer(store: Store, ingest: Ingest) -> None:
    public, _ = zmq.curve_keypair()
    invitation = invite(store, ingest).model_copy(
        update={"server_key": public.decode()}
    )
    with pytest.raises(ConfigError, match="no answer from tcp://127"):
        enrol(invitation, name="lost", answer_s=0.5)
    enrol(invite(store, ingest), name="found")  # the next one works


def test_an_identity_is_not_overwritten_by_accident(
    store: Store, ingest: Ingest, tmp_path: Path
) -> None:
    path = tmp_path / "identity.json"
    main([str(invite(store, ingest)), "--identity", str(path)])
    before = load_identity(path)
    with pytest.raises(ConfigError, match="--replace"):
        main([str(invite(store, ingest)), "--identity", str(path)])
    assert load_identity(path) == before
    main([str(invite(store, ingest)), "--identity", str(path), "--replace"])
    assert load_identity(path) != before


def test_a_name_is_one_line(store: Store, ingest: Ingest) -> None:
    with pytest.raises(ConfigError, match="one line"):
        enrol(invite(store, ingest), name="two\nlines")


def test_a_missing_identity_says_how_to_enrol(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="emcopilot enroll STRING"):
        load_identity(tmp_path / "none.json")


def test_a_damaged_identity_is_refused_without_showing_it(
    store: Store, ingest: Ingest, tmp_path: Path
) -> None:
    path = tmp_path / "identity.json"
    identity = enrol(invite(store, ingest), name="scope")
    save_identity(identity, path)
    path.write_text(path.read_text().replace('"server_url"', '"server"'))
    with pytest.raises(ConfigError, match="damaged") as caught:
        load_identity(path)
    assert identity.secret_key not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unwritable_place_is_named(
    tmp_path: Path, store: Store, ingest: Ingest
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="--identity"):
        main([str(invite(store, ingest)), "--identity", str(tmp_path / "file" / "x")])
