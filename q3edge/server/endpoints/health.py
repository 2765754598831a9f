"""GET /health: whether the server takes requests, for balancers and service managers. Needs no key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from q3edge.server.errors import RETRY_SECONDS
from q3edge.server.service import Service, service_of


async def health(request: Request) -> Response:
    """Answer 200 if it does, 503 while the first model loads, a queue is full, it ends, or once a model has failed."""
    status = _status(service_of(request))
    if status == "ready":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, 503, {"Retry-After": str(RETRY_SECONDS)})


def _status(service: Service) -> str:
    if service.draining:
        return "shutting down"
    if not service.ready:
        return "loading"
    if any(known.driver is not None and known.driver.failed for known in service.models.all):
        return "failed"
    return "full" if service.models.full else "ready"


ROUTES = [Route("/health", health)]
