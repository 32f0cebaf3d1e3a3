"""Ask an EMcopilot server from any Python: the standard library alone, in one file.

Copy this file to the acquisition PC; it runs on Python 3.8 and newer.

    from client import Client

    copilot = Client("http://gpu01:8765", token="emct_...")
    session = copilot.find_session("2026-11-22_PtC")
    answer = copilot.wait_until_known(session["id"], target=0.02, timeout_s=600)
    print(answer["mean_diameter"], answer["unit"], answer["counted"])

Answers are plain dicts and lists with the keys of `/api/v1/openapi.json`. A token is made on
the server with `emcopilot tokens create`; without one given, EMCOPILOT_TOKEN is read.
"""

# Python 3.8 knows neither `dict[...]` at run time nor `X | Y`; annotations are never evaluated.
from __future__ import annotations

import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any, Dict, cast  # noqa: UP035

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from typing import BinaryIO

Json = Dict[str, Any]  # noqa: UP006

_POLL_S = 60.0
"""Longest single wait for the server: proxies cut connections that are silent for longer."""
_RETRY_S = 1.0
_BLOCK_BYTES = 2**20
_STREAM_SILENCE_S = 60.0
"""The server sends a sign of life every 15 s; silence for longer means the line is dead."""


class ServerError(Exception):
    """The server refused a request, or could not be reached.

    Attributes
    ----------
    status : int
        HTTP status; 0 when no server answered.
    problem : dict
        The problem document: `title`, `detail`, and often `got`, `expected`, `do`.
    """

    def __init__(self, message: str, status: int = 0, problem: Json | None = None):
        super().__init__(message)
        self.status = status
        self.problem: Json = problem or {}


