"""One gate in front of everything: nobody without a token reads or writes.

Scripts show `Authorization: Bearer emct_...`; browsers trade a token for a cookie at /login.
The gate is plain ASGI, so that it stands before every route, static file, Socket.IO poll and
WebSocket alike: a route added later cannot forget it. It fails closed.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from emcopilot.errors import StoreError
from emcopilot.messages import Problem
from gpu_server.login import COOKIE, PATHS, Attempts, LoginDesk, client_address
from gpu_server.store import Store
from gpu_server.tokens import Identity, Tokens

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/api/v1/healthz"})
CSRF_HEADER = "x-emc-csrf"
IDENTITY = "emc.identity"
"""Where routes find the caller's `Identity` in the ASGI scope."""

MAX_BODY_BYTES = 2**20
MAX_SOCKETS = 64
MAX_SOCKETS_A_TOKEN = 16

_RECHECK_S = 5.0
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY_VIOLATION = 1008
_HARDENING = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
}


class RefusalError(Exception):
    """Why a request goes no further."""

    def __init__(self, status: HTTPStatus, detail: str, do: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.do = do


class Gate:
    """ASGI middleware that lets through only who shows a valid token or cookie.

    Parameters
    ----------
    app : ASGI application
    store : callable
        Returns the store; it is opened after the application is put together.
    upload_bytes : mapping
        Largest body by path, where more than `MAX_BODY_BYTES` is right.
    recheck_s : float
        How often an open WebSocket's identity is asked for again.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: Callable[[], Store],
        upload_bytes: Mapping[str, int] | None = None,
        recheck_s: float = _RECHECK_S,
    ) -> None:
        self._app = app
        self._store = store
        self._upload_bytes = dict(upload_bytes or {})
        self._recheck_s = recheck_s
        self._desk = LoginDesk(Attempts())
        self._sockets: Counter[int] = Counter()
        self.denied = 0
        """Requests refused since the start, for the metrics."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, answer or refuse one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            receive, send = self._limited(scope, receive), _hardened(send)
        try:
            await self._admit(scope, receive, send)
        except RefusalError as refusal:
            self.denied += 1
            log.warning(
                "request denied status=%d path=%s client=%s",
                refusal.status,
                scope["path"],
                client_address(HTTPConnection(scope)),
            )
            await _refuse(refusal, scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS and scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["path"] in PATHS and scope["type"] == "http":
            request = Request(scope, receive)
            if request.method not in _SAFE_METHODS and "origin" in request.headers:
                _check_origin(request)
            response = await self._desk.answer(request, self._tokens())
            await response(scope, receive, send)
        else:
            identity = await self._identify(HTTPConnection(scope))
            scope[IDENTITY] = identity
            if scope["type"] == "websocket":
                await self._serve_socket(identity, scope, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _identify(self, connection: HTTPConnection) -> Identity:
        """Find out who asks; a browser must also show that its own page asks."""
        header = connection.headers.get("authorization")
        cookie = connection.cookies.get(COOKIE)
        try:
            if header is not None:
                kind, _, secret = header.partition(" ")
                who = await run_in_threadpool(self._tokens().identify, secret.strip())
                identity = who if kind.lower() == "bearer" else None
            elif cookie:
                identity = await run_in_threadpool(
                    self._tokens().identify_browser, cookie
                )
            else:
                identity = None
        except StoreError as error:
            detail = f"access cannot be checked just now: {error}"
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE, detail, "try again soon"
            ) from error
        if identity is None:
            shown = "the token or cookie is unknown, expired or revoked"
            raise RefusalError(
                HTTPStatus.UNAUTHORIZED,
                shown if header or cookie else "no token was shown",
                "send 'Authorization: Bearer TOKEN', or log in at /login",
            )
        if identity.web_session_id is not None:
            _check_same_site(connection)
        return identity

    async def _serve_socket(
        self, identity: Identity, scope: Scope, receive: Receive, send: Send
    ) -> None:
        mine = self._sockets[identity.token_id]
        if mine >= MAX_SOCKETS_A_TOKEN or self._sockets.total() >= MAX_SOCKETS:
            detail = f"{mine} live connections of this token are open already"
            raise RefusalError(
                HTTPStatus.TOO_MANY_REQUESTS, detail, "close a page of yours"
            )
        self._sockets[identity.token_id] += 1
        watch = asyncio.ensure_future(self._revoked(identity))
        try:
            await self._app(scope, *_until(watch, receive, send))
        except WebSocketDisconnect:
            if not watch.done():
                raise
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        finally:
            watch.cancel()
            self._sockets[identity.token_id] -= 1

    async def _revoked(self, identity: Identity) -> None:
        """Return once the identity no longer holds."""
        while True:
            await asyncio.sleep(self._recheck_s)
            try:
                valid = await run_in_threadpool(self._tokens().is_valid, identity)
            except StoreError:
                continue  # a busy disk says nothing about the token
            if not valid:
                log.info("websocket closed reason=revoked token=%d", identity.token_id)
                return

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        limit = self._upload_bytes.get(scope["path"], MAX_BODY_BYTES)
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                # Counted as it arrives: a Content-Length is a claim. Routers pass this on.
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"the body is larger than the {limit} bytes taken here",
                )
            return message

        return receive_within_limit

    def _tokens(self) -> Tokens:
        return Tokens(self._store().database)


def require(scope: str) -> Callable[[HTTPConnection], Identity]:
    """Make a FastAPI dependency that asks for a scope and returns who was admitted.

    Parameters
    ----------
    scope : str
        viewer | operator | admin.
    """

    def admitted(connection: HTTPConnection) -> Identity:
        identity = connection.scope.get(IDENTITY)
        if isinstance(identity, Identity) and identity.allows(scope):
            return identity
        mine = identity.scope if isinstance(identity, Identity) else "nobody"
        detail = f"this needs scope {scope}; the token shown has {mine}"
        if connection.scope["type"] == "websocket":
            raise WebSocketException(_POLICY_VIOLATION, detail)
        raise HTTPException(HTTPStatus.FORBIDDEN, detail)

    return admitted


def _check_same_site(connection: HTTPConnection) -> None:
    """Refuse what another site's page may have made this browser send.

    Browsers put the page's origin on every WebSocket and every request that changes something.
    The API also asks for a header that no form and no foreign page can set.
    """
    scope = connection.scope
    if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
        return
    _check_origin(connection)
    is_api_call = scope["type"] == "http" and scope["path"].startswith("/api/")
    if is_api_call and not connection.headers.get(CSRF_HEADER):
        raise RefusalError(
            HTTPStatus.FORBIDDEN,
            f"a browser's request needs the header {CSRF_HEADER}",
            f"send '{CSRF_HEADER}: 1', or use a token instead of the cookie",
        )


def _check_origin(connection: HTTPConnection) -> None:
    scheme = {"ws": "http", "wss": "https"}.get(
        connection.url.scheme, connection.url.scheme
    )
    expected = f"{scheme}://{connection.headers.get('host', '')}"
    origin = connection.headers.get("origin", "")
    if origin != expected:
        raise RefusalError(
            HTTPStatus.FORBIDDEN,
            f"the request comes from origin {origin or 'unknown'}, expected {expected}",
            "open the page by the server's own name; a TLS proxy must send X-Forwarded-Proto",
        )


async def _refuse(
    refusal: RefusalError, scope: Scope, receive: Receive, send: Send
) -> None:
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        response = _problem(refusal)
    elif refusal.status is HTTPStatus.UNAUTHORIZED and _is_page(HTTPConnection(scope)):
        response = RedirectResponse("/login", status_code=HTTPStatus.SEE_OTHER)
    else:
        response = _problem(refusal)
    await response(scope, receive, send)


def _is_page(connection: HTTPConnection) -> bool:
    return (
        connection.scope["method"] == "GET"
        and "text/html" in connection.headers.get("accept", "")
        and not connection.scope["path"].startswith("/api/")
    )


def _problem(refusal: RefusalError) -> Response:
    problem = Problem(
        title=refusal.status.phrase,
        status=refusal.status,
        detail=refusal.detail,
        do=refusal.do,
    )
    unauthorized = refusal.status is HTTPStatus.UNAUTHORIZED
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=refusal.status,
        media_type="application/problem+json",
        headers={"www-authenticate": "Bearer"} if unauthorized else None,
    )


def _hardened(send: Send) -> Send:
    async def send_hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HARDENING.items():
                headers.setdefault(name, value)
        await send(message)

    return send_hardened


def _until(
    revoked: asyncio.Future[None], receive: Receive, send: Send
) -> tuple[Receive, Send]:
    """Serve a WebSocket until its token is revoked, then hang up on both ways."""

    async def receive_until_revoked() -> Message:
        receiving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait(
                {receiving, revoked}, return_when=asyncio.FIRST_COMPLETED
            )
            if receiving.done():
                return receiving.result()
        finally:
            receiving.cancel()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}

    async def send_until_revoked(message: Message) -> None:
        if revoked.done():
            raise WebSocketDisconnect(_POLICY_VIOLATION)
        await send(message)

    return receive_until_revoked, send_until_revoked
