"""POST /v1/prefixes: save the keys and values of a prompt's beginning in the server's folder; GET: which there are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from q3edge.runtime.generation.request import Request as Generation
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.server.computing import compute
from q3edge.server.errors import about
from q3edge.server.models import WRITING, Lease
from q3edge.server.prompt_fields import PromptFields
from q3edge.server.reading import Reading
from q3edge.server.saved_prefixes import SavedPrefixes
from q3edge.server.service import Service, service_of


class PrefixFields(PromptFields):
    """A request's body; name: what the prefix is found by, and replaced."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]


async def save_prefix(request: Request) -> Response:
    """Save a prefix."""
    return await compute(request, PrefixFields, WRITING, _saved)


async def list_prefixes(request: Request) -> Response:
    """List the prefixes of all models."""
    service = service_of(request)
    data = [
        {"object": "prefix", "model": known.name, "name": name}
        for known in service.models.all
        for name in SavedPrefixes(service.options.prefix_dir, known.name).names()
    ]
    return JSONResponse({"object": "list", "data": data})


async def _saved(fields: PrefixFields, lease: Lease, service: Service) -> dict[str, Any]:
    """Read the prompt as that of any answer, so that it can be left, then write what is cached of it."""
    model, path = lease.model, SavedPrefixes(service.options.prefix_dir, lease.name).path(fields.name)
    ids = await service.in_worker(fields.ids, model, add_generation_prompt=False)
    with about("messages" if fields.prompt is None else "prompt"):
        request = Generation(ids, GenerationSettings(max_new_tokens=1), model.context)
    answers = lease.driver.submit([Reading(model.engine, request)])
    try:
        await answers.completions()
    finally:
        answers.close()
    await service.in_worker(model.save_prefix, path, ids)
    size = path.stat().st_size
    return {"object": "prefix", "model": lease.name, "name": fields.name, "tokens": len(ids), "bytes": size}


ROUTES = [
    Route("/v1/prefixes", save_prefix, methods=["POST"]),
    Route("/v1/prefixes", list_prefixes),
]
