"""Nobody without a token gets past the gate, and revoking one shuts what it opened."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from gpu_server.auth import MAX_SOCKETS_A_TOKEN, Gate, require
from gpu_server.login import COOKIE
from gpu_server.store import Store
from gpu_server.tokens import Tokens

ORIGIN = "http://testserver"
CSRF = {"origin": ORIGIN, "x-emc-csrf": "1"}
RECHECK_S = 0.05


@dataclass
class Site:
    """A small application behind the gate, and the tokens that open it."""

    client: TestClient
    tokens: Tokens
    app: FastAPI

    def bearer(self, scope: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens.create('t', scope, who='test')}"}

    def log_in(self, scope: str = "operator") -> None:
        secret = self.tokens.create("browser", scope, who="test")
        answer = self.client.post(
            "/login", data={"token": secret}, headers={"origin": ORIGIN}
        )
        assert answer.status_code == 303

    def token_ids(self) -> list[int]:
        return [row.id for row in self.tokens.rows()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Store(tmp_path) as store:
        app = _app()
        gated = Gate(
            app,
            store=lambda: store,
            upload_bytes={"/api/v1/segment": 3 * 2**20},
            recheck_s=RECHECK_S,
        )
        with TestClient(gated, follow_redirects=False) as client:
            yield Site(client, Tokens(store.database), app)


def _app() -> FastAPI:
    app = FastAPI()

    @app.get("/healthz")
    @app.get("/api/v1/healthz")
    def health() -> str:
        return "up"

    @app.get("/")
    def page() -> str:
        return "the page"

    @app.get("/api/v1/who")
    def who(request: Request) -> str:
        return request.scope["emc.identity"].name

    @app.post("/api/v1/change", dependencies=[Depends(require("operator"))])
    @app.post("/api/v1/segment")
    async def change(request: Request) -> int:
        return len(await request.body())

    @app.post("/page/event")
    def event() -> str:
        return "done"

    @app.websocket("/api/v1/live")
    async def live(viewer: WebSocket) -> None:
        await viewer.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await viewer.send_text(await viewer.receive_text())

    @app.websocket("/api/v1/pour")
    async def pour(viewer: WebSocket) -> None:
        await viewer.accept()
        while True:  # never listens
            await viewer.send_text("more")
            await asyncio.sleep(RECHECK_S / 5)

    @app.websocket("/api/v1/steer", dependencies=[Depends(require("operator"))])
    async def steer(viewer: WebSocket) -> None:
        await viewer.accept()

    return app


EVERYTHING = [
    "/",
    "/api/v1/who",
    "/openapi.json",
    "/docs",
    "/nowhere",
    "/login/",
    "//healthz",
]


@pytest.mark.parametrize("path", EVERYTHING)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_nothing_answers_without_a_token(site: Site, path: str, method: str) -> None:
    answer = site.client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "/login" in answer.json()["do"]


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/healthz", "/login"])
def test_health_and_the_login_page_are_open(site: Site, path: str) -> None:
    assert site.client.get(path).status_code == 200


def test_no_route_of_the_application_is_forgotten(site: Site) -> None:
    for route in site.app.routes:
        path = getattr(route, "path", "")
        if path in ("/healthz", "/api/v1/healthz"):
            continue
        for method in getattr(route, "methods", None) or {"GET"}:
            assert site.client.request(method, path).status_code == 401, path


def test_a_browser_without_a_cookie_is_sent_to_the_login(site: Site) -> None:
    answer = site.client.get("/", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    api = site.client.get("/api/v1/who", headers={"accept": "text/html"})
    assert api.status_code == 401


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer wrong", "Basic {secret}", "{secret}", "Bearer {secret}x", ""],
)
def test_a_wrong_authorization_is_refused(site: Site, header: str) -> None:
    secret = site.tokens.create("t", "admin", who="test")
    sent = {"authorization": header.replace("{secret}", secret)}
    assert site.client.get("/api/v1/who", headers=sent).status_code == 401


def test_a_wrong_token_is_refused_even_beside_a_good_cookie(site: Site) -> None:
    site.log_in()
    sent = {"authorization": "Bearer wrong"}
    assert site.client.get("/api/v1/who", headers=sent).status_code == 401


def test_the_route_learns_who_asks(site: Site) -> None:
    answer = site.client.get("/api/v1/who", headers=site.bearer("viewer"))
    assert answer.json() == "t"


@pytest.mark.parametrize(
    ("scope", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)]
)
def test_a_scope_includes_those_below_it(site: Site, scope: str, status: int) -> None:
    answer = site.client.post("/api/v1/change", headers=site.bearer(scope))
    assert answer.status_code == status


def test_a_revoked_token_is_refused_at_once(site: Site) -> None:
    sent = site.bearer("admin")
    assert site.client.get("/", headers=sent).status_code == 200
    site.tokens.revoke(site.token_ids()[-1], who="test")
    assert site.client.get("/", headers=sent).status_code == 401


# Browsers


def test_the_cookie_is_opaque_and_out_of_reach_of_scripts(site: Site) -> None:
    secret = site.tokens.create("browser", "viewer", who="test")
    answer = site.client.post("/login", data={"token": f" {secret}\n"})
    cookie = answer.headers["set-cookie"].lower()
    assert answer.headers["location"] == "/"
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert secret.lower() not in cookie
    assert site.client.get("/").json() == "the page"


def test_a_script_may_log_in_with_json(site: Site) -> None:
    secret = site.tokens.create("script", "viewer", who="test")
    answer = site.client.post("/api/v1/login", json={"token": secret})
    assert (answer.status_code, COOKIE in answer.cookies) == (204, True)
    refused = site.client.post("/api/v1/login", json={"token": "emct_wrong"})
    assert refused.json()["status"] == 401


def test_a_login_code_works_once(site: Site) -> None:
    code = site.tokens.new_login_code()
    answer = site.client.get(f"/login?code={code}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert site.client.get("/api/v1/who").json() == "login code"
    site.client.cookies.clear()
    assert site.client.get(f"/login?code={code}").status_code == 401


@pytest.mark.parametrize("body", [b"", b"token=", b"\xff\xfe", b"token=" + b"x" * 9999])
def test_a_login_with_nonsense_is_refused_with_the_page(
    site: Site, body: bytes
) -> None:
    answer = site.client.post("/login", content=body)
    assert answer.status_code == 401
    assert "unknown, used up, expired or revoked" in answer.text


def test_the_sixth_wrong_guess_in_a_minute_is_not_even_looked_at(site: Site) -> None:
    secret = site.tokens.create("browser", "viewer", who="test")
    for _ in range(5):
        assert site.client.post("/login", data={"token": "guess"}).status_code == 401
    assert site.client.post("/login", data={"token": secret}).status_code == 429


def test_logging_out_ends_the_session_on_the_server(site: Site) -> None:
    site.log_in()
    cookie = site.client.cookies[COOKIE]
    assert site.client.post("/logout", headers={"origin": ORIGIN}).status_code == 303
    site.client.cookies.set(COOKIE, cookie)
    assert site.client.get("/").status_code == 401


def test_another_site_cannot_log_a_browser_out(site: Site) -> None:
    site.log_in()
    answer = site.client.post("/logout", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert site.client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/v1/change", CSRF, 200),
        ("/api/v1/change", {"origin": ORIGIN}, 403),
        ("/api/v1/change", {"x-emc-csrf": "1"}, 403),
        ("/api/v1/change", {**CSRF, "origin": "http://evil.example"}, 403),
        ("/api/v1/change", {**CSRF, "origin": "https://testserver"}, 403),
        ("/api/v1/change", {**CSRF, "origin": "http://testserver:81"}, 403),
        ("/api/v1/change", {**CSRF, "origin": "null"}, 403),
        (
            "/page/event",
            {"origin": ORIGIN},
            200,
        ),  # the page's own polling sets no header
        ("/page/event", {}, 403),
    ],
)
def test_a_browser_changes_things_only_from_our_page(
    site: Site, path: str, headers: dict[str, str], status: int
) -> None:
    site.log_in()
    assert site.client.post(path, headers=headers).status_code == status


def test_a_script_with_a_token_needs_no_origin(site: Site) -> None:
    assert site.client.post(
        "/api/v1/change", headers=site.bearer("operator")
    ).is_success


def test_answers_forbid_framing_and_sniffing(site: Site) -> None:
    headers = site.client.get("/healthz").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


# Sizes


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/api/v1/change", 2**20, 200),
        ("/api/v1/change", 2**20 + 1, 413),
        ("/api/v1/segment", 3 * 2**20, 200),
        ("/api/v1/segment", 3 * 2**20 + 1, 413),
    ],
)
def test_bodies_are_limited_by_the_bytes_received(
    site: Site, path: str, size: int, status: int
) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, size, 2**19):
            yield bytes(min(2**19, size - start))

    # Sent in chunks: there is no Content-Length that could be believed.
    answer = site.client.post(path, content=chunks(), headers=site.bearer("operator"))
    assert answer.status_code == status


# WebSockets


def test_a_websocket_opens_with_a_token(site: Site) -> None:
    with site.client.websocket_connect(
        "/api/v1/live", headers=site.bearer("viewer")
    ) as ours:
        ours.send_text("hello")
        assert ours.receive_text() == "hello"


@pytest.mark.parametrize(
    "origin", [None, "http://evil.example", "https://testserver", "null"]
)
def test_a_websocket_with_a_cookie_must_come_from_our_page(
    site: Site, origin: str | None
) -> None:
    site.log_in()
    headers = {"origin": origin} if origin else {}
    with (
        pytest.raises(WebSocketDisconnect),
        site.client.websocket_connect("/api/v1/live", headers=headers),
    ):
        pass
    with site.client.websocket_connect(
        "/api/v1/live", headers={"origin": ORIGIN}
    ) as ours:
        ours.send_text("ours")
        assert ours.receive_text() == "ours"


@pytest.mark.parametrize(
    "path", ["/api/v1/live", "/api/v1/steer", "/healthz", "/login"]
)
def test_a_websocket_without_a_token_is_refused(site: Site, path: str) -> None:
    with pytest.raises(WebSocketDisconnect), site.client.websocket_connect(path):
        pass


def test_a_websocket_route_may_ask_for_a_scope(site: Site) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as closed,
        site.client.websocket_connect("/api/v1/steer", headers=site.bearer("viewer")),
    ):
        pass
    assert closed.value.code == 1008


def test_revoking_hangs_up_a_listening_websocket(site: Site) -> None:
    with site.client.websocket_connect(
        "/api/v1/live", headers=site.bearer("viewer")
    ) as ours:
        site.tokens.revoke(site.token_ids()[-1], who="test")
        with pytest.raises(WebSocketDisconnect) as closed:
            ours.receive_text()
    assert closed.value.code == 1008


def test_one_token_cannot_take_every_connection(site: Site) -> None:
    headers = site.bearer("viewer")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_SOCKETS_A_TOKEN):
            stack.enter_context(
                site.client.websocket_connect("/api/v1/live", headers=headers)
            )
        with pytest.raises(WebSocketDisconnect):
            stack.enter_context(
                site.client.websocket_connect("/api/v1/live", headers=headers)
            )
    with site.client.websocket_connect("/api/v1/live", headers=headers):
        pass  # closed ones are free again


def test_revoking_ends_a_websocket_that_only_sends(site: Site) -> None:
    with site.client.websocket_connect(
        "/api/v1/pour", headers=site.bearer("viewer")
    ) as ours:
        site.tokens.revoke(site.token_ids()[-1], who="test")
        with pytest.raises(WebSocketDisconnect):
            _drain(ours)


def _drain(ours: WebSocketTestSession) -> None:
    for _ in range(1000):
        ours.receive_text()


# A real server


def test_over_a_real_socket_the_refusals_are_the_same(tmp_path: Path) -> None:
    with (
        Store(tmp_path) as store,
        _served(Gate(_app(), store=lambda: store)) as address,
    ):
        secret = Tokens(store.database).create("t", "viewer", who="test")
        assert httpx.get(f"{address}/api/v1/who").status_code == 401
        answer = httpx.get(
            f"{address}/api/v1/who", headers={"authorization": f"Bearer {secret}"}
        )
        assert answer.json() == "t"
        upgrade = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        refused = httpx.get(f"{address}/api/v1/live", headers=upgrade)
        assert refused.status_code == 401
        assert refused.json()["title"] == "Unauthorized"


class _ReadyServer(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, app: Gate) -> None:
        super().__init__(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.contextmanager
def _served(app: Gate) -> Iterator[str]:
    server = _ReadyServer(app)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.ready.wait(10)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
