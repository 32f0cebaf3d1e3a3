"""`GET /sessions/{id}/export`: a session as one zip, streamed."""

import re

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from gpu_server.api.problems import PROBLEM_RESPONSES
from gpu_server.api.results import Id, session
from gpu_server.api.services import ServicesDep
from gpu_server.export import session_zip

router = APIRouter(prefix="/api/v1", tags=["export"], responses=PROBLEM_RESPONSES)


@router.get(
    "/sessions/{session_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}}},
)
def export(services: ServicesDep, session_id: Id) -> StreamingResponse:
    """Return particles (CSV, Parquet), labels, distribution, run.json and a report."""
    described = session(services, session_id)
    plain = (
        re.sub(r"[^A-Za-z0-9._-]+", "_", described.name)[:80].strip("._") or "session"
    )
    pieces = session_zip(
        services.store, described, services.scratch_dir, dict(services.settings)
    )
    name = f"{plain}.emcopilot.zip"
    return StreamingResponse(
        pieces,
        media_type="application/zip",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )
