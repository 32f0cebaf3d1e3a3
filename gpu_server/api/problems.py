"""Every error of the API is an RFC 9457 problem document: what, got, expected, what to do."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from emcopilot.errors import (
    CalibrationError,
    DecodeError,
    EMcopilotError,
    ModelError,
    RefusedError,
    StoreError,
    UnstorableError,
    WireError,
)
from emcopilot.messages import Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

PROBLEM_RESPONSES: dict[int | str, dict[str, object]] = {
    "4XX": {"model": Problem, "description": "A problem document"},
    "5XX": {"model": Problem, "description": "A problem document"},
}
"""For routers: what OpenAPI says of errors."""

# The first class that fits decides, so subclasses come first.
_ERRORS: tuple[tuple[type[EMcopilotError], int, str, str], ...] = (
    (RefusedError, 415, "Not an image to segment", "send one 2-D image, e.g. a TIFF"),
    (DecodeError, 422, "Unreadable image", "check that the file opens elsewhere"),
    (CalibrationError, 422, "Impossible pixel size", "give nm a pixel, positive"),
    (WireError, 400, "Unreadable request", "check the versions of client and server"),
    (UnstorableError, 500, "A value that cannot be stored", "report it with the file"),
    (StoreError, 503, "The store is not available", "see the server's disk and log"),
    (
        ModelError,
        503,
        "The network is not available",
        "try again; see the server's log",
    ),
)


class ProblemError(Exception):
    """A refusal that a route has worded already."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @classmethod
    def not_found(cls, detail: str) -> "ProblemError":
        """Return the refusal for something that is not there."""
        return cls(Problem(title="Not found", status=404, detail=detail))

    @classmethod
    def not_acceptable(cls, asked: str, offered: tuple[str, ...]) -> "ProblemError":
        """Return the refusal for a form that an answer cannot take."""
        return cls(
            Problem(
                title="Not acceptable",
                status=406,
                detail="the answer cannot take the form that the Accept header asks for",
                got=asked,
                expected=", ".join(offered),
            )
        )


def problem_response(
    problem: Problem, headers: dict[str, str] | None = None
) -> Response:
    """Return a problem as an HTTP answer."""
    body = problem.model_dump_json(exclude_none=True)
    return Response(body, problem.status, headers, MEDIA_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(EMcopilotError, _on_own_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(LookupError, _on_unknown)
    app.add_exception_handler(Exception, _on_bug)


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error.problem)


async def _on_own_error(request: Request, error: Exception) -> Response:
    for kind, status, title, remedy in _ERRORS:
        if isinstance(error, kind):
            problem = Problem(title=title, status=status, detail=str(error), do=remedy)
            return problem_response(problem)
    return await _on_bug(request, error)


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    complaints = error.errors()
    first = complaints[0]
    problem = Problem(
        title="Invalid request",
        status=422,
        detail="; ".join(
            f"{'.'.join(str(part) for part in complaint['loc'])}: {complaint['msg']}"
            for complaint in complaints
        ),
        got=repr(first.get("input"))[:200],
        expected=first["msg"],
        do="see /api/v1/openapi.json",
    )
    return problem_response(problem)


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    problem = Problem(title=title, status=error.status_code, detail=str(error.detail))
    return problem_response(problem, dict(error.headers or {}))


async def _on_unknown(request: Request, error: Exception) -> Response:
    # The store raises LookupError itself for what is not there; KeyError and IndexError are bugs.
    if type(error) is not LookupError:
        return await _on_bug(request, error)
    return problem_response(ProblemError.not_found(str(error)).problem)


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("request failed path=%s", request.url.path, exc_info=error)
    problem = Problem(
        title="Internal error",
        status=500,
        detail="the server met an error that it did not expect",
        do="try again; the server's log says more",
    )
    return problem_response(problem)
