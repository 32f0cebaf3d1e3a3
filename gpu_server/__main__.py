"""`emcopilot serve`: settings, a port, and the server until it is told to stop."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from emcopilot.config import load_settings
from emcopilot.errors import ConfigError, EMcopilotError
from gpu_server.app import close_streams, create_app
from gpu_server.config import HttpSettings, ServerSettings

log = logging.getLogger("emcopilot.serve")

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns 1 when the server could not start."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    settings = load_settings(ServerSettings, options.config, _overrides(options))
    _check_exposure(settings.http, insecure_is_fine=options.insecure_http)
    return serve(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot serve",
        description="The GPU server: takes frames from agents, serves REST and the live page.",
    )
    parser.add_argument("--config", type=Path, help="TOML file, see deploy/server.toml")
    parser.add_argument("--data-dir", type=Path, help="database, frames and keys")
    parser.add_argument("--host", help="address of REST and page (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help="port of REST and page (default: 8765)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--model", help="model name, or directory with weights and card"
    )
    parser.add_argument(
        "--insecure-http",
        action="store_true",
        help="serve beyond this machine without TLS: tokens then cross the network readable",
    )
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    return {
        "data_dir": options.data_dir,
        "http": {"host": options.host, "port": options.port},
        "segment": {"device": options.device, "model": options.model},
    }


def _check_exposure(http: HttpSettings, *, insecure_is_fine: bool) -> None:
    if http.host in LOOPBACK or http.tls_certificate or insecure_is_fine:
        return
    raise ConfigError(
        f"http.host = {http.host} would carry tokens readable over the network; set "
        "http.tls_certificate and http.tls_key, or put a TLS proxy in front of 127.0.0.1, or "
        "accept it with --insecure-http"
    )


def serve(settings: ServerSettings) -> int:
    """Run the server in this process until it is told to stop."""
    listener = listen(settings.http)
    host, port = listener.getsockname()[:2]
    failure: list[EMcopilotError] = []

    def on_ready() -> None:
        listener.listen()  # who reads the next line and connects at once is not refused
        log.info("ready page=http://%s:%d", host, port)

    app = create_app(settings, on_ready=on_ready, on_failure=failure.append)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ssl_certfile=settings.http.tls_certificate,
        ssl_keyfile=settings.http.tls_key,
        ws_max_size=64 * 1024,
        ws_per_message_deflate=False,  # JPEG does not shrink; each connection would keep buffers
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    server = _Server(config, app)
    server.run(sockets=[listener])
    if failure:
        raise failure[0]
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Ends the event streams as soon as it is asked to stop, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take SIGTERM or Ctrl-C."""
        super().handle_exit(sig, frame)
        close_streams(self._app)


def listen(http: HttpSettings) -> socket.socket:
    """Open the HTTP port before anything slow is started.

    Raises
    ------
    ConfigError
        If the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # on Windows it would let two servers share the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((http.host, http.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {http.host}:{http.port}: {error.strerror}; another server may be "
            "running: choose another port with --port or http.port"
        ) from error
    return listener


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EMcopilotError as error:
        sys.exit(f"emcopilot serve: {error}")
    except KeyboardInterrupt:  # after everything was stopped in order
        sys.exit(130)
