"""`make_app`: the ASGI application of a server, from the endpoints and what holds for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import ModuleType

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from q3edge.errors import Q3EdgeError
from q3edge.server.endpoints import (
    chat_completions,
    completions,
    embeddings,
    health,
    metrics,
    models,
    page,
    prefixes,
    rerank,
    responses,
    tokenize,
)
from q3edge.server.errors import ApiError, as_api_error
from q3edge.server.guard import Guard
from q3edge.server.models import Models
from q3edge.server.options import ServerOptions
from q3edge.server.service import Service, record_of

_ENDPOINTS = (
    chat_completions, completions, responses, embeddings, rerank, tokenize, prefixes, models, health, metrics,
    page,
)  # fmt: skip
_OPEN = (health, page)  # need no key: a balancer asks whether it is busy, and the page's files hold nothing of anyone


def make_app(service: Service, lifespan: Lifespan[Starlette] | None = None) -> ASGIApp:
    """Make the application. lifespan: what is done before its first request and behind its last."""
    routes: list[Route] = [route for endpoint in _ENDPOINTS for route in endpoint.ROUTES]
    refused = (ApiError, Q3EdgeError, HTTPException, MemoryError, Exception)  # the last one reaches the guard too
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(refused, _refuse), lifespan=lifespan)
    app.state.service = service
    guarded: ASGIApp = Guard(app, service, _paths(_ENDPOINTS), _paths(_OPEN))
    if service.options.origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=service.options.origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            max_age=600,
        )  # fmt: skip
    return guarded


def hosted_app(options: ServerOptions) -> ASGIApp:
    """Make the application for another ASGI server, which opens the first model as it starts it, and closes all.

    Where it listens is that server's own: `options.host` says from where requests may come, and `port` nothing.
    InputError: a folder is no model.
    """
    service = Service(options, Models(options))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await service.open_first()
        try:
            yield
        finally:
            await service.close()

    return make_app(service, lifespan)


def _paths(endpoints: Iterable[ModuleType]) -> frozenset[str]:
    return frozenset(route.path for endpoint in endpoints for route in endpoint.ROUTES)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):  # of Starlette's own: no such path, or another method
        asked = f"{request.method} {request.url.path[:100]}"
        error = ApiError(error.status_code, f"{asked}: {error.detail.lower()}", headers=error.headers)
    refused = as_api_error(error)
    record_of(request).fail(refused, error)
    return refused.response()
