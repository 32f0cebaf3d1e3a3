"""Is it up, is it ready, and how is it doing: for process managers and Prometheus."""

import shutil

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from emcopilot import __version__
from emcopilot.errors import StoreError
from emcopilot.messages import Health, Readiness
from gpu_server.accounts import last_event
from gpu_server.api.problems import PROBLEM_RESPONSES
from gpu_server.api.services import Services, ServicesDep

router = APIRouter(prefix="/api/v1", tags=["health"], responses=PROBLEM_RESPONSES)
root = APIRouter(tags=["health"], include_in_schema=False)
"""The same under the names that process managers and Prometheus look for by default."""


@root.get("/healthz")
@router.get("/healthz")
async def healthz() -> Health:
    """Say that the process is up; the one answer that needs no token."""
    return Health(status="up", version=__version__)


@root.get("/readyz", responses={503: {"model": Readiness}})
@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Say whether frames can be taken, processed and stored; 503 names what cannot."""
    reasons = {name: probe() for name, probe in services.probes.items()}
    reasons["store"] = _store_problem(services)
    reasons["disk"] = _disk_problem(services)
    ready = not any(reasons.values())
    if not ready:
        response.status_code = 503
    return Readiness(
        ready=ready, parts={name: why or "ok" for name, why in reasons.items()}
    )


@root.get("/metrics", response_class=Response)
@router.get("/metrics", response_class=Response)
def metrics(services: ServicesDep) -> Response:
    """Return the figures of this server in Prometheus' text form."""
    return Response(generate_latest(services.metrics), media_type=CONTENT_TYPE_LATEST)


def _store_problem(services: Services) -> str | None:
    try:
        with services.store.read() as connection:
            last_event(connection)
    except StoreError as error:
        return str(error)
    return None


def _disk_problem(services: Services) -> str | None:
    free = shutil.disk_usage(services.store.data_dir).free
    if free >= services.disk_reserve_bytes:
        return None
    return (
        f"{free >> 20} MiB free, {services.disk_reserve_bytes >> 20} MiB are kept back"
    )