class Client:
    """One server and the token that opens it; make as many as you like, they hold nothing.

    Parameters
    ----------
    url : str
        Where the live page is, e.g. `http://gpu01:8765`.
    token : str, optional
        Access token; `EMCOPILOT_TOKEN` when left out.
    timeout_s : float
        How long to wait for an ordinary answer.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8765",
        token: str | None = None,
        timeout_s: float = 60.0,
    ):
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._token = token or os.environ.get("EMCOPILOT_TOKEN", "")
        # Straight to the instrument's own network: no proxies, and no redirect that would
        # carry the token to another host.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), _NoRedirects()
        )

    # Sessions and frames

    def sessions(self) -> list[Json]:
        """Return all sessions, the most recently active first."""
        return self._get("/sessions")

    def find_session(self, name: str, timeout_s: float = 0.0) -> Json:
        """Return the most recent session of that name or folder.

        A session begins with its first frame: `timeout_s` is how long to wait for it.

        Raises
        ------
        ServerError
            If there is no such session in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for session in self.sessions():
                if name in (session["name"], session["folder"]):
                    return session
            if time.monotonic() >= deadline:
                raise ServerError(f"there is no session named {name!r}", 404)
            time.sleep(min(_RETRY_S, timeout_s))

    def frames(self, session_id: int) -> Iterator[Json]:
        """Yield every frame of a session, the newest first."""
        before: int | None = None
        while True:
            page = self._get(
                f"/sessions/{session_id}/frames", {"limit": 200, "before": before}
            )
            yield from page["frames"]
            before = page["next_before"]
            if before is None:
                return

    def frame(self, frame_id: int) -> Json:
        """Return one frame: where it comes from and what was found on it."""
        return self._get(f"/frames/{frame_id}")

    def particles(self, frame_id: int) -> list[Json]:
        """Return the particle table of a frame, one dict a particle."""
        return self._get(f"/frames/{frame_id}/particles")["particles"]

    def particles_csv(self, frame_id: int) -> str:
        """Return the particle table of a frame as CSV text."""
        return self._read(f"/frames/{frame_id}/particles", {"format": "csv"}).decode()

    def labels(self, frame_id: int) -> bytes:
        """Return the instances of a frame as the bytes of a TIFF file."""
        return self._read(f"/frames/{frame_id}/labels.tif")

    def overlay(self, frame_id: int) -> bytes:
        """Return the frame with its outlines as the bytes of a PNG file."""
        return self._read(f"/frames/{frame_id}/overlay.png")

    # Statistics

    def psd(self, session_id: int) -> Json:
        """Return the size distribution of a session."""
        return self._get(f"/sessions/{session_id}/psd")

    def timeline(self, session_id: int) -> Json:
        """Return mean diameter, count and dispersion frame by frame."""
        return self._get(f"/sessions/{session_id}/timeline")

    def convergence(self, session_id: int, target: float = 0.02) -> Json:
        """Say how well the mean diameter is known now."""
        return self._get(f"/sessions/{session_id}/convergence", {"target": target})

    def wait_until_known(
        self, session_id: int, target: float = 0.02, timeout_s: float = 600.0
    ) -> Json:
        """Wait until the mean diameter is known to `target`, a fraction of itself.

        Returns
        -------
        dict
            The last answer; `known` is False when time was up first.

        Notes
        -----
        The server answers as soon as it knows. If it restarts meanwhile the wait goes on.
        """
        deadline = time.monotonic() + timeout_s
        path = f"/sessions/{session_id}/convergence"
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            wait_s = min(_POLL_S, left_s)
            try:
                query = {"target": target, "wait_s": wait_s}
                answer = self._get(path, query, wait_s + self.timeout_s)
            except ServerError as error:
                if error.status not in (0, 503) or left_s <= _RETRY_S:
                    raise
                time.sleep(_RETRY_S)
                continue
            if answer["known"] or time.monotonic() >= deadline:
                return answer

    # One file

    def segment(
        self, path: str, pixel_size_nm: float | None = None, page: int = 0
    ) -> Json:
        """Segment one file that the server does not keep; return particles and PSD."""
        return json.loads(
            self._send_file(path, pixel_size_nm, page, "application/json")
        )

    def segment_labels(self, path: str, page: int = 0) -> bytes:
        """Segment one file; return its instances as the bytes of a TIFF file."""
        return self._send_file(path, None, page, "image/tiff")

    # The operator's word

    def reject_particle(self, frame_id: int, particle: int) -> None:
        """Take one particle out of the statistics."""
        self._post(f"/frames/{frame_id}/particles/{particle}/reject")

    def restore_particle(self, frame_id: int, particle: int) -> None:
        """Take a rejected particle back."""
        self._post(f"/frames/{frame_id}/particles/{particle}/restore")

    def reject_frame(self, frame_id: int) -> None:
        """Take a whole frame out of the statistics."""
        self._post(f"/frames/{frame_id}/reject")

    def restore_frame(self, frame_id: int) -> None:
        """Take a rejected frame back."""
        self._post(f"/frames/{frame_id}/restore")

    def calibrate(self, session_id: int, pixel_size_nm: float | None) -> None:
        """Give every frame of a session this pixel size; None for the frames' own."""
        self._post(
            f"/sessions/{session_id}/calibration", {"pixel_size_nm": pixel_size_nm}
        )

    # What happens

    def events(self, after: int | None = None) -> Iterator[Json]:
        """Yield events as they happen, for ever; after a cut it resumes where it was.

        Parameters
        ----------
        after : int, optional
            Event id to resume from; without it, only what happens from now on.

        Raises
        ------
        ServerError
            If the server refuses; a server that is away is waited for.
        """
        while True:
            try:
                stream = self._open(
                    self._request("/events", {"after": after}), _STREAM_SILENCE_S
                )
                with stream:
                    for event_id, event in _server_sent(stream):
                        after = event_id
                        if event is not None:
                            yield event
            except ServerError as error:
                if error.status not in (0, 503):
                    raise
            except (OSError, http.client.HTTPException):
                pass  # cut in the middle: the server restarted, or the network did
            time.sleep(_RETRY_S)

    # Models

    def models(self) -> list[Json]:
        """Return the models of the registry, the newest first."""
        return self._get("/models")

    def model(self, model_id: str) -> Json:
        """Return one model with its card and report."""
        return self._get(f"/models/{model_id}")

    def promotions(self) -> Json:
        """Return what is live, what a roll back would bring, and the changes so far."""
        return self._get("/models/promotions")

    def promote(self, model_id: str, override: bool = False, reason: str = "") -> Json:
        """Make a model live; returns once frames go to it.

        Raises
        ------
        ServerError
            With status 409 if it needs `override`, or another promotion is under way; 422 if it
            is overridden without a reason.
        """
        body: Json = {"override": override, "reason": reason}
        return self._post(f"/models/{model_id}/promote", body, 10 * self.timeout_s)

    def rollback(self, reason: str = "") -> Json:
        """Make the model live again that was so before the last promotion."""
        return self._post("/models/rollback", {"reason": reason}, 10 * self.timeout_s)

    def delete_model(self, model_id: str) -> Json:
        """Take a model's files away; its results stay. Needs an admin's token."""
        request = self._request(f"/models/{model_id}")
        request.method = "DELETE"
        return json.loads(self._answer(request, self.timeout_s))

    def export_model(self, model_id: str, path: str) -> int:
        """Write a model to one file, to import elsewhere; returns its size in bytes.

        A transfer that breaks leaves what was there before.
        """
        request = self._request(f"/models/{model_id}/export")
        # A name of its own: `path`.part may be somebody's file.
        part, wait_s = f"{path}.{uuid.uuid4().hex}.part", 10 * self.timeout_s
        try:
            with self._open(request, wait_s) as sent, open(part, "xb") as file:
                size = self._receive(sent, file)
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)
        return size

    def import_model(self, path: str) -> Json:
        """Import a model that `export_model` wrote; it must pass its self-test there."""
        with open(path, "rb") as file:
            request = self._request("/models/import", data=cast("bytes", file))
            request.add_header("Content-Type", "application/zip")
            request.add_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            return json.loads(self._answer(request, 10 * self.timeout_s))

    def compare(
        self,
        model_id: str,
        other: str | None = None,
        session_id: int | None = None,
        frames: int = 4,
    ) -> Json:
        """Show a model and another, the live one unless named, on the same latest frames."""
        body: Json = {"other": other, "session_id": session_id, "frames": frames}
        return self._post(f"/models/{model_id}/compare", body, 10 * self.timeout_s)

    def recompute(self, session_id: int, model_id: str) -> Json:
        """Have a session computed by one more model in the background."""
        body: Json = {"model_id": model_id}
        return self._post(f"/sessions/{session_id}/reprocess", body)

    def recomputations(self, session_id: int) -> list[Json]:
        """Tell how far a session is computed by each model."""
        return self._get(f"/sessions/{session_id}/reprocess")

    def differences(
        self, session_id: int, first: str, second: str, points: int | None = None
    ) -> Json:
        """Return where two models see a session differently, in no more frames than `points`."""
        query: Json = {"models": f"{first},{second}", "points": points}
        return self._get(f"/sessions/{session_id}/differences", query)

    # The wire

    def _get(
        self, path: str, query: Json | None = None, timeout_s: float | None = None
    ) -> Any:
        return json.loads(self._read(path, query, timeout_s))

    def _read(
        self, path: str, query: Json | None = None, timeout_s: float | None = None
    ) -> bytes:
        return self._answer(self._request(path, query), timeout_s or self.timeout_s)

    def _post(
        self, path: str, body: Json | None = None, timeout_s: float | None = None
    ) -> Any:
        request = self._request(path, data=json.dumps(body or {}).encode())
        request.add_header("Content-Type", "application/json")
        return json.loads(self._answer(request, timeout_s or self.timeout_s))

    def _send_file(
        self, path: str, pixel_size_nm: float | None, page: int, accept: str
    ) -> bytes:
        query = {
            "name": os.path.basename(path),
            "page": page,
            "pixel_size_nm": pixel_size_nm,
        }
        with open(path, "rb") as file:
            request = self._request("/segment", query, cast("bytes", file))
            request.add_header("Content-Type", "application/octet-stream")
            request.add_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            request.add_header("Accept", accept)
            return self._answer(request, 10 * self.timeout_s)

    def _request(
        self, path: str, query: Json | None = None, data: bytes | None = None
    ) -> urllib.request.Request:
        given = {k: v for k, v in (query or {}).items() if v is not None}
        address = f"{self.url}/api/v1{path}"
        if given:
            address += "?" + urllib.parse.urlencode(given)
        headers = {"Authorization": f"Bearer {self._token}"}
        return urllib.request.Request(address, data, headers)

    def _answer(self, request: urllib.request.Request, timeout_s: float) -> bytes:
        try:
            with self._open(request, timeout_s) as response:
                return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _open(self, request: urllib.request.Request, timeout_s: float) -> HTTPResponse:
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _receive(self, sent: HTTPResponse, file: BinaryIO) -> int:
        """Write an answer's body to a file, all of it; return its size in bytes."""
        while True:
            try:
                block = sent.read(_BLOCK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            if not block:
                break
            file.write(block)
        # Read in blocks, a body that ends too early raises nothing by itself.
        size, expected = file.tell(), int(sent.headers.get("Content-Length") or 0)
        if size < expected:
            raise ServerError(
                f"{self.url} broke off after {size} of {expected} bytes; try again"
            )
        return size

    def _unreachable(self, error: Exception) -> ServerError:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, socket.timeout):
            reason = "it did not answer in time"
        return ServerError(f"no EMcopilot server at {self.url}: {reason}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def _refusal(error: urllib.error.HTTPError) -> ServerError:
    with error:
        body = error.read()
    try:
        problem: Json = json.loads(body)
        lines = [f"{problem['title']}: {problem['detail']}"]
    except (ValueError, KeyError, TypeError):
        problem, lines = {}, [f"HTTP {error.code} {error.reason}"]
    lines += [
        f"{key}: {problem[key]}" for key in ("got", "expected", "do") if key in problem
    ]
    return ServerError("; ".join(lines), error.code, problem)


def _server_sent(stream: HTTPResponse) -> Iterator[tuple[int, Json | None]]:
    """Yield (event id, event) of a stream of server-sent events; ids may come alone."""
    event_id, data = 0, ""
    for raw in stream:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("id:"):
            event_id = int(line[3:])
        elif line.startswith("data:"):
            data += line[5:]
        elif not line and event_id:
            yield event_id, json.loads(data) if data else None
            data = ""
