"""Who gets in: real handshakes against a real gate. It must fail closed every time."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from emcopilot.errors import ConfigError, StoreError
from gpu_server.keys import Gate, ServerKeys, bind, guard, server_keys

HEARD_MS = 5000
UNHEARD_MS = 300
Pair = tuple[str, str]


def new_pair() -> Pair:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context[zmq.Socket[bytes]]()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def keys(tmp_path: Path) -> ServerKeys:
    return server_keys(tmp_path)


@contextmanager
def listener(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys, domain: str
) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    with context.socket(zmq.ROUTER) as router:
        router.linger = 0
        guard(router, keys, domain)
        yield router, bind(router, "tcp://127.0.0.1:*", "ingest.bind")


@contextmanager
def speaker(address: str, server_key: str | None, pair: Pair) -> Iterator[None]:
    """Say hello from another context, as another process would."""
    with (
        zmq.Context[zmq.Socket[bytes]]() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.linger = 0
        if server_key:
            dealer.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, pair[0].encode())
            dealer.setsockopt(zmq.CURVE_SECRETKEY, pair[1].encode())
        dealer.connect(address)
        dealer.send(b"hello")
        yield


def is_heard(router: zmq.Socket[bytes], *, within_ms: int) -> bool:
    return bool(router.poll(within_ms))


def test_an_enrolled_key_gets_in_and_is_the_identity(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> None:
    pair = new_pair()
    with (
        Gate(context, {"data": lambda key: key == pair[0]}) as gate,
        listener(context, keys, "data") as (router, address),
        speaker(address, keys.public, pair),
    ):
        assert is_heard(router, within_ms=HEARD_MS)
        routing_id, message = router.recv_multipart(copy=False)
        assert message.bytes == b"hello"
        assert {routing_id.get("User-Id"), message.get("User-Id")} == {pair[0]}
        assert gate.refused == 0


def test_an_unknown_key_is_refused_and_counted(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> None:
    with (
        Gate(context, {"data": lambda _key: False}) as gate,
        listener(context, keys, "data") as (router, address),
        speaker(address, keys.public, new_pair()),
    ):
        assert not is_heard(router, within_ms=UNHEARD_MS)
        assert gate.refused >= 1


def test_an_open_domain_opens_no_other(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> None:
    with (
        Gate(context, {"enrol": lambda _key: True, "data": lambda _key: False}),
        listener(context, keys, "enrol") as (open_router, open_address),
        listener(context, keys, "data") as (router, address),
        speaker(open_address, keys.public, new_pair()),
        speaker(address, keys.public, new_pair()),
    ):
        assert is_heard(open_router, within_ms=HEARD_MS)
        assert not is_heard(router, within_ms=UNHEARD_MS)


@pytest.mark.parametrize("has_gate", [True, False], ids=["other domain", "no gate"])
def test_a_socket_without_its_gate_lets_nobody_in(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys, has_gate: bool
) -> None:
    with (
        listener(context, keys, "data") as (router, address),
        speaker(address, keys.public, new_pair()),
    ):
        if has_gate:
            with Gate(context, {"enrol": lambda _key: True}):
                assert not is_heard(router, within_ms=UNHEARD_MS)
        else:
            assert not is_heard(router, within_ms=UNHEARD_MS)


def test_a_gate_that_cannot_ask_the_database_stays_closed(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> None:
    def admit(_key: str) -> bool:
        raise StoreError("database is locked")

    with (
        Gate(context, {"data": admit}) as gate,
        listener(context, keys, "data") as (router, address),
        speaker(address, keys.public, new_pair()),
    ):
        assert not is_heard(router, within_ms=UNHEARD_MS)
        assert gate.is_alive


@pytest.mark.parametrize("encrypted", [True, False], ids=["other server key", "plain"])
def test_who_does_not_know_the_server_is_not_heard(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys, encrypted: bool
) -> None:
    other = new_pair()[0] if encrypted else None
    with (
        Gate(context, {"data": lambda _key: True}),
        listener(context, keys, "data") as (router, address),
        speaker(address, other, new_pair()),
    ):
        assert not is_heard(router, within_ms=UNHEARD_MS)


def test_keys_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    keys = server_keys(data_dir)
    assert server_keys(data_dir) == keys
    mode = (data_dir / "server_key.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert keys.secret not in repr(keys)
    assert keys.secret not in str(keys)
    assert [path.name for path in data_dir.iterdir()] == ["server_key.json"]


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    server_keys(tmp_path)
    os.chmod(tmp_path / "server_key.json", 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        server_keys(tmp_path)


def test_damaged_keys_are_refused_without_showing_them(tmp_path: Path) -> None:
    server_keys(tmp_path)
    (tmp_path / "server_key.json").write_text('{"public": "p", "secret": 5}')
    with pytest.raises(ConfigError, match="damaged") as caught:
        server_keys(tmp_path)
    assert caught.value.__cause__ is None


def test_a_port_in_use_names_the_port_and_the_setting(
    context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> None:
    with (
        listener(context, keys, "data") as (_router, address),
        context.socket(zmq.ROUTER) as second,
        pytest.raises(
            ConfigError, match=rf"{address}: the port is in use.*ingest\.bind"
        ),
    ):
        bind(second, address, "ingest.bind")
