"""One HTTP server for all tests: its socket and loop live on, the app is each test's own.

Starting and stopping uvicorn takes longer than most of what is asked of it.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

_GRACE_S = 1.0
"""For requests that are under way when a test ends."""


class RestHost:
    """A server on a free port of this machine, in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._app: FastAPI | None = None
        self._busy: set[asyncio.Task[object]] = set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._listener.close()

    @contextmanager
    def serving(self, app: FastAPI) -> Iterator[str]:
        """Serve an app, its lifespan included; yield the address."""
        assert self._app is None, "one app at a time"
        entered, ended = threading.Event(), asyncio.Event()
        life = asyncio.run_coroutine_threadsafe(
            self._live(app, entered, ended), self.loop
        )
        life.add_done_callback(lambda _: entered.set())  # it may fail to start
        assert entered.wait(20)
        if life.done():
            life.result()
        try:
            yield self.url
        finally:
            self.loop.call_soon_threadsafe(ended.set)
            life.result(20)

    def client(self, token: str = "") -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # Nothing here is encrypted, and reading the machine's certificates takes long.
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=30, verify=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None, "a request came before or after its test"
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._busy.discard(task)

    async def _live(
        self, app: FastAPI, entered: threading.Event, ended: asyncio.Event
    ) -> None:
        async with app.router.lifespan_context(app):
            self._app = app
            entered.set()
            await ended.wait()
            self._app = None
            await self._finish()

    async def _finish(self) -> None:
        """Let requests end; those that wait for something are ended, as a server does."""
        if not self._busy:
            return
        _, waiting = await asyncio.wait(set(self._busy), timeout=_GRACE_S)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _run(self) -> None:
        config = uvicorn.Config(
            self, log_level="warning", lifespan="off", ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._server.serve([self._listener]))
        self.loop.close()


@pytest.fixture(scope="session")
def rest_host() -> Iterator[RestHost]:
    host = RestHost()
    yield host
    host.stop()
