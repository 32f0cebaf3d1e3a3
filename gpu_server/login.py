"""The door for browsers: a token or one-time code in, an opaque cookie out.

The page is plain HTML without scripts, images or other requests, because nothing else of the
server answers before one is logged in.
"""

import html
import json
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gpu_server.tokens import BROWSER_SESSION_S, Tokens

COOKIE = "emc_session"
PATHS = frozenset({"/login", "/logout", "/api/v1/login"})

_FAILURES_A_MINUTE = 5
_MAX_BODY_BYTES = 4096
_MAX_ADDRESSES = 10_000


class Attempts:
    """Failed log-ins by address: five a minute, then the address has to wait."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failures: dict[str, deque[float]] = {}

    def may_try(self, address: str) -> bool:
        """Whether this address has failures to spare."""
        failures = self._failures.get(address)
        if failures is None:
            return True
        while failures and failures[0] <= self._monotonic() - 60:
            failures.popleft()
        if not failures:
            del self._failures[address]
        return len(failures) < _FAILURES_A_MINUTE

    def failed(self, address: str) -> None:
        """Count one failure against an address."""
        if len(self._failures) >= _MAX_ADDRESSES:
            # Bounded whatever an attacker sends; only the longest-known address is let off.
            del self._failures[next(iter(self._failures))]
        self._failures.setdefault(address, deque()).append(self._monotonic())


class LoginDesk:
    """Answers /login and /logout."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def answer(self, request: Request, tokens: Tokens) -> Response:
        """Serve the page, log in with what was sent, or log out."""
        path, method = request.url.path, request.method
        if path == "/logout":
            return (
                await self._log_out(request, tokens)
                if method == "POST"
                else _no_method()
            )
        if method == "POST":
            return await self._log_in(request, await _posted_secret(request), tokens)
        if method not in ("GET", "HEAD") or path != "/login":
            return _no_method()
        code = request.query_params.get("code")
        return await self._log_in(request, code, tokens) if code else _page()

    async def _log_in(
        self, request: Request, secret: str | None, tokens: Tokens
    ) -> Response:
        address = client_address(request)
        if not self._attempts.may_try(address):
            return _refused(
                request,
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many failed attempts; wait a minute and try again.",
            )
        cookie = await run_in_threadpool(tokens.log_in, secret) if secret else None
        if cookie is None:
            self._attempts.failed(address)
            return _refused(
                request,
                HTTPStatus.UNAUTHORIZED,
                "That token or code is unknown, used up, expired or revoked.",
            )
        response = Response(status_code=204) if _wants_json(request) else _to("/")
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=int(BROWSER_SESSION_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def _log_out(self, request: Request, tokens: Tokens) -> Response:
        cookie = request.cookies.get(COOKIE)
        if cookie:
            await run_in_threadpool(tokens.log_out, cookie)
        response = _to("/login")
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def client_address(connection: HTTPConnection) -> str:
    """Return the caller's address, for limits and logs."""
    return connection.client.host if connection.client else "unknown"


async def _posted_secret(request: Request) -> str | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return None
    try:
        if _wants_json(request):
            sent = json.loads(body)
            secret = sent.get("token") if isinstance(sent, dict) else None
        else:
            secret = parse_qs(body.decode("ascii")).get("token", [None])[0]
    except ValueError:
        return None
    return secret.strip() if isinstance(secret, str) else None


def _wants_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")


def _to(path: str) -> Response:
    return RedirectResponse(path, status_code=HTTPStatus.SEE_OTHER)


def _no_method() -> Response:
    return Response(status_code=HTTPStatus.METHOD_NOT_ALLOWED)


def _refused(request: Request, status: HTTPStatus, why: str) -> Response:
    if _wants_json(request):
        problem = {"type": "about:blank", "title": status.phrase, "detail": why}
        return Response(
            json.dumps({**problem, "status": status.value}),
            status_code=status,
            media_type="application/problem+json",
        )
    return _page(why, status)


def _page(why: str = "", status: HTTPStatus = HTTPStatus.OK) -> HTMLResponse:
    return HTMLResponse(
        _HTML.replace("{why}", html.escape(why)),
        status_code=status,
        headers={
            "cache-control": "no-store",
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
            "form-action 'self'; frame-ancestors 'none'",
        },
    )


_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>EMcopilot: log in</title>
<style>
  body { background: #0b0d10; color: #d7dce2; font: 16px/1.5 system-ui, sans-serif;
         display: grid; place-items: center; min-height: 100vh; margin: 0 }
  form { width: min(24rem, 90vw) }
  h1 { font-weight: 600; font-size: 1.3rem }
  input, button { box-sizing: border-box; width: 100%; padding: .6rem .7rem; font: inherit;
         color: inherit; background: #161a20; border: 1px solid #39424e; border-radius: 6px }
  button { margin-top: .8rem; background: #1f5f99; border-color: #1f5f99; cursor: pointer }
  :focus-visible { outline: 2px solid #6cb6ff; outline-offset: 2px }
  p { color: #9aa5b1; font-size: .9rem }
  p[role=alert] { color: #ff9b8e; min-height: 1.5em }
</style>
</head>
<body>
<form method="post" action="/login">
  <h1>EMcopilot</h1>
  <label for="token">Access token</label>
  <input id="token" name="token" type="password" required autofocus
         autocomplete="current-password">
  <button type="submit">Log in</button>
  <p role="alert">{why}</p>
  <p>The server printed the first token on its console. Further ones:
     <code>emcopilot tokens create NAME</code></p>
</form>
</body>
</html>
"""
