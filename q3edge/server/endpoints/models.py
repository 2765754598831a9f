"""GET /v1/models and /v1/models/NAME: which models there are."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from q3edge.server.models import Known
from q3edge.server.service import Service, service_of


async def list_models(request: Request) -> Response:
    """List the models."""
    service = service_of(request)
    return JSONResponse({"object": "list", "data": [_described(known, service) for known in service.models.all]})


async def get_model(request: Request) -> Response:
    """Describe one."""
    service = service_of(request)
    return JSONResponse(_described(service.models.find(request.path_params["name"]), service))


def _described(known: Known, service: Service) -> dict[str, Any]:
    context = known.config.max_position_embeddings
    if known.kind != "embedding":
        context = service.options.context or context
    return {
        "id": known.name, "object": "model", "created": known.created, "owned_by": "q3edge", "max_model_len": context,
        "kind": known.kind, "loaded": known.model is not None,
    }  # fmt: skip


ROUTES = [Route("/v1/models", list_models), Route("/v1/models/{name:path}", get_model)]
